"""How the two rankers' places compare, and whether the slot in which a judge saw a candidate decides its place."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence

from cyclealign.config.ranker_kinds import KINDS
from cyclealign.evaluation.intervals import wilson
from cyclealign.files.run_dir import InteractionDir, RunDir
from cyclealign.files.run_records import read_rankings, read_sets
from cyclealign.judge.prompting import presentations
from cyclealign.rankers.agreement import Tiers, tiers_of
from cyclealign.reporting.charts import Interval, Line, LineChart
from cyclealign.reporting.figures import Facts
from cyclealign.reporting.grids import Grid
from cyclealign.types import Ranking, derive_seed

Pair = tuple[Ranking, Ranking]
Pass = tuple[tuple[str, ...], Tiers]
"""The ids as they stood before the judge, and the tiers that it answered, best first."""


def confusion_grids(run: RunDir) -> Iterator[Grid]:
    """Places by the black box against places by the white box: in the first interaction and in the latest."""
    found = [(i, pairs) for i in run.interactions() if (pairs := both_rankings(i))]
    shown = [found[0], found[-1]] if len(found) > 1 else found
    for interaction, pairs in shown:
        n = int(interaction.path.name)
        k, sets = Counter(len(black.order) for black, _ in pairs).most_common(1)[0]
        counts = place_counts([p for p in pairs if len(p[0].order) == k], k)
        of = f"{sets} lists of {k}" + (f" ({len(pairs) - sets} of other lengths left out)" if sets < len(pairs) else "")
        yield Grid(
            key=f"confusion-{n}",
            title=f"Places by both rankers, interaction {n}",
            x_label="place by the white box",
            y_label="place by the black box",
            names=tuple(str(place) for place in range(1, k + 1)),
            counts=counts,
            note=f"Share of each row, over {of}. Agreement is the diagonal; by chance every cell has {1 / k:.0%}. A"
            " tie counts in equal parts at the places that it takes.",
        )


def both_rankings(interaction: InteractionDir) -> list[Pair]:
    """The rankings of every list that both boxes ranked whole; what a cascade pruned is not the black box's order."""
    white = read_rankings(interaction.white_box)
    black = read_rankings(interaction.black_box) if white else {}
    whole = {i: r for i, r in black.items() if len(r.judged) == len(r.order)}
    pairs = [(ranking, white[i]) for i, ranking in whole.items() if i in white]
    return [(b, w) for b, w in pairs if len(b.order) >= 2 and sorted(b.order) == sorted(w.order)]


def place_counts(pairs: Sequence[Pair], k: int) -> tuple[tuple[float, ...], ...]:
    """``counts[i][j]``: candidates at place i by the first ranking and at place j by the second, from 0."""
    counts = [[0.0] * k for _ in range(k)]
    for first, second in pairs:
        a, b = _places(first), _places(second)
        for candidate, rows in a.items():
            columns = b[candidate]
            for row in rows:
                for column in columns:
                    counts[row][column] += 1 / (len(rows) * len(columns))
    return tuple(map(tuple, counts))


def _places(ranking: Ranking) -> dict[str, range]:
    """The places that each candidate takes: of a tie, all of the tie's."""
    places: dict[str, range] = {}
    before = 0
    for tier in ranking.tiers:
        places |= dict.fromkeys(tier, range(before, before + len(tier)))
        before += len(tier)
    return places


def position_chart(run: RunDir, facts: Facts) -> LineChart | None:
    """By slot before the judge: the share of answers that put what stood there first, and last."""
    passes = [p for i in run.interactions() for p in presented(i, facts)]
    if not passes:
        return None
    k, n = Counter(len(shown) for shown, _ in passes).most_common(1)[0]
    passes = [p for p in passes if len(p[0]) == k]
    first, last = _slot_counts(passes, 0), _slot_counts(passes, -1)
    return LineChart(
        key="position",
        title="Position bias of the black box",
        x_label="slot in which a candidate was shown",
        y_label="share of answers",
        lines=(_by_slot("ranked first", first, k, n), _by_slot("ranked last", last, k, n)),
        rules=(("no bias", 1 / k),),
        note=f"{n} answers on lists of {k}, all interactions. Bars: Wilson 95% intervals; answers about one prompt are"
        f" taken as independent. {_flips(run)}",
    )


def _slot_counts(passes: Sequence[Pass], end: int) -> Mapping[int, float]:
    """How often what stood in each slot was put first (or last, ``end`` -1); a tie counts in equal parts."""
    counts: dict[int, float] = defaultdict(float)
    for shown, given in passes:
        for candidate in given[end]:
            counts[shown.index(candidate)] += 1 / len(given[end])
    return counts


def position_note(run: RunDir, facts: Facts) -> str | None:
    """Why there is no chart of the position bias, where there are rankings and none."""
    backend = facts.settings.backend
    if backend in KINDS and KINDS[backend].scores and any(read_rankings(i.black_box) for i in run.interactions()):
        return f"Position bias: none to measure; this black box ({backend}) scores each candidate by itself."
    return None


def presented(interaction: InteractionDir, facts: Facts) -> Iterator[Pass]:
    """What the judge saw and answered: the orders are drawn again from the seeds that the ranker drew them from."""
    name, seed, n = facts.settings.name, facts.settings.seed, int(interaction.path.name)
    if name is None or seed is None or facts.judge in (None, "replay"):  # replayed: in another run's orders
        return
    sets = read_sets(interaction.candidates)
    for prompt_id, ranking in read_rankings(interaction.black_box).items():
        if not ranking.passes or prompt_id not in sets:
            continue
        if ranking.jury:
            yield from (p for vote in ranking.jury for p in zip(vote.shown, map(tiers_of, vote.passes), strict=True))
            continue
        ids = [i for i in sets[prompt_id].ids if i in ranking.judged]
        drawn = derive_seed(derive_seed(seed, "rank", n), name, n, prompt_id)
        orders = presentations(len(ids), len(ranking.passes), seed=drawn)
        for order, given in zip(orders, ranking.passes, strict=True):
            tiers = tiers_of(given)
            if sorted(i for tier in tiers for i in tier) == sorted(ids):
                yield tuple(ids[index] for index in order), tiers


def _by_slot(name: str, counts: Mapping[int, float], k: int, n: int) -> Line:
    points = tuple((float(slot + 1), counts[slot] / n) for slot in range(k))
    intervals: tuple[Interval | None, ...] = tuple(wilson(share, n) for _, share in points)
    return Line(name, points, intervals)


def _flips(run: RunDir) -> str:
    """How often the first choice changes with the order; empty where each list was shown once."""
    rankings = [r for i in run.interactions() for r in read_rankings(i.black_box).values() if len(r.passes) >= 2]
    if not rankings:
        return ""
    flipped = sum(len({frozenset(tiers_of(given)[0]) for given in r.passes}) > 1 for r in rankings)
    low, high = wilson(flipped / len(rankings), len(rankings))
    share = f"{flipped / len(rankings):.0%} ({low:.0%} to {high:.0%})"
    return f"The first choice changes with the order in {share} of {len(rankings)} lists shown in several."
