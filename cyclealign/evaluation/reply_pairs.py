"""Two replies to a prompt, of which the first is measured: as a win, a tie or a loss, judged or not.

``against_start`` makes the pairs of a run: the first replies to each held-out prompt, then and by the start model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from cyclealign.files.run_records import Verdict
from cyclealign.types import Candidate, CandidateSet, RankContext, Ranker, Ranking

NOW, START = "now", "start"  # candidates of a pair against the start model
RANKER_PAIRS = 64  # that an evaluation asks the run's own ranker about, which may be paid for them


def needs_judge(item: CandidateSet) -> bool:
    """Equal responses are a tie and an empty one loses to any other, whoever judges."""
    texts = [c.text.strip() for c in item.candidates]
    return all(texts) and texts[0] != texts[1]


def unjudged_value(item: CandidateSet) -> float:
    """Of a pair that needs no judge."""
    first, second = (c.text.strip() for c in item.candidates)
    return 0.5 if first == second else float(bool(first))


def judged_value(item: CandidateSet, verdict: Verdict) -> float | None:
    """1 where the first reply won, 0.5 for a tie, 0 where it lost; None: no verdict."""
    if not isinstance(verdict, Ranking):
        return None
    top = verdict.tiers[0]
    return 0.5 if len(top) == 2 else float(top[0] == item.ids[0])


def against_start(now: Iterable[CandidateSet], start: Mapping[str, CandidateSet]) -> list[CandidateSet]:
    """The pairs, a prompt each; of a prompt that was answered by nothing, an empty reply."""
    return [
        CandidateSet(item.prompt, (Candidate(NOW, _first(item)), Candidate(START, _first(start[item.prompt.id]))))
        for item in now
        if item.prompt.id in start
    ]


def ranker_gains(pairs: Sequence[CandidateSet], ranker: Ranker, context: RankContext) -> dict[str, float]:
    """By prompt id, how far the ranker puts the first reply above the second: by its scores, or where it gives an order
    alone, 1 above, 0 level, -1 below. Prompts with an empty reply, or without a verdict, are left out."""
    whole = [s for s in pairs if all(c.text.strip() for c in s.candidates)]
    asked = {s.prompt.id: s for s in whole if needs_judge(s)}
    verdicts = ranker.rank(iter(asked.values()), context) if asked else ()
    found = {v.prompt_id: _gain(asked[v.prompt_id], v) for v in verdicts if isinstance(v, Ranking)}
    gains = {s.prompt.id: found.get(s.prompt.id) if s.prompt.id in asked else 0.0 for s in whole}
    return {i: gain for i, gain in gains.items() if gain is not None}


def _gain(item: CandidateSet, ranking: Ranking) -> float | None:
    first, second = item.ids
    if ranking.scores is not None:
        return ranking.scores[first] - ranking.scores[second]
    value = judged_value(item, ranking)
    return None if value is None else 2 * value - 1


def _first(item: CandidateSet) -> str:
    return item.candidates[0].text if item.candidates else ""
