"""A provider's batch API: files of requests, batches of them, files of replies. One attempt each, no waiting here.

Bodies are read by us, as those of chat completions are: a server leaves out what the SDK's types have, or adds to it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cyclealign.files.printable import one_line
from cyclealign.judge.call import Body
from cyclealign.judge.chat import error_of
from cyclealign.judge.client import Answer, Client, attempted
from cyclealign.judge.failures import Failure

URL: Final = "/v1/chat/completions"
MARK = "cyclealign"  # the key of a batch's metadata under which its name stands
GONE = "gone"  # our word for one that the provider does not know any more
ENDED = ("completed", "failed", "expired", "cancelled", GONE)
LOST = ("batch_expired", "batch_cancelled", "batch_canceled")
PAGE, PAGES = 100, 100  # batches of an account that are looked at, newest first
DIGITS = 19  # of a row's number, at most
EARLIER = 24 * 3600.0  # seconds by which a provider's clock may be behind ours


@dataclass(frozen=True, slots=True, kw_only=True)
class Remote:
    """A batch as the provider has it. output, errors: ids of its files. why: of one that was refused whole."""

    id: str
    status: str
    answered: int = 0
    output: str | None = None
    errors: str | None = None
    why: str = ""
    code: str = ""

    @property
    def over(self) -> bool:
        return self.status in ENDED


class BatchClient:
    """Belongs to one event loop. deadline: seconds of one request."""

    def __init__(self, client: Client, deadline: float) -> None:
        self._client = client
        self._deadline = deadline

    async def upload(self, name: str, requests: bytes) -> str | Failure:
        """The id of a file of requests."""
        file = (f"{name}.jsonl", requests, "application/jsonl")
        files = self._client.sdk.files.with_raw_response
        sent = await attempted(files.create(file=file, purpose="batch", timeout=self._deadline), self._deadline)
        return sent if isinstance(sent, Failure) else _id(_parsed(sent.body)) or _odd(sent)

    async def create(self, name: str, file: str) -> Remote | Failure:
        batches = self._client.sdk.batches.with_raw_response
        request = batches.create(
            completion_window="24h",
            endpoint=URL,
            input_file_id=file,
            metadata={MARK: name},
            extra_headers={"Idempotency-Key": name},  # for who minds it: one batch, however often it is asked for
            timeout=self._deadline,
        )
        return _remote(await attempted(request, self._deadline))

    async def look(self, remote: str) -> Remote | Failure:
        batches = self._client.sdk.batches.with_raw_response
        return _remote(await attempted(batches.retrieve(remote, timeout=self._deadline), self._deadline))

    async def cancel(self, remote: str) -> Remote | Failure:
        batches = self._client.sdk.batches.with_raw_response
        return _remote(await attempted(batches.cancel(remote, timeout=self._deadline), self._deadline))

    async def find(self, name: str, file: str, made_at: float) -> Remote | Failure | None:
        """The batch of that name, or of that file of requests; None: the provider has none.

        made_at: when we made it, in seconds since the epoch; what is older is not looked at.
        """
        batches = self._client.sdk.batches.with_raw_response
        after: Body = {}
        for _ in range(PAGES):
            sent = await attempted(batches.list(limit=PAGE, timeout=self._deadline, **after), self._deadline)
            if isinstance(sent, Failure):
                return sent
            page = _parsed(sent.body).get("data")
            listed = [b for b in page if isinstance(b, dict)] if isinstance(page, list) else []
            for found in listed:
                marks = found.get("metadata")
                if found.get("input_file_id") == file or (isinstance(marks, dict) and marks.get(MARK) == name):
                    return _remote(Answer(200, json.dumps(found)))
            older = [b for b in listed if isinstance(b.get("created_at"), int) and b["created_at"] < made_at - EARLIER]
            if len(listed) < PAGE or older or not _id(listed[-1]):
                return None
            after = {"after": _id(listed[-1])}
        return None

    async def lines(self, file: str) -> str | Failure:
        """The text of a file of replies."""
        files = self._client.sdk.files.with_raw_response
        sent = await attempted(files.content(file, timeout=self._deadline), self._deadline)
        return sent if isinstance(sent, Failure) else sent.body


def request_lines(rows: Sequence[int], bodies: Sequence[str]) -> bytes:
    """A file of requests, each under the number of its row on the ledger."""
    start = '{"custom_id": "%d", "method": "POST", "url": "' + URL + '", "body": '
    return "".join(f"{start % row}{body}}}\n" for row, body in zip(rows, bodies, strict=True)).encode()


def read_lines(text: str) -> Iterator[tuple[int, Answer | Failure]]:
    """Replies and failures of a file by the rows of their calls; what is no such line is left out."""
    for line in text.split("\n"):
        entry = _parsed(line)
        row = _text(entry.get("custom_id")) or ""
        found = _outcome(entry) if row.isascii() and row.isdigit() and len(row) <= DIGITS else None
        if found is not None:
            yield int(row), found


def _outcome(entry: Body) -> Answer | Failure | None:
    response, error = entry.get("response"), entry.get("error")
    status = response.get("status_code") if isinstance(response, dict) else None
    body = response.get("body") if isinstance(response, dict) else None
    if isinstance(status, int) and 200 <= status < 300 and body is not None:
        return Answer(status, body if isinstance(body, str) else json.dumps(body))
    if isinstance(status, int) and status >= 400:
        said, code = error_of(body if body else error)
        return Failure(detail=f"HTTP {status}: {one_line(said)}", status=status, code=one_line(code, 100))
    if not error:
        return None
    said, code = error_of({"error": error})
    lost = any(word in code for word in LOST)
    return Failure(detail=f"in a batch: {one_line(said or code)}", code=one_line(code, 100), lost=lost)


def _remote(sent: Answer | Failure) -> Remote | Failure:
    if isinstance(sent, Failure):
        return sent
    body = _parsed(sent.body)
    name, status = _id(body), _text(body.get("status"))
    if not name or not status:
        return _odd(sent)
    counts, errors = body.get("request_counts"), body.get("errors")
    done = [counts.get(n) for n in ("completed", "failed")] if isinstance(counts, dict) else []
    listed = errors.get("data") if isinstance(errors, dict) else None
    said = [error_of(e) for e in listed if isinstance(e, dict)] if isinstance(listed, list) else []
    return Remote(
        id=name,
        status=status.lower(),
        answered=sum(n for n in done if type(n) is int and n > 0),
        output=_text(body.get("output_file_id")),
        errors=_text(body.get("error_file_id")),
        why=one_line("; ".join(dict.fromkeys(text for text, _ in said if text))),
        code=one_line(" ".join(dict.fromkeys(code for _, code in said)), 100),
    )


def _odd(sent: Answer) -> Failure:
    return Failure(detail=f"it answers with no batch: {one_line(sent.body) or 'nothing'}", status=sent.status, reply="")


def _parsed(text: str) -> Body:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _id(body: Body) -> str | None:
    return _text(body.get("id"))


def _text(value: Any) -> str | None:
    """An id or a status, which goes onto the ledger; None for what no provider would mean as one."""
    return value if isinstance(value, str) and value and value.isprintable() else None
