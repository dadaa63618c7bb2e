"""The loopback server with OpenAI's files and batches: each look at a batch moves it on by one status.

It checks what the provider checks of a file, answers its lines as it would answer the same requests one by one, and
keeps what it bills: half for what came in a batch.
"""

from __future__ import annotations

import email
import email.policy
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

from loopback import Body, Fault, Loopback, _Handler

STEPS = ("validating", "in_progress", "finalizing", "completed")
ENDED = ("completed", "failed", "expired", "cancelled")


@dataclass(frozen=True, kw_only=True)
class Fate:
    """How a batch ends: its last status, after so many of its lines (None: all), and why it is refused whole."""

    status: str = "completed"
    answered: int | None = None
    error: tuple[str, str] = ("invalid_file", "the file is no good")


@dataclass
class BatchServer(Loopback):
    """fate: of a batch by its number, from 0. most_requests: of a file. most_tokens: words of all batches that wait at
    one time. serves: whether there is such an API at all. drops: of upload, create, look and lines, those whose first
    answer never arrives. batches, files: as the API gives them, by id. bill: prompt and completion tokens, and the
    share of the price, of every answer.
    """

    fate: Callable[[int], Fate] = lambda _: Fate()
    most_requests: int = 50_000
    most_tokens: int = 10**9
    serves: bool = True
    drops: set[str] = field(default_factory=set)
    files: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    batches: dict[str, dict[str, Any]] = field(default_factory=dict)
    bill: list[tuple[int, int, float]] = field(default_factory=list)
    batched: list[Body] = field(default_factory=list)
    turn: threading.RLock = field(default_factory=threading.RLock)  # ids are counted: one request at a time

    def handler(self) -> type[_Handler]:
        return _BatchHandler

    def usd(self, given: float, made: float) -> float:
        """All that it bills, at prices per million tokens."""
        return sum(share * (i * given + o * made) for i, o, share in self.bill) / 1e6

    def response(self, number: int, body: Body, share: float = 1.0) -> Fault:
        found = super().response(number, body)
        if found.status == 200 and found.body is not None and "usage" in found.body:
            usage = json.loads(found.body)["usage"]
            self.bill.append((usage["prompt_tokens"], usage["completion_tokens"], share))
        return found

    # The API ---------------------------------------------------------------------------------------------------

    def upload(self, kind: str, data: bytes) -> Fault:
        parts = email.message_from_bytes(
            b"Content-Type: " + kind.encode() + b"\r\n\r\n" + data, policy=email.policy.HTTP
        )
        fields = {p.get_param("name", header="content-disposition"): p for p in parts.iter_parts()}  # type: ignore[attr-defined]
        assert fields["purpose"].get_payload(decode=True) == b"batch"
        file = f"file-{len(self.files)}"
        self.files[file] = (fields["file"].get_filename(), fields["file"].get_payload(decode=True))
        return _json({"id": file, "object": "file", "purpose": "batch", "filename": self.files[file][0]})

    def create(self, asked: Body) -> Fault:
        assert (asked["endpoint"], asked["completion_window"]) == ("/v1/chat/completions", "24h")
        number = len(self.batches)
        batch: dict[str, Any] = {
            "id": f"batch_{number}",
            "object": "batch",
            "status": "validating",
            "created_at": int(time.time()),
            "input_file_id": asked["input_file_id"],
            "metadata": asked.get("metadata"),
            "request_counts": {"total": 0, "completed": 0, "failed": 0},
        }
        self.batches[batch["id"]] = batch
        return _json(batch)

    def listed(self, query: dict[str, list[str]]) -> Fault:
        newest = list(self.batches.values())[::-1]
        after = query.get("after", [""])[0]
        first = next((n + 1 for n, b in enumerate(newest) if b["id"] == after), 0)
        page = newest[first : first + int(query.get("limit", ["20"])[0])]
        return _json({"object": "list", "data": page, "has_more": first + len(page) < len(newest)})

    def moved(self, name: str) -> Fault:
        """A batch after one more step."""
        batch = self.batches.get(name)
        if batch is None:
            return Fault(status=404, body='{"error": {"message": "no such batch"}}')
        fate = self.fate(int(name.removeprefix("batch_")))
        refused = self.refusal(batch, fate) if batch["status"] == "validating" else None
        if refused is not None:
            batch |= {"status": "failed", "errors": {"object": "list", "data": [refused]}}
        elif batch["status"] == "cancelling":
            self.finish(batch, Fate(status="cancelled", answered=fate.answered or 0))
        elif batch["status"] == "finalizing":
            self.finish(batch, fate)
        elif batch["status"] not in ENDED:
            batch["status"] = STEPS[STEPS.index(batch["status"]) + 1]
        return _json(batch)

    def cancel(self, name: str) -> Fault:
        batch = self.batches[name]
        if batch["status"] in ENDED:
            return Fault(status=409, body='{"error": {"message": "it has ended"}}')
        batch["status"] = "cancelling"
        return _json(batch)

    def refusal(self, batch: dict[str, Any], fate: Fate) -> dict[str, str] | None:
        if fate.status == "failed":
            return {"code": fate.error[0], "message": fate.error[1]}
        lines = list(self.lines(batch))
        if not 0 < len(lines) <= self.most_requests or len({e["custom_id"] for e in lines}) < len(lines):
            return {"code": "invalid_file", "message": f"{len(lines)} requests"}
        if any((e["method"], e["url"]) != ("POST", "/v1/chat/completions") for e in lines):
            return {"code": "invalid_url", "message": "another endpoint"}
        waiting = [b for b in self.batches.values() if b["status"] not in ENDED]
        if sum(_words(e["body"]) for b in waiting for e in self.lines(b)) > self.most_tokens:
            return {"code": "token_limit_exceeded", "message": "Enqueued token limit reached"}
        return None

    def lines(self, batch: dict[str, Any]) -> Iterator[dict[str, Any]]:
        return map(json.loads, self.files[batch["input_file_id"]][1].decode().splitlines())

    def finish(self, batch: dict[str, Any], fate: Fate) -> None:
        lines = list(self.lines(batch))
        done = len(lines) if fate.answered is None else fate.answered
        found = [self.answered(entry) for entry in lines[:done]]
        code = f"batch_{fate.status}"
        late = [_line(e, None, {"code": code, "message": "This request could not be executed."}) for e in lines[done:]]
        good = [line for line in found if line["error"] is None and line["response"]["status_code"] == 200]
        bad = [line for line in found if line not in good] + late
        batch["status"] = fate.status
        batch["request_counts"] = {"total": len(lines), "completed": len(good), "failed": len(bad)}
        for name, kept in (("output_file_id", good[::-1]), ("error_file_id", bad)):  # in no order of ours
            if kept:
                batch[name] = f"file-{len(self.files)}"
                self.files[batch[name]] = (name, "".join(json.dumps(line) + "\n" for line in kept).encode())

    def answered(self, entry: dict[str, Any]) -> dict[str, Any]:
        body = entry["body"]
        number = self.arrive(body, {})
        self.batched.append(body)
        given = self.response(number, body, share=0.5)
        self.leave(body)
        if given.drop:
            return _line(entry, None, {"code": "server_error", "message": "it broke off"})
        return _line(
            entry, {"status_code": given.status, "request_id": "r", "body": json.loads(given.body or "{}")}, None
        )


def _line(entry: dict[str, Any], response: Any, error: Any) -> dict[str, Any]:
    return {"id": f"r-{entry['custom_id']}", "custom_id": entry["custom_id"], "response": response, "error": error}


def _json(body: Any) -> Fault:
    return Fault(body=json.dumps(body))


def _words(body: Body) -> int:
    return sum(len(m["content"].split()) for m in body["messages"])


class _BatchHandler(_Handler):
    server_of: BatchServer

    def do_GET(self) -> None:  # noqa: N802  http.server's name
        server, where = self.server_of, urlsplit(self.path)
        parts = where.path.removeprefix("/v1/").split("/")
        with server.lock:
            server.paths.append(f"GET {where.path}")
        if parts[0] == "files" and server.serves and parts[1] in server.files:
            self._say("lines", Fault(data=server.files[parts[1]][1]))
        elif parts[0] == "batches" and server.serves:
            with server.turn:
                found = server.moved(parts[1]) if len(parts) > 1 else server.listed(parse_qs(where.query))
            self._say("look", found)
        else:
            self._send(Fault(status=404, body='{"error": {"message": "no such path"}}'))

    def do_POST(self) -> None:  # noqa: N802  http.server's name
        server, parts = self.server_of, self.path.removeprefix("/v1/").split("/")
        if parts[0] not in ("files", "batches"):
            super().do_POST()
            return
        data = self.rfile.read(int(self.headers["Content-Length"]))
        with server.lock:
            server.paths.append(f"POST {self.path}")
        if not server.serves:
            self._send(Fault(status=404, body='{"error": {"message": "no such path"}}'))
        elif parts[0] == "files":
            with server.turn:
                made = server.upload(self.headers["Content-Type"], data)
            self._say("upload", made)
        else:
            with server.turn:
                made = server.cancel(parts[1]) if len(parts) > 1 else server.create(json.loads(data))
            self._say("create", made)

    def _say(self, what: str, given: Fault) -> None:
        """The answer; or nothing, although what was asked is done."""
        with self.server_of.lock:
            dropped = what in self.server_of.drops
            self.server_of.drops.discard(what)
        self._send(Fault(drop=True) if dropped else given)
