"""Where a run stands, read from its directory alone: safe beside a live run, and quick (no torch)."""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass
from pathlib import Path

from cyclealign.evaluation.consistency import consistency_text, recorded_consistency
from cyclealign.files.records import read_records
from cyclealign.files.run_dir import RunDir
from cyclealign.files.run_state import State, Timing
from cyclealign.judge.call import Spend
from cyclealign.judge.ledger import Ledger
from cyclealign.judge.ledger_batches import Batch
from cyclealign.rankers.agreement import Agreement
from cyclealign.reporting.first_judge import first_judge_text
from cyclealign.reporting.jury import jury_lines
from cyclealign.reporting.settings import read_settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """``spend``: of the judge; ``measured``: the part of it that went into measuring it; ``watching``: of the witness.
    ``seconds``: in finished stages. ``quiet``: seconds since the state file last changed. ``done`` of ``total``, in
    ``unit``: of the present stage, None where nothing tells. ``batches``: of the judge, under way. ``planned``: most
    interactions of the run; fewer are needed where prompts settle. ``consistency``: how far the judge agrees with
    itself, empty where no list was shown in both orders. ``judges``: a line for each of several. ``first_judge``: of a
    cascade; empty where there is none. ``lists``: how many were taken from elsewhere, empty where the run samples its
    own.
    """

    stage: str
    alive: bool
    interaction: int | None
    active: int
    candidates: int
    ranked: int
    prompts: int
    settled: int
    trained: int
    spend: Spend | None
    measured: Spend
    batches: tuple[Batch, ...]
    budget_usd: float | None
    watching: Spend
    watching_budget_usd: float | None
    seconds: float
    quiet: float
    stopped: str | None
    done: int | None
    total: int | None
    unit: str
    planned: int
    consistency: str
    judges: tuple[str, ...] = ()
    first_judge: str = ""
    lists: str = ""


def read_status(run: RunDir) -> Status:
    """A snapshot; files that are not there yet count as empty."""
    state = run.state()
    interactions = run.interactions()
    last = interactions[-1] if interactions else None
    settled = {a.prompt_id for i in interactions for a in read_records(Agreement, i.agreement) if a.settled}
    settings = read_settings(run)
    done, total, unit = (None, None, "") if state is None else _stage_progress(run, state)
    prompts, taken = _lines(run.prompts / "train.jsonl"), run.lists()
    paid = state is not None and state.judge == "openai"
    spend, measured, watching, batches = _spend(run)
    return Status(
        stage="not begun" if state is None else state.stage,
        alive=state is not None and state.ended is None and state.stage != "finished" and _alive(state.pid),
        interaction=None if state is None else state.interaction,
        active=0 if state is None else state.prompts or 0,
        candidates=_lines(last.candidates) if last else 0,
        ranked=_lines(last.black_box) if last else 0,
        prompts=prompts,
        settled=len(settled),
        trained=sum(i.trained for i in interactions),
        spend=spend if paid else None,
        measured=measured,
        batches=batches,
        budget_usd=settings.budget_usd,
        watching=watching,
        watching_budget_usd=settings.witness_budget_usd,
        seconds=sum(row.seconds for row in read_records(Timing, run.timings)),
        quiet=0.0 if state is None else max(time.time() - state.at, 0.0),
        stopped=None if state is None else state.stopped,
        done=done,
        total=total,
        unit=unit,
        consistency=judge_text(run),
        judges=tuple(jury_lines(run)),
        first_judge=first_judge_text(run) if paid else "",
        planned=1 if taken else math.ceil(prompts / (settings.batch_size or 1)) * (settings.max_interactions or 1),
        lists=f"{taken.trained} to train on, {taken.held_out} held out" if taken else "",
    )


def judge_text(run: RunDir) -> str:
    """How far the judge agrees with itself, in figures and words; empty where no list was shown in both orders."""
    found = recorded_consistency(i.black_box for i in run.interactions())
    return "" if found is None else consistency_text(found)


def _stage_progress(run: RunDir, state: State) -> tuple[int | None, int | None, str]:
    """How much of the present stage is done, of how much: ranked prompts, sampled or scored evaluations, steps."""
    stage, index = state.stage, state.interaction
    if index is not None and stage == "generate_and_rank":
        return _lines(run.interaction(index).black_box), state.prompts or 0, "ranked"
    if index is not None and stage == "evaluate" and state.done is None:
        return _lines(run.evaluation(index) / "candidates.jsonl"), _lines(run.prompts / "eval.jsonl"), "sampled"
    return state.done, state.of, state.unit or ("steps" if stage == "train" else "")


def status_lines(status: Status) -> list[str]:
    """For people: one fact a line."""
    running = "running" if status.alive else "not running"
    lines = [f"stage: {status.stage} ({running}, last change {duration(status.quiet)} ago)"]
    if status.stopped:
        lines.append(f"stopped early: {status.stopped}")
    if status.lists:
        lines.append(f"lists: {status.lists}")
    elif status.active and status.stage != "finished":
        lines.append(
            f"interaction: {status.interaction}, {status.active} prompts, {status.candidates} with candidates,"
            f" {status.ranked} ranked"
        )
    lines += [
        f"trained: {status.trained} interactions",
        *([] if status.lists else [f"settled: {status.settled} of {status.prompts} prompts"]),
        f"time: {duration(status.seconds)} in finished stages",
    ]
    if status.spend is not None:
        measured = f", {status.measured.calls} of them to measure it" if status.measured.calls else ""
        lines.append(f"spent: {money(status)}, {status.spend.calls} calls ({status.spend.failed} failed){measured}")
        if status.spend.input_tokens or status.spend.output_tokens:
            lines.append(f"used: {tokens(status.spend)}")
    if status.watching.calls:
        paid = dollars(status.watching, status.watching_budget_usd)
        lines.append(f"witness: {paid}, {status.watching.calls} calls ({status.watching.failed} failed)")
    lines += [f"batch: {batch_text(batch)}" for batch in status.batches]
    if status.consistency:
        lines.append(f"judge: {status.consistency}")
    lines += status.judges
    if status.first_judge:
        lines.append(f"first judge: {status.first_judge}")
    return lines


def batch_text(batch: Batch) -> str:
    """``batch_abc in_progress, 340 of 700 answered, made 2 h 7 min ago``; our own name before the provider has one."""
    made = duration(max(time.time() - batch.made_at, 0.0))
    where = batch.remote or f"{batch.name} (not sent yet)"
    return f"{where} {batch.status}, {batch.answered:,} of {batch.requests:,} answered, made {made} ago"


def tokens(spend: Spend) -> str:
    """``1,200 tokens in (75% cached), 340 out (81% thinking)``; what a server does not count is left out."""
    cached = f" ({spend.cached_tokens / spend.input_tokens:.0%} cached)" if spend.cached_tokens else ""
    thought = f" ({spend.thinking_tokens / spend.output_tokens:.0%} thinking)" if spend.thinking_tokens else ""
    return f"{spend.input_tokens:,} tokens in{cached}, {spend.output_tokens:,} out{thought}"


def money(status: Status) -> str:
    """What the judge has taken, as ``dollars`` has it."""
    return dollars(status.spend or Spend(), status.budget_usd)


def dollars(spend: Spend, budget_usd: float | None) -> str:
    """``$0.0123 of $5.00``; cents are split where the budget is small."""
    spent = f"${spend.usd:.4f}"
    if budget_usd is None:
        return spent
    return f"{spent} of ${budget_usd:.{2 if budget_usd >= 1 else 4}f}"


def duration(seconds: float) -> str:
    """``42 s``, ``3 min 5 s``, ``2 h 7 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _lines(path: Path) -> int:
    if not path.exists():
        return 0
    with path.open("rb") as file:
        return sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(2**20), b""))


def _spend(run: RunDir) -> tuple[Spend, Spend, Spend, tuple[Batch, ...]]:
    """What the black box took, the part of it that only measured it, what the witness took, and batches under way."""
    if not run.ledger.exists():
        return Spend(), Spend(), Spend(), ()
    with Ledger(run.ledger, read_only=True) as ledger:
        measured = ledger.spend_by("purpose").get("eval", Spend())
        return ledger.spend("judge"), measured, ledger.spend("witness"), tuple(ledger.batches.under_way())


def _alive(pid: int) -> bool:
    """Whether a process of that id lives on this machine; another machine's run reads as not running."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        return False
    return True
