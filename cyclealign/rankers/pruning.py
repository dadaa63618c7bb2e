"""What a cascade makes of a list, what that saves, and what it loses: from verdicts on record alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean

from cyclealign.files.run_figures import CascadeFigures
from cyclealign.judge.prompting import estimate_message_tokens, estimate_tokens, presentations
from cyclealign.rankers.agreement import Tiers, kendall_tau
from cyclealign.types import CandidateSet, Cascaded, Ranking


def assembled(judged: Tiers, cascade: Cascaded) -> Tiers:
    """The judge's order of the kept, then the local ranker's of all others; equal local scores are tied."""
    kept = set(cascade.kept)
    others = {i: s for i, s in cascade.scores.items() if i not in kept}
    head = tuple(cut for tier in judged if (cut := tuple(i for i in tier if i in kept)))
    return head + Ranking.from_scores("", others).tiers


def audits(rankings: Iterable[Ranking]) -> list[tuple[Ranking, Ranking]]:
    """Of the audited lists: what the cascade would have said, and the judge's order of the whole list.

    The judge's order of the kept is taken from the whole list's; asked about them alone it could say another.
    """
    return [
        (Ranking(prompt_id=r.prompt_id, tiers=assembled(r.tiers, r.cascade)), r)
        for r in rankings
        if r.cascade is not None and r.cascade.audited
    ]


def audit_tau(pair: tuple[Ranking, Ranking]) -> float:
    """Kendall's tau-b of what the cascade would have said with the judge's order; 1 would lose nothing."""
    return kendall_tau(*pair)


def best_first(pair: tuple[Ranking, Ranking]) -> float:
    """Whether the judge's first choice would still be first; ties count their share."""
    cascade, judge = (set(ranking.tiers[0]) for ranking in pair)
    return len(cascade & judge) / len(cascade | judge)


def cascade_figures(
    sets: Mapping[str, CandidateSet], rankings: Sequence[Ranking], *, passes: int
) -> CascadeFigures | None:
    """Calls and tokens saved against agreement lost; None where no list met a cascade.

    ``tokens_saved`` is an estimate of the texts that were not sent (``prompting.estimate_tokens``), all passes:
    candidates of pruned lists, candidates and chat of lists answered alone, without frame and demonstrations. ``tau``
    and ``best_first`` are means over the audited lists, None where there is none.
    """
    met = [r for r in rankings if r.cascade is not None]
    if not met:
        return None
    alone = [r for r in met if not r.judged]
    pairs = audits(met)
    return CascadeFigures(
        whole=len(rankings) - len(met),
        pruned=sum(0 < len(r.judged) < len(r.order) for r in met),
        alone=len(alone),
        audited=len(pairs),
        calls_saved=sum(orders(len(r.order), passes) for r in alone),
        tokens_saved=sum(_tokens_saved(sets[r.prompt_id], r, passes) for r in met),
        tau=fmean(map(audit_tau, pairs)) if pairs else None,
        best_first=fmean(map(best_first, pairs)) if pairs else None,
    )


def orders(k: int, passes: int) -> int:
    """Calls that a list of ``k`` takes: one for each distinct presentation order."""
    return len(presentations(k, passes, seed=0))


def _tokens_saved(item: CandidateSet, ranking: Ranking, passes: int) -> int:
    left_out = sum(estimate_tokens(c.text) for c in item.candidates if c.id not in ranking.judged)
    if not ranking.judged:
        left_out += estimate_message_tokens(item.prompt.messages)
    return left_out * orders(len(item.candidates), passes)
