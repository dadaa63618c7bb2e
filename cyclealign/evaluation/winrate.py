"""``cyclealign eval winrate``: two checkpoints, or two files of responses, before a judge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from cyclealign.evaluation.bias import passes_of, position_bias
from cyclealign.evaluation.calibration import Calibration, corrected
from cyclealign.evaluation.judging import Judge, Judged, judged
from cyclealign.evaluation.length_control import length_controlled
from cyclealign.evaluation.policies import taught_by
from cyclealign.evaluation.ranker import cost, with_verdict
from cyclealign.evaluation.reply_pairs import judged_value, needs_judge, unjudged_value
from cyclealign.evaluation.responses import Response, shared_prompts
from cyclealign.evaluation.result import Item, Result, make_result
from cyclealign.evaluation.statistics import Estimate, Figure, bootstrap_mean, share, sign_test
from cyclealign.files.run_records import Verdict
from cyclealign.rankers.by_name import ledger_beside
from cyclealign.types import Candidate, CandidateSet, Ranking

ONE_SIDED = 0.9  # share of items with the same side longer from which equal lengths are a guess


@dataclass(frozen=True, kw_only=True)
class WinRate:
    """``a`` and ``b`` as the command line names them; the win rate is that of ``a``.

    ``alone``: how many prompts only a, and only b answers. ``calibration``: the judge's errors, where they are known.
    """

    a: str
    b: str
    judge: Judge
    alone: tuple[int, int] = (0, 0)
    calibration: Calibration | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """``value``: 1 where a won, 0.5 for a tie, 0 where b won; None: no verdict."""

    set: CandidateSet
    value: float | None
    verdict: Verdict | None
    shown: tuple[tuple[str, ...], ...] = ()


def pairs_of(a: Mapping[str, Response], b: Mapping[str, Response]) -> list[CandidateSet]:
    """The responses to the prompts that both sides answer, named ``a`` and ``b``."""
    return [
        CandidateSet(a[i].prompt, (Candidate("a", a[i].text), Candidate("b", b[i].text)))
        for i in shared_prompts([a, b])
    ]


def without_counterpart(a: Mapping[str, Response], b: Mapping[str, Response]) -> tuple[int, int]:
    """How many prompts only a answers, and only b: no pair is made of them."""
    return len(a.keys() - b.keys()), len(b.keys() - a.keys())


def evaluate_winrate(job: WinRate, sets: Sequence[CandidateSet], out: Path) -> Result:
    """Ask the judge about every pair and measure how often ``a`` is preferred. Raises as ``judged``."""
    asked = [s for s in sets if needs_judge(s)]
    found = judged(asked, job.judge, ledger_beside(out))
    verdicts = iter(zip(found.verdicts, found.shown, strict=True))
    outcomes = [_outcome(s, *next(verdicts)) if needs_judge(s) else Outcome(s, unjudged_value(s), None) for s in sets]
    metrics = winrate_metrics(outcomes, seed=job.judge.seed)
    metrics["judged"] = {"asked": len(asked), "equal_or_empty": len(sets) - len(asked)}
    metrics["without_counterpart"] = dict(zip("ab", job.alone, strict=True))
    metrics["cost"] = cost([found], len(sets))
    about = {"a": job.a, "b": job.b, "ranker": job.judge.spec, "options": list(job.judge.settings)}
    about["judge"] = job.judge.digest
    if job.calibration is not None:
        metrics |= corrected_metrics(job.calibration, outcomes)
        about["calibration"] = job.calibration.source
    return make_result(
        "winrate",
        about=about,
        seed=job.judge.seed,
        metrics=metrics,
        items=[outcome_item(o) for o in outcomes],
        primary="win_rate",
        warnings=_warnings(job, outcomes, found),
    )


def _outcome(item: CandidateSet, verdict: Verdict, shown: tuple[tuple[str, ...], ...]) -> Outcome:
    return Outcome(item, judged_value(item, verdict), verdict, shown)


def winrate_metrics(outcomes: Sequence[Outcome], *, seed: int) -> dict[str, Figure]:
    """Win rate of ``a`` (ties count half) with its bootstrap interval over prompts; raw and at equal length."""
    known = [o for o in outcomes if o.value is not None]
    values = [o.value for o in known if o.value is not None]
    wins, losses = values.count(1.0), values.count(0.0)
    lengths = [[len(o.set.text(side)) for o in known] for side in ("a", "b")]
    rankings = [(o.verdict, o.shown) for o in outcomes if isinstance(o.verdict, Ranking)]
    return {
        "items": len(outcomes),
        "win_rate": bootstrap_mean(values, seed=seed),
        "length_controlled_win_rate": length_controlled(values, *lengths, seed=seed),
        "wins": wins,
        "ties": len(values) - wins - losses,
        "losses": losses,
        "sign_test_p": sign_test(wins, losses),
        "unranked_rate": share(len(outcomes) - len(known), len(outcomes)),
        "lengths": {side: _lengths(outcomes, side) for side in ("a", "b")} | {"a_longer": _longer(known)},
        "position_bias": position_bias([passes_of(r, shown) for r, shown in rankings], seed=seed),
    }


def corrected_metrics(found: Calibration, outcomes: Sequence[Outcome]) -> dict[str, Figure]:
    """The win rate with the judge's errors taken out, over the pairs that the judge was asked about."""
    values = [o.value for o in outcomes if isinstance(o.verdict, Ranking) and o.value is not None]
    return {
        "corrected_win_rate": corrected(values, found),
        "calibration": found.figures() | {"judged_win_rate": share(sum(values), len(values))},
    }


def _lengths(outcomes: Sequence[Outcome], side: str) -> dict[str, Figure]:
    texts = [o.set.text(side) for o in outcomes]
    return {"mean_characters": fmean(map(len, texts)), "mean_words": fmean(len(t.split()) for t in texts)}


def _longer(outcomes: Sequence[Outcome]) -> Estimate | None:
    """Share of the pairs of different length whose longer response is a's."""
    lengths = [(len(o.set.text("a")), len(o.set.text("b"))) for o in outcomes]
    different = [(a, b) for a, b in lengths if a != b]
    return share(sum(a > b for a, b in different), len(different))


def _warnings(job: WinRate, outcomes: Sequence[Outcome], found: Judged) -> list[str]:
    judge = job.judge.ranker().box
    warnings = [w for w in (taught_by(judge, spec) for spec in (job.a, job.b)) if w]
    if any(len(shown) == 1 for shown in found.shown):
        warnings.append("one presentation order an item (passes=1): the slot may decide; use passes=2")
    if any(job.alone):
        warnings.append(
            f"left out, since only one side answers them: {job.alone[0]} prompts of a and {job.alone[1]} of b, beside"
            f" {len(outcomes)} that both answer"
        )
    longer = _longer([o for o in outcomes if o.value is not None])
    if longer is not None and not 1 - ONE_SIDED <= longer.value <= ONE_SIDED:
        side = "a" if longer.value > 0.5 else "b"
        warnings.append(
            f"{side} is longer in more than {ONE_SIDED:.0%} of the pairs: the length-controlled win rate says what"
            " would be at equal lengths, which this data hardly shows"
        )
    return warnings


def outcome_item(outcome: Outcome) -> Item:
    """What the result file says of one pair."""
    made = Item(
        key=outcome.set.prompt.id,
        value=outcome.value,
        prompt=outcome.set.prompt.messages[-1]["content"],
        responses={c.id: c.text for c in outcome.set.candidates},
    )
    return with_verdict(made, outcome.verdict, outcome.shown)
