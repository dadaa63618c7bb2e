"""The cascade on AlpacaEval's recorded GPT-4 lists, replayed as the paid judge: quality against calls and tokens saved.

    python evals/judges/cascade.py --data DIR --out evals/results/cascade.json

Data: ``alpacaeval_nc/rankings.jsonl.gz`` (644 prompts, 8 models; the judge's log-probability preference of each output
over one baseline). The features of the local ranker were chosen on half of the prompts; the other half is held out and
measured, against the judge's order of the whole list. A seed draws 240 lists of the first half, from which the local
ranker is distilled. That judge was asked about each candidate by itself, so keeping 4 of 8 is half of its calls; for a
judge that ranks a list in one call, half of the calls is half of the lists answered alone. Both are reported.

Arms: the cascade; the same cascade with ``length`` (longer first) and ``prior`` (mean place of the model that wrote it,
on the paid lists) in place of the local ranker; chance. Values of one prompt are averaged over the seeds; intervals
are bootstraps over prompts.
"""

from __future__ import annotations

import argparse
import math
import random
import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cyclealign.config.black_box import CascadeConfig
from cyclealign.evaluation.arms import POWER80, conclusion
from cyclealign.evaluation.intervals import Z95
from cyclealign.evaluation.ranker import ndcg
from cyclealign.evaluation.result import Item as ResultItem
from cyclealign.evaluation.result import make_result, write_result
from cyclealign.evaluation.statistics import Figures, bootstrap_mean, paired_difference
from cyclealign.files.foreign_json import json_rows
from cyclealign.files.jsonl import write_jsonl
from cyclealign.files.records import encode
from cyclealign.judge.prompting import estimate_message_tokens, estimate_tokens
from cyclealign.rankers.agreement import kendall_tau
from cyclealign.rankers.cascade import CascadeRanker
from cyclealign.rankers.distilled import Distilled, Features, distil, expected_agreement
from cyclealign.rankers.pruning import best_first, cascade_figures
from cyclealign.rankers.replay import ReplayRanker
from cyclealign.rankers.reply_features import ReplyFeatures
from cyclealign.rankers.utilities import order_utilities
from cyclealign.types import Candidate, CandidateSet, Demonstration, Prompt, RankContext, Ranking

KEEPS = (2, 3, 4, 5, 6, 7)
ALONE = (0.25, 0.5, 0.75, 1.0)  # shares of lists answered alone
BOTH = ((4, 0.25), (4, 0.5), (5, 0.25), (6, 0.25), (6, 0.5))
LEARNED_FROM = (20, 40, 80, 160, 240)  # lists
PAID = 240
HALVES = 12345
NO_AUDIT = 1e-9
QUALITIES = ("ndcg", "ndcg_log_odds", "tau", "best_first")
SAVINGS = ("calls", "list_calls", "tokens")


@dataclass(frozen=True)
class Item:
    """A list with the judge's preferences and the model that wrote each candidate."""

    set: CandidateSet
    preferences: Mapping[str, float]
    models: Mapping[str, str]

    @property
    def judged(self) -> Ranking:
        return Ranking.from_scores(self.set.prompt.id, self.preferences)

    @property
    def tokens(self) -> int:
        texts = sum(estimate_tokens(c.text) for c in self.set.candidates)
        return texts + estimate_message_tokens(self.set.prompt.messages)


class Cached:
    """The features of each list, computed once."""

    def __init__(self) -> None:
        self._features = ReplyFeatures()
        self._rows: dict[str, NDArray[np.float64]] = {}

    @property
    def names(self) -> tuple[str, ...]:
        return self._features.names

    def __call__(self, item: CandidateSet) -> NDArray[np.float64]:
        if item.prompt.id not in self._rows:
            self._rows[item.prompt.id] = self._features(item)
        return self._rows[item.prompt.id]


class One:
    """A baseline's score as the only feature."""

    names = ("score",)

    def __init__(self, scores: Mapping[str, Mapping[str, float]]) -> None:
        self._scores = scores

    def __call__(self, item: CandidateSet) -> NDArray[np.float64]:
        return np.array([[self._scores[item.prompt.id][i]] for i in item.ids])


class NoDemonstrations:
    def select(self, prompt: Prompt) -> Sequence[Demonstration]:
        return ()


CONTEXT = RankContext(run="cascade", interaction=0, seed=0, demonstrations=NoDemonstrations())
GIVEN = Distilled(weights={"score": 1.0}, lists=0, accuracy=1.0, error=0.0)
Local = tuple[Distilled, Features]
Values = dict[str, dict[str, dict[str, float]]]
"""By arm, measure and prompt."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    items = load(arguments.data / "alpacaeval_nc" / "rankings.jsonl.gz")
    features = Cached()
    found: dict[str, dict[str, dict[str, list[float]]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    fits: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        judge = recorded_judge(items, Path(folder) / "judge.jsonl")
        for seed in range(arguments.seeds):
            paid, held_out = split(items, seed)
            local = distil([(i.set, i.judged) for i in paid], features)
            assert local is not None
            fits.append(encode(local.record()))
            for arm, values in one_seed(paid, held_out, local, features, judge, seed).items():
                for measure, by_prompt in values.items():
                    for prompt_id, value in by_prompt.items():
                        found[arm][measure][prompt_id].append(value)
    means = {a: {m: {i: fmean(v) for i, v in p.items()} for m, p in ms.items()} for a, ms in found.items()}
    metrics: Figures = {"arms": summaries(means), "claims": claims(means), "fits": fits}
    about: Figures = {"question": str(__doc__).splitlines()[0], "prompts": len(items), "seeds": arguments.seeds}
    shown = {a: m["ndcg"] for a, m in means.items() if a.endswith((" keep=4", " alone=0.5")) and a.count("=") == 1}
    records = [
        ResultItem(key=i, value=v, values={a: round(by_prompt[i], 6) for a, by_prompt in shown.items()})
        for i, v in means["cascade keep=4"]["ndcg"].items()
    ]
    write_result(
        arguments.out, make_result("cascade", about=about, seed=0, metrics=metrics, items=records, primary="ndcg")
    )
    print(tables(metrics))


def load(path: Path) -> list[Item]:
    """Lists with a preference for every candidate; of equal outputs the first is kept."""
    items = []
    for _, row in json_rows(path):
        by_text: dict[str, dict[str, Any]] = {}
        for candidate in row["candidates"]:
            if candidate["output"].strip():
                by_text.setdefault(candidate["output"], candidate)
        rows = list(by_text.values())
        prompt = Prompt(({"role": "user", "content": row["instruction"]},))
        items.append(
            Item(
                CandidateSet(prompt, tuple(Candidate(str(n), c["output"]) for n, c in enumerate(rows))),
                {str(n): float(c["pref_vs_gpt4turbo"]) for n, c in enumerate(rows)},
                {str(n): c["model"] for n, c in enumerate(rows)},
            )
        )
    return items


def recorded_judge(items: Sequence[Item], path: Path) -> ReplayRanker:
    lines = [
        {
            "messages": list(i.set.prompt.messages),
            "candidates": [{"id": c.id, "text": c.text} for c in i.set.candidates],
            "scores": dict(i.preferences),
        }
        for i in items
    ]
    write_jsonl(path, lines)
    return ReplayRanker(path, parts=True)


def split(items: Sequence[Item], seed: int) -> tuple[list[Item], list[Item]]:
    """Paid lists, drawn by seed, and the held-out half, the same for every seed."""
    order = np.random.default_rng(HALVES).permutation(len(items)).tolist()
    half = len(items) // 2
    paid = random.Random(seed).sample(order[:half], PAID)
    return [items[n] for n in paid], [items[n] for n in order[half:]]


def baselines(paid: Sequence[Item], items: Sequence[Item], seed: int) -> dict[str, Local]:
    """Scores of length, of the model prior learned from the paid lists, and of chance."""
    places: dict[str, list[float]] = defaultdict(list)
    for item in paid:
        for candidate, utility in order_utilities(item.judged).items():
            places[item.models[candidate]].append(utility / (len(item.models) - 1))
    chance = random.Random(seed)
    ways: dict[str, Callable[[Item, str], float]] = {
        "length": lambda item, i: float(len(item.set.text(i).split())),
        "prior": lambda item, i: fmean(places[item.models[i]]),
        "chance": lambda item, i: chance.random(),  # noqa: ARG005
    }
    return {
        name: (GIVEN, One({item.set.prompt.id: {i: way(item, i) for i in item.models} for item in items}))
        for name, way in ways.items()
    }


def one_seed(
    paid: Sequence[Item], held_out: Sequence[Item], local: Distilled, features: Features, judge: ReplayRanker, seed: int
) -> Values:
    """All arms on the held-out lists of one split."""
    others = baselines(paid, held_out, seed)
    thresholds = [expected_agreement(local.scores(features, i.set)) for i in paid]
    values: Values = {}

    def arm(name: str, by: Local, *, keep: int, sure: float | None = None) -> list[Ranking]:
        rankings = cascaded(held_out, judge, by, keep=keep, sure=sure)
        values[name] = measured(held_out, rankings)
        return rankings

    for keep in KEEPS:
        arm(f"cascade keep={keep}", (local, features), keep=keep)
        for name, other in others.items():
            arm(f"{name} keep={keep}", other, keep=keep)
    for share in ALONE:
        sure = max(float(np.quantile(thresholds, 1 - share)), 0.5 + 1e-9) if share < 1 else 0.5 + 1e-9
        rankings = arm(f"cascade alone={share:g}", (local, features), keep=16, sure=sure)
        for name, (_, scores) in others.items():
            # The same lists to the judge; the rest by the baseline.
            rest = [r if r.judged else by_score(i, scores) for i, r in zip(held_out, rankings, strict=True)]
            values[f"{name} alone={share:g}"] = measured(held_out, rest, saved=values[f"cascade alone={share:g}"])
    for keep, share in BOTH:
        sure = float(np.quantile(thresholds, 1 - share))
        arm(f"cascade keep={keep} alone={share:g}", (local, features), keep=keep, sure=sure)
    for n in LEARNED_FROM:
        fewer = distil([(i.set, i.judged) for i in paid[:n]], features)
        assert fewer is not None
        arm(f"cascade keep=4 from {n}", (replace(fewer, accuracy=1.0, error=0.0), features), keep=4)
    return values


def by_score(item: Item, scores: Features) -> Ranking:
    rows = scores(item.set)[:, 0].tolist()
    return Ranking.from_scores(item.set.prompt.id, dict(zip(item.set.ids, rows, strict=True)))


def cascaded(items: Sequence[Item], judge: ReplayRanker, by: Local, *, keep: int, sure: float | None) -> list[Ranking]:
    """The verdicts of the package's own cascade, in the order of the items."""
    local, features = by
    config = CascadeConfig(judge="replay", audit=NO_AUDIT, keep=keep)
    ranker = CascadeRanker(judge, config, lambda: features, lambda *_: replace(local, alone_from=sure))
    found = {v.prompt_id: v for v in ranker.rank((i.set for i in items), CONTEXT)}
    rankings = [found[i.set.prompt.id] for i in items]
    assert all(isinstance(r, Ranking) for r in rankings)
    return [r for r in rankings if isinstance(r, Ranking)]


def measured(
    items: Sequence[Item], rankings: Sequence[Ranking], *, saved: dict[str, dict[str, float]] | None = None
) -> dict[str, dict[str, float]]:
    """By measure and prompt: quality against the judge's whole list, and shares of its calls and tokens saved."""
    values: dict[str, dict[str, float]] = {m: {} for m in (*QUALITIES, *SAVINGS)}
    for item, ranking in zip(items, rankings, strict=True):
        prompt_id, full = item.set.prompt.id, item.judged
        log_odds = {i: math.log(max(p, 1e-6) / max(1 - p, 1e-6)) for i, p in item.preferences.items()}
        values["ndcg"][prompt_id] = ndcg(ranking, order_utilities(full))
        values["ndcg_log_odds"][prompt_id] = ndcg(ranking, log_odds)
        values["tau"][prompt_id] = kendall_tau(ranking, full)
        values["best_first"][prompt_id] = best_first((ranking, full))
        figures = cascade_figures({prompt_id: item.set}, [ranking], passes=1)
        values["calls"][prompt_id] = 1 - len(ranking.judged) / len(item.set.ids)
        values["list_calls"][prompt_id] = float(not ranking.judged)
        values["tokens"][prompt_id] = figures.tokens_saved / item.tokens if figures else 0.0
    if saved is not None:
        values |= {m: saved[m] for m in SAVINGS}
    return values


def summaries(means: Values) -> dict[str, Any]:
    """Means by arm and measure; of the qualities with intervals."""
    return {
        arm: {m: bootstrap_mean(list(values[m].values())) for m in QUALITIES}
        | {m: fmean(values[m].values()) for m in SAVINGS}
        for arm, values in means.items()
    }


def claims(means: Values) -> dict[str, Any]:
    """Paired differences at half of the calls, under both ways to count them, and the share of the full nDCG."""
    found: dict[str, Any] = {}
    for half in ("keep=4", "alone=0.5"):
        for other in ("length", "prior", "chance"):
            for measure in ("ndcg", "tau", "ndcg_log_odds"):
                ours, theirs = means[f"cascade {half}"][measure], means[f"{other} {half}"][measure]
                first, second = [theirs[i] for i in ours], list(ours.values())
                found[f"{half}: cascade - {other}, {measure}"] = judged(first, second)
        ours = means[f"cascade {half}"]["ndcg"]
        share = bootstrap_mean(list(ours.values()))
        assert share is not None
        found[f"{half}: at least 95% of the full nDCG"] = share.record() | {"verdict": conclusion(share, bar=0.95)}
    return found


def judged(first: Sequence[float], second: Sequence[float]) -> dict[str, Any]:
    estimate = paired_difference(first, second)
    assert estimate is not None
    gains = [b - a for a, b in zip(first, second, strict=True)]
    detectable = (Z95 + POWER80) * stdev(gains) / math.sqrt(len(gains))
    return estimate.record() | {"verdict": conclusion(estimate), "smallest_detectable": detectable}


def tables(metrics: Mapping[str, Any]) -> str:
    """Markdown, for the docs."""
    lines = ["| arm | judge's calls saved | list calls saved | tokens saved | nDCG | tau | first choice first |"]
    lines.append("|---|---|---|---|---|---|---|")
    for arm, values in metrics["arms"].items():
        shares = " | ".join(f"{values[m]:.0%}" for m in SAVINGS)
        scores = " | ".join(
            f"{e.value:.3f} ({e.low:.3f} to {e.high:.3f})" if e.low is not None else f"{e.value:.3f}"
            for e in (values[m] for m in ("ndcg", "tau", "best_first"))
        )
        lines.append(f"| {arm} | {shares} | {scores} |")
    lines += ["", "| claim | value | 95% interval | smallest detectable | verdict |", "|---|---|---|---|---|"]
    for name, c in metrics["claims"].items():
        least = f"{c['smallest_detectable']:.4f}" if "smallest_detectable" in c else ""
        lines.append(f"| {name} | {c['value']:+.4f} | {c['low']:+.4f} to {c['high']:+.4f} | {least} | {c['verdict']} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
