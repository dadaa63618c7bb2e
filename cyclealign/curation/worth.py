"""``demos eval``: what a set is worth to a judge, whole and by each demonstration, on labelled pairs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from cyclealign.curation.accuracy import accuracy_of, gain
from cyclealign.curation.asking import Judge, Outcome, Question
from cyclealign.curation.metering import MeteredLedger
from cyclealign.files.jsonl import read_json
from cyclealign.judge.demonstrations import DemonstrationPool
from cyclealign.types import CandidateSet, Demonstration, UserError


@dataclass(frozen=True)
class Arm:
    """One way of showing demonstrations; the pool selects as it would in a run."""

    name: str
    pool: DemonstrationPool

    def questions(self, pairs: Sequence[CandidateSet]) -> list[Question]:
        return [Question(pair, self.pool.select(pair.prompt)) for pair in pairs]


def arms_of(pool: DemonstrationPool, *, leave_one_out: bool) -> list[Arm]:
    """none, static, static+dynamic (where the pool has dynamic ones), and the last without each demonstration.

    Static demonstrations that do not fit the token budget are in no arm, as in a run. Where a dynamic one is left out,
    the next that fits takes its place, as in a run.
    """
    shown = replace(pool, static=pool.static_shown)
    arms = [Arm("none", replace(shown, static=(), dynamic=()))]
    if shown.static:
        arms.append(Arm("static", replace(shown, dynamic=())))
    if shown.dynamic:
        arms.append(Arm("static+dynamic", shown))
    return [*arms, *(_left_out(shown) if leave_one_out else ())]


def _left_out(shown: DemonstrationPool) -> Iterator[Arm]:
    for demo in (*shown.static, *shown.dynamic):
        rest = partial(_without, demo=demo)
        yield Arm(f"without {demo.id}", replace(shown, static=rest(shown.static), dynamic=rest(shown.dynamic)))


def _without(demos: Sequence[Demonstration], demo: Demonstration) -> tuple[Demonstration, ...]:
    return tuple(d for d in demos if d.id != demo.id)


def evaluate(arms: Sequence[Arm], pairs: Sequence[CandidateSet], judge: Judge, ledger: MeteredLedger) -> dict[str, Any]:
    """Ask the judge about every pair in every arm; figures and per-item records, JSON-able.

    ``arms``: accuracy with its interval, and what its calls take (paid now or before). ``differences``: each arm
    against ``none``. ``leave_one_out``: accuracy of the whole minus accuracy without the demonstration, so positive
    where it helps. Raises BudgetExhausted and UserError as ``Judge.ask``.
    """
    before = ledger.spend()
    outcomes: dict[str, list[Outcome]] = {}
    figures: dict[str, Any] = {}
    for arm in arms:
        ledger.reset()
        outcomes[arm.name] = judge.ask(arm.questions(pairs))
        figures[arm.name] = accuracy_of(outcomes[arm.name]).record() | {"cost": ledger.reset()._asdict()}
    whole = next(a.name for a in reversed(arms) if not a.name.startswith("without "))
    after = ledger.spend()
    return {
        "arms": {n: f for n, f in figures.items() if not n.startswith("without ")},
        "differences": {f"{n} - none": _gap(outcomes["none"], o) for n, o in outcomes.items() if _is_main(n)},
        "leave_one_out": {
            n.removeprefix("without "): {"without": figures[n], "value": _gap(o, outcomes[whole])}
            for n, o in outcomes.items()
            if n.startswith("without ")
        },
        "paid_now": {"calls": after.calls - before.calls, "usd": after.usd - before.usd},
        "items": [
            {"prompt_id": pair.prompt.id, "scores": {n: o[i].score for n, o in outcomes.items()}}
            for i, pair in enumerate(pairs)
        ],
    }


def _is_main(name: str) -> bool:
    return name != "none" and not name.startswith("without ")


def _gap(first: Sequence[Outcome], second: Sequence[Outcome]) -> dict[str, Any] | None:
    found = gain(first, second)
    return found.record() if found else None


def missed_prompts(path: Path) -> frozenset[str]:
    """Prompts that the judge got wrong without demonstrations, from a result of ``demos eval``.

    Raises UserError where the file is none.
    """
    try:
        items = read_json(path)["items"]
        return frozenset(i["prompt_id"] for i in items if i["scores"]["none"] is not None and i["scores"]["none"] < 1)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: expected a result that `cyclealign demos eval --result` wrote ({error!r})") from error


def lines(result: dict[str, Any], names: dict[str, str]) -> Iterator[str]:
    """For people. ``names``: what to call a demonstration besides its id."""
    for name, arm in result["arms"].items():
        cost = arm["cost"]
        money = f", ${cost['usd']:.4f}" if cost["usd"] else ""
        yield f"{name:15} {accuracy_text(arm)}; {cost['calls']} calls, {cost['input_tokens']:,} tokens in{money}"
    for name, gap in result["differences"].items():
        yield f"{name:21} {difference_text(gap)}"
    if result["leave_one_out"]:
        yield "value of each demonstration (accuracy with all, minus accuracy without it):"
    values = [(i, v["value"]) for i, v in result["leave_one_out"].items()]
    for identity, gap in sorted(values, key=lambda x: -(x[1]["value"] if x[1] else 0.0)):
        yield f"  {identity}  {difference_text(gap)}  {names.get(identity, '')}"
    yield f"paid now: {result['paid_now']['calls']} calls, ${result['paid_now']['usd']:.4f}"


def accuracy_text(arm: dict[str, Any]) -> str:
    if arm["accuracy"] is None:
        return f"no verdict on {arm['asked']} pairs"
    unranked = arm["asked"] - arm["ranked"]
    missing = f", {unranked} without a verdict" if unranked else ""
    return f"{arm['accuracy']:.1%} ({arm['low']:.1%} to {arm['high']:.1%}) of {arm['ranked']} pairs{missing}"


def difference_text(gap: dict[str, Any] | None) -> str:
    return f"{gap['value']:+.1%} ({gap['low']:+.1%} to {gap['high']:+.1%})" if gap else "no pair with both verdicts"
