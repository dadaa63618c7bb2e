"""Fuzz target: our own files as something else left them: a run's records, verdicts, results, the ledger and its spill.

Each is read, or refused in one line. A record is the same once it is written and read again; an order names each
candidate once.
"""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

from fuzzing import Broken, closed, folder, opened

from cyclealign.distill.summaries import CPRDSummary, IDCMStage, LeafSummary, QuantiDCEStage
from cyclealign.evaluation.responses import ResponseRecord
from cyclealign.evaluation.result import read_result, write_result
from cyclealign.files.began import Began, Lines
from cyclealign.files.environment import Environment
from cyclealign.files.jsonl import Appender, read_jsonl
from cyclealign.files.records import encode, read_record, read_records, write_record, write_records
from cyclealign.files.run_dir import RunDir
from cyclealign.files.run_figures import CascadeFit, Metrics, Summary, TrainRow
from cyclealign.files.run_records import (
    PromptRecord,
    SetRecord,
    VerdictRecord,
    read_sets,
    read_verdicts,
    verdict_record,
)
from cyclealign.files.run_state import Canary, Kept, StaticUsed, TemplateUsed, Timing, Versions
from cyclealign.judge.ledger import Ledger
from cyclealign.rankers.agreement import Agreement
from cyclealign.rankers.verdict_file import MadeBy
from cyclealign.scores.sidecar import Sidecar
from cyclealign.types import Candidate, Cascaded, Prompt, Ranking, Unranked, UserError

WHOLE: tuple[Any, ...] = (
    Began, Environment, Summary, Metrics, CascadeFit, Canary, Kept, Versions, MadeBy, Sidecar, CPRDSummary, LeafSummary,
    QuantiDCEStage, IDCMStage,
)  # fmt: skip
LINES: tuple[Any, ...] = (PromptRecord, SetRecord, VerdictRecord, TrainRow, Timing, Agreement, ResponseRecord)


def target(data: bytes) -> None:
    """Choice: the kind of file; options: of the ledger, whether it is read only."""
    given = opened(data)
    kind = given.choice % (len(WHOLE) + len(LINES) + 8)
    with folder() as made:
        path = made / "file.jsonl"
        path.write_bytes(given.body)
        try:
            _read(kind, path, bool(given.options & 1))
        except UserError as error:
            if not str(error).strip() or len(str(error)) > 5000:
                raise Broken(f"a message of {len(str(error))} characters") from error


def _read(kind: int, path: Path, option: bool) -> None:
    if kind < len(WHOLE):
        _check_whole(WHOLE[kind], path)
        return
    kind -= len(WHOLE)
    if kind < len(LINES):
        _check_lines(LINES[kind], path)
        return
    ways = (_verdicts, _sets, _result, _state, _appended, _ledger, _spill, _values)
    ways[kind - len(LINES)](path, option)


def _check_whole(kind: Any, path: Path) -> None:
    found = read_record(kind, path)
    write_record(path, found, durable=False)
    if repr(read_record(kind, path)) != repr(found):
        raise Broken("a record is another one once it is written and read")


def _check_lines(kind: Any, path: Path) -> None:
    found = list(read_records(kind, path))
    write_records(path, found)
    if repr(list(read_records(kind, path))) != repr(found):
        raise Broken("records are others once they are written and read")


def _verdicts(path: Path, _: bool) -> None:
    for verdict in read_verdicts(path).values():
        if isinstance(verdict, Ranking) and not 0 < len(verdict.order) == len(set(verdict.order)):
            raise Broken(f"{verdict.tiers} is no order")


def _sets(path: Path, _: bool) -> None:
    for item in read_sets(path).values():
        if len(set(item.ids)) < len(item.ids):
            raise Broken("two candidates of one id")
        str((item.id, item.prompt.id))


def _result(path: Path, _: bool) -> None:
    found = read_result(path)
    write_result(path, found)
    if repr(read_result(path)) != repr(found):
        raise Broken("a result is another one once it is written and read")


def _state(path: Path, option: bool) -> None:
    run = RunDir(path.parent)
    file = run.state_file if option else run.kept_file
    file.parent.mkdir(parents=True, exist_ok=True)
    path.rename(file)
    run.state()
    run.kept()


def _appended(path: Path, _: bool) -> None:
    """After a damaged end the next record is whole, whatever stood there."""
    before = path.read_bytes()
    try:
        known = list(read_jsonl(path))
    except UserError:
        return
    with Appender(path) as file:
        file.add({"a": 1})
    if list(read_jsonl(path)) != [*known, {"a": 1}] and "nan" not in repr(known):
        raise Broken(f"an appended record is lost, or takes another with it: {before[-80:]!r}")


def _ledger(path: Path, option: bool) -> None:
    with Ledger(path, read_only=option) as ledger:
        ledger.spend_by_stage()
        ledger.fact("a")


def _spill(path: Path, _: bool) -> None:
    """What a ledger's spill file says is written, or left out; a reply that comes after it is never lost."""
    file = path.with_name("l.sqlite")
    file.write_bytes(_empty_ledger())
    path.rename(file.with_name("l.sqlite.spill.jsonl"))
    with Ledger(file) as ledger:
        ledger.set_fact("a", "b")
        ledger.received(1, reply="a reply", http_status=200)
    with sqlite3.connect(file) as db:
        (reply,) = db.execute("SELECT reply FROM calls WHERE id = 1").fetchone()
    db.close()
    if reply != "a reply":
        raise Broken("a reply was not written")


_LEDGER: list[bytes] = []


def _empty_ledger() -> bytes:
    """A ledger's file with one open call."""
    if not _LEDGER:
        with folder() as made:
            file = made / "l.sqlite"
            Ledger(file).close()
            db = sqlite3.connect(file)
            columns = "id, endpoint, key, attempt, model, purpose, prompt_id, pass, form, options, state, started_at"
            db.execute(
                f"INSERT INTO calls ({columns}, reserved_usd) VALUES"
                " (1, 'e', 'k', 1, 'm', 'rank', 'p', 0, 'text', '{}', 'started', 0.0, 0.5)"
            )
            db.commit()
            db.close()
            _LEDGER.append(file.read_bytes())
    return _LEDGER[0]


def _values(path: Path, _: bool) -> None:
    list(read_jsonl(path))


def seeds() -> list[bytes]:
    chat = ({"role": "user", "content": "a"},)
    answers = (Candidate("0", "b"), Candidate("1", "c", "length"))
    cascade = Cascaded(kept=("0", "1"), scores={"0": 0.5, "1": -1.0})
    ranking = Ranking.from_order("p", ("1", "0"), votes={"0": 0.0, "1": 1.0}, confidence=1.0, cascade=cascade)
    whole: dict[type, object] = {
        Began: Began(what="run", config="name: a\n", files={"prompts/train.jsonl": Lines(count=1, sha256="0" * 64)}),
        Canary: Canary(gap=0.01, limit=0.1, version="r-v0001"),
        Kept: Kept(trained=1, of=2, why="w", stopped=None, start_model="m"),
        Versions: Versions(
            demonstrations=StaticUsed(source="builtin:rank", version="v", count=2),
            template=TemplateUsed(source="rank", version="v"),
        ),
        MadeBy: MadeBy(input="i", ranker="r", seed=1, settings="s"),
    }
    lines: dict[type, object] = {
        PromptRecord: PromptRecord(prompt_id="p", messages=chat, chosen="b", rejected="c"),  # type: ignore[arg-type]
        SetRecord: SetRecord(prompt_id="p", messages=chat, candidates=answers, drawn=2),  # type: ignore[arg-type]
        Agreement: Agreement(prompt_id="p", ids=("0",), length=1, k=2, corrected=0.0, settled=False),
        Timing: Timing(stage="train", interaction=0, seconds=1.5),
    }
    found = [
        closed(WHOLE.index(kind), json.dumps({"format": kind.FORMAT, **encode(record)}))  # type: ignore[attr-defined]
        for kind, record in whole.items()
    ]
    base = len(WHOLE)
    found += [closed(base + LINES.index(kind), _line(encode(record))) for kind, record in lines.items()]
    verdicts = _line(verdict_record(ranking)) + _line(verdict_record(Unranked(Prompt(()).id, "refusal", "no")))
    sets = _line(encode(lines[SetRecord]))
    ways = base + len(LINES)
    found += [closed(base + LINES.index(VerdictRecord), verdicts), closed(ways, verdicts), closed(ways + 1, sets)]
    found += [closed(ways + 4, text) for text in (verdicts, verdicts[:-9], verdicts + "\0\0", "1\n{}\n[", "\n\n")]
    figures = {"a": {"value": 1, "low": 0, "high": 1, "n": 1}}
    state = {"stage": "train", "launch": "l", "pid": 1, "at": 0.5, "judge": "local", "values": {}}
    found += [closed(ways + 2, _line({"format": 1, "eval": "ranker", "metrics": figures, "items": [{"key": "k"}]}))]
    found += [closed(ways + 3, _line({"format": 1, **state}), 1)]
    found += [closed(ways + 5, b"SQLite format 3\0" + bytes(84)), closed(ways + 5, "", 1)]
    spilled = {"row": 1, "columns": {"state": "done", "reply": "r", "usd": 0.25, "http_status": 200}}
    found += [closed(ways + 6, _line(spilled)), closed(ways + 6, '{"row": 1, "columns": {"no_such": 1}}\n')]
    return found


def _line(record: Any) -> str:
    return json.dumps(record) + "\n"
