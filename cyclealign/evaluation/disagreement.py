"""The lists on which those who ranked them disagree most: what is worth a look by people.

Of a run: the judge, the policy, and the judge's passes. Of a result: the judge (or the arms of a measurement), the
labels, and the judge's passes. Two orders disagree by the share of pairs that they order otherwise, (1 - tau) / 2; of a
result without orders, by how far the shares of first choices as labelled are apart.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import Any

from cyclealign.evaluation.result import Item, Result, item_key, read_result
from cyclealign.files.labelled import LabelledItem, load_labelled
from cyclealign.files.run_dir import open_run
from cyclealign.files.run_records import read_sets, read_verdicts
from cyclealign.rankers.agreement import kendall_tau, tiers_of
from cyclealign.types import Candidate, CandidateSet, Ranking, UserError

JUDGE, POLICY, LABELS = "judge", "policy", "labels"


@dataclass(frozen=True, kw_only=True)
class Contested:
    """A list, its candidates in an order and under ids that say nothing of who preferred what.

    rankings: by who gave them; ``passes``: the judge's single answers. values: share of the first choice as labelled,
    by arm, where a result has no orders. distances: in [0, 1], of each two who can be compared.
    """

    item: CandidateSet
    rankings: Mapping[str, Ranking]
    passes: Mapping[str, Ranking] = field(default_factory=dict)
    values: Mapping[str, float] = field(default_factory=dict)

    @property
    def distances(self) -> dict[tuple[str, str], float]:
        found = {
            (a, b): (1 - kendall_tau(group[a], group[b])) / 2
            for group in (self.rankings, self.passes)
            for a, b in combinations(group, 2)
        }
        if LABELS in self.rankings:
            found |= {(arm, LABELS): 1 - value for arm, value in self.values.items()}
        return found | {(a, b): abs(self.values[a] - self.values[b]) for a, b in combinations(self.values, 2)}

    @property
    def furthest(self) -> tuple[float, tuple[str, str]]:
        """The largest distance, and between whom; 0 where nobody can be compared."""
        return max(((d, pair) for pair, d in self.distances.items()), key=lambda x: x[0], default=(0.0, ("", "")))

    def record(self) -> dict[str, Any]:
        """A line of the file; with ``tiers`` (ids best first, equal ones together) it is a label and a verdict."""
        distance, between = self.furthest
        return {
            **self.question(),
            "disagreement": round(distance, 4),
            "between": list(between),
            "rankings": {name: [list(t) for t in r.tiers] for name, r in {**self.rankings, **self.passes}.items()},
            **({"values": dict(self.values)} if self.values else {}),
        }

    def question(self) -> dict[str, Any]:
        """What people are asked: the chat, what a judge goes by for it, and its candidates."""
        prompt = self.item.prompt
        told = {"rubric": prompt.rubric, "reference": prompt.reference}
        return {
            "prompt_id": prompt.id,
            "messages": [dict(m) for m in prompt.messages],
            **{name: text for name, text in told.items() if text},
            "candidates": [{"id": c.id, "text": c.text} for c in self.item.candidates],
        }


def most_contested(source: Path, most: int, *, data: str | None = None) -> list[Contested]:
    """The ``most`` lists of a run directory or a result file that are disputed most, the most disputed first; none on
    which all agree, and one of each prompt.

    Args:
        data: the labelled lists of a result, where they are no longer where it says.

    Raises:
        UserError: neither a run nor a result, or the lists of a result are not in the data.
    """
    found = _of_run(source) if source.is_dir() else _of_result(source, data)
    best: dict[str, Contested] = {}
    for one in sorted(found, key=_order):
        best.setdefault(one.item.prompt.id, one)
    return [one for one in best.values() if one.furthest[0] > 0][:most]


def _order(one: Contested) -> tuple[float, float, str]:
    distances = one.distances.values()
    return -one.furthest[0], -fmean(distances or [0.0]), one.item.id


def _of_run(path: Path) -> Iterator[Contested]:
    for files in open_run(path).interactions():
        black, white = read_verdicts(files.black_box), read_verdicts(files.white_box)
        for prompt_id, item in read_sets(files.candidates).items():
            given = {JUDGE: black.get(prompt_id), POLICY: white.get(prompt_id)}
            rankings = {name: v for name, v in given.items() if isinstance(v, Ranking)}
            yield _blind(item, rankings, {})


def _of_result(path: Path, data: str | None) -> Iterator[Contested]:
    result = read_result(path)
    source = data or _source(result, path)
    known = {item_key(i.set): i for i in load_labelled(source)}
    there = [(item, known[item.key]) for item in result.items if item.key in known]
    if not there:
        raise UserError(f"{path}: none of its lists is in {source}; give the data that was measured with --data")
    for item, labelled in there:
        yield _of_item(item, labelled)


def _source(result: Result, path: Path) -> str:
    """The data that a result says it is of."""
    pairs = result.about.get("pairs")
    named = result.about.get("data") or (pairs.get("source") if isinstance(pairs, Mapping) else None)
    if not isinstance(named, str):
        raise UserError(f"{path}: a result of {result.eval} is of no labelled lists; expected one of eval ranker")
    return named


def _of_item(item: Item, labelled: LabelledItem) -> Contested:
    rankings = {LABELS: labelled.gold} if labelled.decided else {}
    if item.tiers and {i for tier in item.tiers for i in tier} == set(labelled.set.ids):
        tiers = tuple(map(tuple, item.tiers))
        passes = tuple(tuple(i if isinstance(i, str) else tuple(i) for i in given) for given in item.passes)
        judged = Ranking(prompt_id=labelled.set.prompt.id, tiers=tiers, passes=passes)
        return _blind(labelled.set, {JUDGE: judged} | rankings, {})
    return _blind(labelled.set, rankings, {arm: v for arm, v in item.values.items() if v is not None})


def _blind(item: CandidateSet, rankings: Mapping[str, Ranking], values: Mapping[str, float]) -> Contested:
    """The list in an order drawn from its content, candidates numbered from 1."""
    order = sorted(item.candidates, key=lambda c: (c.text, c.id))
    random.Random(item.id).shuffle(order)  # noqa: S311  seeded, to be repeated
    names = {c.id: str(n) for n, c in enumerate(order, start=1)}

    def named(tiers: Iterable[Iterable[str]]) -> Ranking:
        renamed = (tuple(names[i] for i in tier if i in names) for tier in tiers)
        return Ranking(prompt_id=item.prompt.id, tiers=tuple(t for t in renamed if t))

    judged = rankings.get(JUDGE)
    answers = {} if judged is None else {f"pass {n}": p for n, p in enumerate(judged.passes, start=1)}
    if judged is not None and judged.reverse:
        answers |= {} if answers else {"pass 1": judged.order}
        answers["shown in reverse"] = judged.reverse
    return Contested(
        item=CandidateSet(item.prompt, tuple(Candidate(names[c.id], c.text) for c in order)),
        rankings={name: named(r.tiers) for name, r in rankings.items()},
        passes={name: named(tiers_of(order)) for name, order in answers.items()} if len(answers) > 1 else {},
        values=values,
    )
