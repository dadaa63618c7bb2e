"""What a run achieved: the figures at the top, from the start model to the kept one, with intervals.

The page and the terminal both take them from ``headline``, so that they cannot disagree.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from itertools import pairwise
from statistics import fmean
from typing import Any

from cyclealign.evaluation.replies import WORDS
from cyclealign.evaluation.statistics import paired_difference
from cyclealign.files.run_dir import RunDir
from cyclealign.files.run_records import read_sets, read_verdicts
from cyclealign.reporting.cascade import cascade_text
from cyclealign.reporting.figures import (
    Facts,
    jackknife,
    newcombe,
    paired_ids,
    read_facts,
    reward_change,
)
from cyclealign.reporting.spend import spend_text
from cyclealign.types import Ranking

Interval = tuple[float, float] | None
Words = Mapping[str, list[list[str]]]
"""Lower-cased words of every reply, by prompt."""


def headline(run: RunDir) -> dict[str, Any]:
    """What the run achieved, from the start model (``start``) to the ``kept`` one (``latest`` while it goes on).

    Keys: ``name``; ``status``; ``kept``: {``trained``, ``of``, ``why``} or None; ``label``: ``kept`` or ``latest``;
    ``compared``: how many interactions that model was trained for, or None; ``prompts``: how many eval prompts the
    reward is paired over; ``spend``: one line; ``cascade``: one line, or empty;
    ``rows``: one dict a measure, with ``measure``, the numbers ``start``, ``kept``, ``change``, ``low``, ``high`` (95%
    interval of the change) where they are known, else None, and ``text``: those as (start, kept, change, interval),
    ready to print.
    """
    facts = read_facts(run)
    kept = {key: facts.kept.get(key) for key in ("trained", "of", "why")} if facts.kept else None
    return {
        "name": facts.config.get("name", run.path.name),
        "status": status(facts),
        "kept": kept,
        "label": facts.label,
        "compared": facts.compared,
        "prompts": len(paired_ids(facts, facts.compared)) if facts.compared is not None else 0,
        "spend": spend_text(run, facts),
        "cascade": cascade_text(run),
        "rows": _rows(run, facts),
    }


def status(facts: Facts) -> str:
    """One line: finished, stopped and by what, or where it was last seen."""
    state = facts.state
    if not state:
        return "not started"
    if state.get("stage") == "finished":
        why = state.get("stopped")
        return f"finished early: {why}" if why else "finished"
    at = f"stage {state.get('stage')}"
    at += f", interaction {state['interaction']}" if "interaction" in state else ""
    if "ended" in state:
        why = f": {state['why']}" if state.get("why") else ""
        return f"ended by {state['ended']}{why} ({at}); resume it to go on"
    seen = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(float(state.get("at", 0.0))))
    return f"not finished: {at}, last sign of life {seen}"


def _rows(run: RunDir, facts: Facts) -> list[dict[str, Any]]:
    start = facts.evaluations.get(0)
    if start is None:
        return []
    trained = facts.compared
    then = facts.evaluations[trained] if trained is not None else {}
    rows = []
    reward = reward_change(facts, trained) if trained is not None else None
    if reward is not None:
        rows.append(_row(f"reward ({start['scorer']})", *reward, digits=4))
    elif "reward" in start:
        rows.append(_row(f"reward ({start['scorer']})", start["reward"], None, None, None, digits=4))
    intervals = _reply_intervals(run, facts) if trained is not None else {}
    for measure, key, digits in (
        ("NLL under the start model, nats a token", "nll_start", 3),
        ("distinct-2, share of bigrams", "distinct2", 3),
        ("length, words a reply", "mean_words", 1),
    ):
        if start.get(key) is not None:
            found = _measured(measure, start[key], then.get(key), intervals.get(key), digits, relative=True)
            rows.append(found)
    for box in ("white_box", "black_box"):
        before, after = (m.get(f"{box}_accuracy") or {} for m in (start, then))
        if before:
            name = f"{box.replace('_', ' ')}'s accuracy on labelled pairs"
            interval = _accuracy_interval(run, box, trained, before, after) if trained is not None and after else None
            rows.append(_measured(name, before["accuracy"], after.get("accuracy"), interval, 3))
    return rows


def _reply_intervals(run: RunDir, facts: Facts) -> dict[str, Interval]:
    """Of the changes in NLL, length and distinct-2, over prompts; of those that the records give."""
    trained = facts.compared
    assert trained is not None
    ends = [facts.evaluations[n] for n in (0, trained)]
    nll = [m.get("nll_by_prompt") or {} for m in ends]
    first, second = (_words(run, n) for n in (0, trained))
    lengths = [{i: fmean(map(len, replies)) for i, replies in words.items()} for words in (first, second)]
    return {
        "nll_start": _paired(nll[0], nll[1]),
        "mean_words": _paired(lengths[0], lengths[1]),
        "distinct2": _distinct_interval(first, second),
    }


def _words(run: RunDir, trained: int) -> dict[str, list[list[str]]]:
    sets = read_sets(run.evaluation(trained) / "candidates.jsonl").values()
    return {s.prompt.id: [WORDS.findall(c.text.lower()) for c in s.candidates] for s in sets if s.candidates}


def _paired(before: Mapping[str, float], after: Mapping[str, float]) -> Interval:
    ids = [i for i in before if i in after]
    gain = paired_difference([before[i] for i in ids], [after[i] for i in ids])
    return gain.interval if gain else None


def _distinct_interval(first: Words, second: Words) -> Interval:
    """Jackknife over prompts: distinct-2 is a figure of all replies together, and no mean over prompts."""
    ids = [i for i in first if i in second]
    if len(ids) < 2:
        return None
    (before, less_before), (after, less_after) = (_distinct_without_each(w, ids) for w in (first, second))
    return jackknife(after - before, [b - a for a, b in zip(less_before, less_after, strict=True)])


def _distinct_without_each(words: Words, ids: list[str]) -> tuple[float, list[float]]:
    """Distinct-2 over all prompts, and over all but each in turn."""
    grams = {i: Counter((a, b) for reply in words[i] for a, b in pairwise(reply)) for i in ids}
    total: Counter[tuple[str, str]] = Counter()
    for own in grams.values():
        total.update(own)
    size = total.total()
    without = []
    for own in grams.values():
        lost = sum(n == total[gram] for gram, n in own.items())
        without.append((len(total) - lost) / max(size - own.total(), 1))
    return len(total) / max(size, 1), without


def _accuracy_interval(
    run: RunDir, box: str, trained: int, before: Mapping[str, float], after: Mapping[str, float]
) -> Interval:
    """Paired over the labelled pairs where the verdicts are on record; else as if the two were independent."""
    first, second = (_right(run, box, n) for n in (0, trained))
    return _paired(first, second) or newcombe(
        before["accuracy"], int(before["ranked"]), after["accuracy"], int(after["ranked"])
    )


def _right(run: RunDir, box: str, trained: int) -> dict[str, float]:
    verdicts = read_verdicts(run.evaluation(trained) / f"{box}.jsonl")
    ranked = {i: v for i, v in verdicts.items() if isinstance(v, Ranking)}
    return {i: 0.5 if len(v.tiers) == 1 else float(v.order[0] == "chosen") for i, v in ranked.items()}


def _measured(
    name: str, start: float, then: float | None, interval: Interval, digits: int, *, relative: bool = False
) -> dict[str, Any]:
    change = None if then is None else then - start
    return _row(name, start, then, change, interval, digits=digits, relative=relative)


def _row(
    measure: str,
    start: float,
    kept: float | None,
    change: float | None,
    interval: Interval,
    *,
    digits: int,
    relative: bool = False,
) -> dict[str, Any]:
    share = f" ({change / start:+.1%})" if relative and change is not None and start else ""
    text = (
        f"{start:.{digits}f}",
        "" if kept is None else f"{kept:.{digits}f}",
        "" if change is None else f"{change:+.{digits}f}{share}",
        f"{interval[0]:+.{digits}f} to {interval[1]:+.{digits}f}" if interval else "",
    )
    low, high = interval or (None, None)
    numbers = {"start": start, "kept": kept, "change": change, "low": low, "high": high}
    return {"measure": measure, **numbers, "text": text}
