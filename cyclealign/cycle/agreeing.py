"""What both rankers agree on: agreements, which are trusted, new demonstrations, the summary, training lists."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import fmean, stdev
from typing import Literal

from cyclealign.config.black_box import BlackBoxConfig
from cyclealign.cycle.interaction import Interaction
from cyclealign.files.run_dir import InteractionDir
from cyclealign.files.run_figures import AnswerFigures, Summary
from cyclealign.files.run_records import read_rankings, read_sets, read_verdicts
from cyclealign.judge.demonstrations import DemonstrationPool
from cyclealign.judge.prompting import presentations
from cyclealign.rankers.agreement import Agreement, agree
from cyclealign.rankers.chance import expected_lcs
from cyclealign.rankers.pruning import cascade_figures
from cyclealign.rankers.utilities import score_spread, teacher_utilities, win_rates
from cyclealign.types import (
    OWN_REPLY,
    CandidateSet,
    Demonstration,
    Prompt,
    Ranking,
    RankingExample,
    Unranked,
    derive_seed,
)


def agreements(it: Interaction) -> list[Agreement]:
    """Agreement of both rankings of every prompt that has both, in prompt order."""
    black, white = read_rankings(it.files.black_box), read_rankings(it.files.white_box)
    return [agree(black[p.id], white[p.id]) for p in it.active if p.id in black and p.id in white]


def trusted(it: Interaction, agreed: Sequence[Agreement]) -> list[Agreement]:
    """Agreements whose black-box verdict its own passes support (all of them, where there is one pass).

    A judge that answers by position agrees with the white box by luck as often as any other coin: chance passes
    the gate on agreement in two of five lists of four. Its own passes give it away: their Kendall tau is about 0. So
    nothing is trusted where the interaction's mean tau is not above 0 by 1.96 standard errors, and no single
    verdict whose passes contradict each other. Nor is a list that a cascade pruned or ranked alone: the judge
    would be shown as its own an order that it never gave.
    """
    black = read_rankings(it.files.black_box)
    agreed = [a for a in agreed if len(black[a.prompt_id].judged) == len(black[a.prompt_id].order)]
    taus = {a.prompt_id: black[a.prompt_id].confidence for a in agreed}
    known = [t for t in taus.values() if t is not None]
    if not known:
        return list(agreed)
    error = stdev(known) / math.sqrt(len(known)) if len(known) > 1 else 0.0
    if fmean(known) - 1.96 * error <= 0:
        return []
    return [a for a in agreed if (taus[a.prompt_id] or 0.0) > 0]


def summary(
    it: Interaction, agreed: Sequence[Agreement], *, passes: int, accepted: int, pool: DemonstrationPool
) -> Summary:
    """Means over the prompts that both rankers ranked: LCS length, its mean by chance, agreement raw and corrected.

    With a cascade, what it saved and lost (``pruning.cascade_figures``). ``pool``: as it is after the interaction.
    """
    verdicts = read_verdicts(it.files.black_box).values()
    rankings = [v for v in verdicts if isinstance(v, Ranking)]
    own = [r for r in rankings if OWN_REPLY in r.order]
    cascade = cascade_figures(read_sets(it.files.candidates), rankings, passes=passes)
    reasons = [v.reason for v in verdicts if isinstance(v, Unranked)]
    taus = [v.confidence for v in verdicts if isinstance(v, Ranking) and v.confidence is not None]
    n = max(len(agreed), 1)
    return Summary(
        interaction=it.index,
        batch=it.batch,
        round=it.round,
        prompts=len(it.active),
        ranked=len(agreed),
        unranked={r: reasons.count(r) for r in sorted(set(reasons))},
        lcs=sum(a.length for a in agreed) / n,
        lcs_by_chance=sum(expected_lcs(a.k) for a in agreed) / n,
        agreement=sum(a.length / a.k for a in agreed) / n,
        agreement_corrected=sum(a.corrected for a in agreed) / n,
        pass_tau=sum(taus) / len(taus) if taus else None,
        settled=sum(a.settled for a in agreed),
        cascade=cascade,
        answers=_answer_figures(own) if own else None,
        accepted=accepted,
        pool=len(pool.dynamic),
        pool_version=pool.version,
    )


def _answer_figures(own: Sequence[Ranking]) -> AnswerFigures:
    """Of lists that hold a reply of the black box's own."""
    return AnswerFigures(
        ranked=len(own),
        first=sum((OWN_REPLY in r.tiers[0]) / len(r.tiers[0]) for r in own),
        by_chance=sum(1 / len(r.order) for r in own),
    )


def training_examples(
    it: Interaction, target: Literal["black_box", "agreement"], *, votes: bool = False, spread: float | None = None
) -> list[RankingExample]:
    """Lists with the teacher's utilities: the black box's whole ranking, or the part of it that both agree on.

    ``votes``: with win rates for utilities, of the whole list also where a part of it is taught. ``spread``: as in
    ``teacher_utilities``.
    """
    sets, black = read_sets(it.files.candidates), read_rankings(it.files.black_box)
    agreed = {a.prompt_id: a.ids for a in agreements(it)} if target == "agreement" else {}
    examples = []
    for prompt in it.active:
        if prompt.id not in black:
            continue
        ids = None if target == "black_box" else agreed.get(prompt.id, ())
        example = training_example(sets[prompt.id], black[prompt.id], ids, votes=votes, spread=spread)
        if len(example.responses) >= 2:
            examples.append(example)
    return examples


def spread_of(box: BlackBoxConfig, interactions: Iterable[InteractionDir]) -> float | None:
    """By what the scores of a run are divided: ``scale``, else of a judge the spread of all that it has given in these
    interactions. None: they are utilities as they come."""
    if box.scale is not None or box.judge != "openai" or box.answer == "ranking":
        return box.scale
    found = (ranking for i in interactions for ranking in read_rankings(i.black_box).values())
    return score_spread(ranking.scores for ranking in found if ranking.scores is not None)


def training_example(
    item: CandidateSet,
    ranking: Ranking,
    ids: Sequence[str] | None = None,
    *,
    votes: bool = False,
    spread: float | None = None,
) -> RankingExample:
    """One list with the teacher's utilities; ``ids``: the candidates that are taught, None: all ranked ones."""
    utilities = win_rates(ranking) if votes else teacher_utilities(ranking, spread=spread)
    ids = tuple(utilities) if ids is None else ids
    chosen = [c for c in item.candidates if c.id in ids]
    return RankingExample(
        prompt_id=item.prompt.id,
        messages=item.prompt.messages,
        responses=tuple(c.text for c in chosen),
        ended=tuple(c.finish == "stop" for c in chosen),
        teacher=tuple(utilities[c.id] for c in chosen),
        thinking=tuple(c.thinking for c in chosen) if any(c.thinking is not None for c in chosen) else None,
    )


def accept(
    sets: Iterable[CandidateSet],
    agreements: Iterable[Agreement],
    *,
    gate: float,
    interaction: int,
    seed: int,
) -> list[Demonstration]:
    """Agreements that are worth showing, as demonstrations, in the order of ``sets``.

    Worth showing: at least two responses agreed on, and chance-corrected agreement of at least ``gate``. Only
    the agreed responses are shown, in an order drawn from (``seed``, interaction, prompt), so that the best
    is not always the first. Sets without an agreement are passed over.
    """
    by_prompt = {a.prompt_id: a for a in agreements}
    accepted = []
    for item in sets:
        agreed = by_prompt.get(item.prompt.id)
        if agreed is None or agreed.length < 2 or agreed.corrected < gate:
            continue
        drawn = derive_seed(seed, "demonstration", interaction, item.prompt.id)
        (shown,) = presentations(agreed.length, 1, seed=drawn)
        accepted.append(
            Demonstration(
                prompt=Prompt(item.prompt.messages),  # without its labels
                responses=tuple(item.text(agreed.ids[rank]) for rank in shown),
                order=tuple(shown.index(rank) for rank in range(agreed.length)),
                source=str(interaction),
                agreement=agreed.corrected,
            )
        )
    return accepted
