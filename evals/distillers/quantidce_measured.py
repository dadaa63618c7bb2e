"""What `quantidce.py` measures: order of levels on DailyDialog++ test, and correlation with two sets of ratings.

Ratings are parted by query (engagement) and by conversation (Topical-Chat): half to test, a quarter to choose settings
on, a quarter to train on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats

from cyclealign.evaluation.arms import claim_record, compare_arms
from cyclealign.evaluation.statistics import Estimate, Figure, Figures
from cyclealign.files.dialogues import context_of, read_levels, read_ratings
from cyclealign.files.foreign_json import json_rows
from cyclealign.rankers.encoders import CoherenceScorer
from cyclealign.rankers.scored import Pair

Vector = NDArray[np.float64]
Scores = Mapping[str, Sequence[float]]
ENGAGEMENT = "engagement_ratings_nc/ratings.jsonl.gz"
TOPICAL = ("valid_freq", "valid_rare", "test_freq", "test_rare")
MARKS = {"Poor": 1, "Not Good": 2, "Passable": 3, "Good": 4, "Excellent": 5}
BEFORE = 3  # turns of a Topical-Chat conversation that stand before the rated one
Part = Literal["test", "dev", "train"]
PARTS: tuple[Part, ...] = ("test", "test", "dev", "train")
DRAWS = 2_000
SHAPE = (3, 5)  # levels, responses of each
PAIRS = {"best_middle": (0, 1), "middle_worst": (1, 2), "best_worst": (0, 2)}


def part_of(text: str) -> Part:
    """By the hash of a query, or of a conversation's id."""
    return PARTS[hashlib.sha256(text.encode()).digest()[0] % len(PARTS)]


class Measured:
    """The items, the same for every arm: of one part of the ratings, at most ``turns`` of Topical-Chat a rating; of
    DailyDialog++ test, ``contexts``."""

    def __init__(self, data: Path, part: Part, *, turns: int, contexts: int = 0) -> None:
        self.part = part
        levelled = list(read_levels(data / "dailydialogpp_nc" / "test.jsonl.gz"))[:contexts]
        engaging, topical = engagement(data, part), topical_turns(data / "topical_chat", part, turns)
        self.pairs: dict[str, list[Pair]] = {
            "levels": [(d.context, text) for d in levelled for level in d.levels for text in level],
            "engagement": [pair for pair, _ in engaging],
            "topical": [pair for pair, _ in topical],
        }
        self.human = {
            "engagement": np.array([mark for _, mark in engaging]),
            "topical": np.array([mark for _, mark in topical]),
        }

    def scores(self, model: Path) -> dict[str, list[float]]:
        """Coherence from 1 to 5 of all items."""
        scorer = CoherenceScorer(str(model), key="model")
        with torch.autocast("cpu", torch.bfloat16):
            return {name: scorer.score(pairs) if pairs else [] for name, pairs in self.pairs.items()}

    def longer_is_better(self) -> dict[str, list[float]]:
        """What a metric would score that sees nothing but the words of a response."""
        return {
            name: [5 - 4 / (1 + len(response.split())) for _, response in pairs] for name, pairs in self.pairs.items()
        }

    def rhos(self, scores: Scores) -> dict[str, float]:
        """Spearman's rho with each set of ratings."""
        return {name: float(stats.spearmanr(scores[name], human).statistic) for name, human in self.human.items()}

    def figures(self, arms: Mapping[str, Sequence[Scores]]) -> dict[str, dict[str, float]]:
        """Means over the seeds."""
        return {name: _means([self._of_one(scores) for scores in seeds]) for name, seeds in arms.items()}

    def claims(self, arms: Mapping[str, Sequence[Scores]], claims: Sequence[tuple[str, str]]) -> list[Figures]:
        """Each claim on each measure, over seeds and items drawn with replacement."""
        order = {name: [ordered_pairs(s["levels"]).tolist() for s in seeds] for name, seeds in arms.items()}
        rows: list[Figures] = [{"measure": "level_accuracy", **row} for row in compare_arms(order, claims)]
        for measure, human in self.human.items():
            for better, other in claims:
                first, second = (np.array([s[measure] for s in arms[name]]) for name in (other, better))
                found = spearman_difference(first, second, human)
                claim = f"{better} above {other}"
                about: dict[str, Figure] = {"measure": f"spearman_{measure}", "claim": claim, "seeds": len(first)}
                rows.append({**about, **claim_record(found)})
        return rows

    def _of_one(self, scores: Scores) -> dict[str, float]:
        table = by_level(scores["levels"])
        found = {"level_accuracy": float(ordered_pairs(scores["levels"]).mean())}
        for name, (better, worse) in PAIRS.items():
            found[f"level_accuracy_{name}"] = float(above(table[:, better], table[:, worse]).mean())
        found |= {f"spearman_{measure}": rho for measure, rho in self.rhos(scores).items()}
        for measure, human in self.human.items():
            own = np.array(scores[measure])
            found[f"pearson_{measure}"] = float(stats.pearsonr(own, human).statistic)
            found[f"absolute_error_{measure}"] = float(np.abs(own - human).mean())
        return found


def by_level(scores: Sequence[float]) -> Vector:
    """[contexts, levels, responses]"""
    return np.array(scores, dtype=np.float64).reshape(-1, *SHAPE)


def above(better: Vector, worse: Vector) -> Vector:
    """Share of the pairs [contexts] whose better response has the higher score; ties count half."""
    gaps = better[:, :, None] - worse[:, None, :]
    shares: Vector = ((np.sign(gaps) + 1) / 2).mean(axis=(1, 2))
    return shares


def ordered_pairs(scores: Sequence[float]) -> Vector:
    """Of each context, the share of pairs from different levels in the right order."""
    table = by_level(scores)
    shares: Vector = np.mean([above(table[:, a], table[:, b]) for a, b in PAIRS.values()], axis=0)
    return shares


def spearman_difference(first: Vector, second: Vector, human: Vector) -> Estimate:
    """Mean over the seeds of rho(second) - rho(first), [seeds, items]; the interval draws seeds and items."""
    rng = np.random.default_rng(0)
    seeds, items = first.shape
    drawn = []
    for _ in range(DRAWS):
        rows, at = rng.integers(seeds, size=seeds), rng.integers(items, size=items)
        distinct, times = np.unique(rows, return_counts=True)
        tables = (first[distinct][:, at], second[distinct][:, at])
        drawn.append(float((times / seeds) @ (rhos(tables[1], human[at]) - rhos(tables[0], human[at]))))
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Estimate(float((rhos(second, human) - rhos(first, human)).mean()), float(low), float(high), items)


def rhos(scores: Vector, human: Vector) -> Vector:
    """Spearman's rho of each row with the ratings: Pearson's r of mid-ranks."""
    ranks = stats.rankdata(scores, axis=1)
    target = stats.rankdata(human)
    ranks, target = ranks - ranks.mean(axis=1, keepdims=True), target - target.mean()
    found: Vector = ranks @ target / np.sqrt((ranks**2).sum(axis=1) * (target**2).sum())
    return found


def engagement(data: Path, part: Part) -> list[tuple[Pair, float]]:
    """Responses with their mean rating."""
    found = [r for r in read_ratings(data / ENGAGEMENT) if part_of(r.context[-1]["content"]) == part]
    return [((r.context, r.response), r.rating) for r in found]


def topical_turns(folder: Path, part: Part, of_each: int) -> list[tuple[Pair, float]]:
    """At most so many turns of every rating, chosen by the hash of conversation and place, with the turns before."""
    found: dict[int, list[tuple[str, Pair]]] = {mark: [] for mark in MARKS.values()}
    for name in TOPICAL:
        for place, row in json_rows(folder / f"{name}.jsonl.gz"):
            texts = [turn["text"].strip() for turn in row["turns"]]
            for n, turn in enumerate(row["turns"] if part_of(row["id"]) == part else ()):
                if n > 0 and turn["rating"] in MARKS and all(texts[max(0, n - BEFORE) : n + 1]):
                    context = context_of({"context": texts[max(0, n - BEFORE) : n]}, place)
                    key = hashlib.sha256(f"{row['id']}:{n}".encode()).hexdigest()
                    found[MARKS[turn["rating"]]].append((key, (context, texts[n])))
    return [(pair, float(mark)) for mark, turns in found.items() for _, pair in sorted(turns)[:of_each]]


def _means(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: round(float(np.mean([row[name] for row in rows])), 4) for name in rows[0]}
