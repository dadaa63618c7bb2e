"""What a run achieved: the figures at the top, from the start model to the kept one, with intervals.

The page and the terminal both take them from ``headline``, so that they cannot disagree.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean

from cyclealign.config.keeping import keep_text
from cyclealign.evaluation.labelled_pairs import labelled_credit
from cyclealign.evaluation.statistics import paired_difference
from cyclealign.evaluation.words import words
from cyclealign.files.held_out_lists import LIST_MEASURES, held_out_means
from cyclealign.files.run_dir import RunDir
from cyclealign.files.run_figures import Accuracy, Metrics
from cyclealign.files.run_records import read_sets, read_verdicts
from cyclealign.files.run_state import Kept
from cyclealign.reporting.alarms import Alarm, alarms
from cyclealign.reporting.answers import answers_text
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
from cyclealign.reporting.status import judge_text
from cyclealign.types import Ranking

Interval = tuple[float, float] | None
Words = Mapping[str, list[list[str]]]
"""Lower-cased words of every reply, by prompt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One measure; ``low``, ``high``: 95% interval of the change. None: not known.

    ``text``: the numbers as (start, kept, change, interval), ready to print.
    """

    measure: str
    start: float
    kept: float | None
    change: float | None
    low: float | None
    high: float | None
    text: tuple[str, str, str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Headline:
    """What the run achieved, from the start model (``start``) to the ``kept`` one (``latest`` while it goes on).

    ``label``: ``kept`` or ``latest``; ``compared``: how many interactions that model was trained for, or None;
    ``prompts``: how many eval prompts the reward is paired over; ``keeps``: the rule by which it keeps one; ``spend``:
    one line; ``judge``: how far it agrees with itself; ``cascade``; ``answers``: how it ranks its own replies; each one
    line, or empty. ``lists``: how many held-out lists the rows are of, 0 where they are of prompts.
    """

    name: str
    status: str
    kept: Kept | None
    label: str
    compared: int | None
    prompts: int
    keeps: str
    spend: str
    judge: str
    cascade: str
    answers: str
    alarms: tuple[Alarm, ...]
    rows: tuple[Row, ...]
    lists: int

    @property
    def kept_text(self) -> str:
        """``the model after 2 of 3 interactions; why``; empty while nothing is kept."""
        if self.kept is None:
            return ""
        trained = f"the model after {self.kept.trained} of {self.kept.of} interactions"
        return f"{trained if self.kept.trained else 'the start model'}; {self.kept.why}"


def headline(run: RunDir) -> Headline:
    """Of a run at any moment."""
    facts = read_facts(run)
    return Headline(
        name=facts.settings.name or run.path.name,
        status=status(facts),
        kept=facts.kept,
        label=facts.label,
        compared=facts.compared,
        prompts=len(paired_ids(facts, facts.compared)) if facts.compared is not None else 0,
        keeps=_keeps(run, facts),
        spend=spend_text(run, facts),
        judge=judge_text(run),
        cascade=cascade_text(run),
        answers=answers_text(run),
        alarms=alarms(run, facts),
        rows=tuple(_rows(run, facts)),
        lists=len(run.held_out_lists(0)),
    )


def _keeps(run: RunDir, facts: Facts) -> str:
    """What ``drift.keep`` comes to; empty where the config does not say, or the run is over lists that exist."""
    keep = facts.settings.keep
    return "" if keep is None or run.lists() is not None else keep_text(keep, facts.settings.witness)


def status(facts: Facts) -> str:
    """One line: finished, stopped and by what, or where it was last seen."""
    state = facts.state
    if state is None:
        return "not started"
    if state.stage == "finished":
        return f"finished early: {state.stopped}" if state.stopped else "finished"
    at = f"stage {state.stage}"
    at += f", interaction {state.interaction}" if state.interaction is not None else ""
    if state.ended is not None:
        why = f": {state.why}" if state.why else ""
        return f"ended by {state.ended}{why} ({at}); resume it to go on"
    seen = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(state.at))
    return f"not finished: {at}, last sign of life {seen}"


def _rows(run: RunDir, facts: Facts) -> Iterator[Row]:
    yield from _list_rows(run)
    start = facts.evaluations.get(0)
    if start is None:
        return
    trained = facts.compared
    then = facts.evaluations[trained] if trained is not None else None
    reward = reward_change(facts, trained) if trained is not None else None
    if reward is not None:
        yield _row(f"reward ({start.scorer})", *reward, digits=4)
    elif start.reward is not None:
        yield _row(f"reward ({start.scorer})", start.reward, None, None, None, digits=4)
    yield from _reply_rows(run, start, then, trained)
    for box in ("white_box", "black_box"):
        before, after = _accuracy(start, box), _accuracy(then, box)
        if before is not None:
            name = f"{box.replace('_', ' ')}'s accuracy on labelled pairs"
            if trained is None or after is None:
                yield _measured(name, before.accuracy, None, None, 3)
            else:
                interval = _accuracy_interval(run, box, trained, before, after)
                yield _measured(name, before.accuracy, after.accuracy, interval, 3)


def _list_rows(run: RunDir) -> Iterator[Row]:
    """Held-out lists under the start model and the trained one, with intervals of the changes over lists."""
    before, after = (run.held_out_lists(n) for n in (0, 1))
    start, then = held_out_means(before), held_out_means(after)
    for name, title, digits in LIST_MEASURES:
        if name in start:
            interval = None
            if len(before) == len(after):
                pairs = [(getattr(a, name), getattr(b, name)) for a, b in zip(before, after, strict=True)]
                known = [(a, b) for a, b in pairs if a is not None and b is not None]
                gain = paired_difference([a for a, _ in known], [b for _, b in known])
                interval = gain.interval if gain else None
            yield _measured(title, start[name], then.get(name), interval, digits)


def _accuracy(metrics: Metrics | None, box: str) -> Accuracy | None:
    if metrics is None:
        return None
    return metrics.white_box_accuracy if box == "white_box" else metrics.black_box_accuracy


def _reply_rows(run: RunDir, start: Metrics, then: Metrics | None, trained: int | None) -> Iterator[Row]:
    """NLL, distinct-2 and length, with intervals of their changes over prompts where the records give them."""
    nll = distinct = length = None
    if then is not None and trained is not None:
        first, second = (_words(run, n) for n in (0, trained))
        before, after = ({i: fmean(map(len, said)) for i, said in words.items()} for words in (first, second))
        nll = _paired(start.nll_by_prompt, then.nll_by_prompt)
        distinct, length = _distinct_interval(first, second), _paired(before, after)
    measures: tuple[tuple[str, Callable[[Metrics], float | None], Interval, int], ...] = (
        ("NLL under the start model, nats a token", lambda m: m.nll_start, nll, 3),
        ("distinct-2, share of bigrams", lambda m: m.distinct2, distinct, 3),
        ("length, words a reply", lambda m: m.mean_words, length, 1),
    )
    for name, of, interval, digits in measures:
        value = of(start)
        if value is not None:
            yield _measured(name, value, None if then is None else of(then), interval, digits, relative=True)


def _words(run: RunDir, trained: int) -> dict[str, list[list[str]]]:
    sets = read_sets(run.evaluation(trained) / "candidates.jsonl").values()
    return {s.prompt.id: [words(c.text) for c in s.candidates] for s in sets if s.candidates}


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


def _accuracy_interval(run: RunDir, box: str, trained: int, before: Accuracy, after: Accuracy) -> Interval:
    """Paired over the labelled pairs where the verdicts are on record; else as if the two were independent."""
    first, second = (_right(run, box, n) for n in (0, trained))
    return _paired(first, second) or newcombe(before.accuracy, before.ranked, after.accuracy, after.ranked)


def _right(run: RunDir, box: str, trained: int) -> dict[str, float]:
    verdicts = read_verdicts(run.evaluation(trained) / f"{box}.jsonl")
    return {i: labelled_credit(v) for i, v in verdicts.items() if isinstance(v, Ranking)}


def _measured(
    name: str, start: float, then: float | None, interval: Interval, digits: int, *, relative: bool = False
) -> Row:
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
) -> Row:
    share = f" ({change / start:+.1%})" if relative and change is not None and start else ""
    text = (
        f"{start:.{digits}f}",
        "" if kept is None else f"{kept:.{digits}f}",
        "" if change is None else f"{change:+.{digits}f}{share}",
        f"{interval[0]:+.{digits}f} to {interval[1]:+.{digits}f}" if interval else "",
    )
    low, high = interval or (None, None)
    return Row(measure=measure, start=start, kept=kept, change=change, low=low, high=high, text=text)
