"""GPT-4's lists of eight replies into a ranker that sees their form, by five list losses, beside what is free.

    python evals/judges/gpt4_lists.py --data DIR --out evals/results/gpt4_lists.json

Data: ``alpacaeval_nc`` (non-commercial: read in place), halved as in ``cascade.py``: the features were chosen on the
first half, the second is tested. The student is a network of one hidden layer on the features of the cascade's local
ranker (length, lines, variety of words, what the other replies say, ...); a seed draws its first weights and the lists
of each step. The teacher's scores are the log-odds that GPT-4 prefers a reply to GPT-4-turbo's own. Weight decay and
steps of an arm are those of the best mean tau on development prompts of the first half, from the same grid for all,
and written down (``settings``) before a test prompt is read. Free: longer is better, the packaged local ranker, chance.
"""

from __future__ import annotations

import argparse
import itertools
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from cascade import HALVES, Cached, Item, load
from torch import Tensor, nn

from cyclealign.evaluation.arms import compare_arms
from cyclealign.evaluation.ranker import ndcg
from cyclealign.evaluation.result import make_result, write_result
from cyclealign.losses import PLD, ListMLE, ListNet, MarginMSE, RankedScores, RankingLoss, RankNet
from cyclealign.rankers.agreement import kendall_tau
from cyclealign.rankers.local import LocalRanker
from cyclealign.rankers.utilities import order_utilities
from cyclealign.types import Ranking

ARMS: dict[str, RankingLoss] = {
    "pld": PLD(),
    "listmle": ListMLE(),
    "listnet": ListNet(),
    "ranknet": RankNet(),
    "margin_mse": MarginMSE(),
}
DEVELOPMENT, WIDTH, LISTS, RATE = 96, 32, 32, 3e-3
DECAYS = (0.01, 0.1, 1.0)
STEPS = (25, 50, 100, 200, 400, 800)
LEAST = 1e-4  # probabilities nearer to 0 or 1 than this say no more
Scores = Sequence[float]  # of a list's candidates


@dataclass(frozen=True, kw_only=True)
class Setting:
    """tau: on the development prompts, the mean over seeds."""

    decay: float
    steps: int
    tau: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of alpacaeval_nc")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--development-only", action="store_true", help="stop before a test prompt is read")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    items = load(arguments.data / "alpacaeval_nc" / "rankings.jsonl.gz")
    order = np.random.default_rng(HALVES).permutation(len(items)).tolist()
    half = len(items) // 2
    development, train, test = (
        [items[n] for n in part] for part in (order[:DEVELOPMENT], order[DEVELOPMENT:half], order[half:])
    )
    view = View(train)
    seeds = range(arguments.seeds)
    curves = {
        name: {decay: [curve(loss, decay, seed, train, development, view) for seed in seeds] for decay in DECAYS}
        for name, loss in ARMS.items()
    }
    settings = {name: best(found) for name, found in curves.items()}
    of_length = fmean(tau(item, length(item)) for item in development)
    print(f"development: length {of_length:.4f}")
    for name, setting in settings.items():
        print(f"development: {name} {setting}", flush=True)
    if arguments.development_only:
        return
    metrics: dict[str, Any] = {
        "settings": {name: asdict(setting) for name, setting in settings.items()},
        "development_tau": {"length": of_length, **{name: s.tau for name, s in settings.items()}},
        "curve_steps": STEPS,
        "curves": {
            name: {str(d): [fmean(taus) for taus in zip(*rows, strict=True)] for d, rows in found.items()}
            for name, found in curves.items()
        },
        "lists": tested(settings, train, test, view, seeds),
    }
    about = {"question": str(__doc__).splitlines()[0], "seeds": arguments.seeds, "train": len(train)}
    about |= {"development": len(development), "test": len(test)}
    result = make_result("gpt4_lists", about=about, seed=0, metrics=metrics, items=(), primary="lists")
    write_result(arguments.out, result)
    for row in metrics["lists"]["claims"]:
        print(row)


class View:
    """What the student sees of a list [K, F]: each feature with mean 0 and deviation 1 over the training lists."""

    def __init__(self, train: Sequence[Item]) -> None:
        self._features = Cached()
        rows = np.concatenate([self._features(item.set) for item in train])
        self._mean, self._deviation = rows.mean(axis=0), np.maximum(rows.std(axis=0), 1e-6)  # no reply here is cut off

    def __call__(self, item: Item) -> Tensor:
        return torch.tensor((self._features(item.set) - self._mean) / self._deviation, dtype=torch.float32)

    @property
    def width(self) -> int:
        return len(self._features.names)


def log_odds(item: Item) -> Tensor:
    return torch.tensor([item.preferences[i] for i in item.set.ids]).logit(eps=LEAST)


def curve(
    loss: RankingLoss, decay: float, seed: int, train: Sequence[Item], development: Sequence[Item], view: View
) -> list[float]:
    """Mean tau on the development lists after each number of ``STEPS``."""
    return [
        fmean(tau(item, told(student, item, view)) for item in development)
        for step, student in trained(loss, decay, seed, train, view, max(STEPS))
        if step in STEPS
    ]


def trained(
    loss: RankingLoss, decay: float, seed: int, train: Sequence[Item], view: View, steps: int
) -> Iterator[tuple[int, nn.Module]]:
    """The student after each step, from 1 on; AdamW at a constant rate, ``LISTS`` lists a step."""
    torch.manual_seed(seed)
    student = nn.Sequential(nn.Linear(view.width, WIDTH), nn.Tanh(), nn.Linear(WIDTH, 1))
    optimiser = torch.optim.AdamW(student.parameters(), lr=RATE, weight_decay=decay)
    draw = random.Random(seed)
    for step in range(1, steps + 1):
        optimiser.zero_grad()
        torch.autograd.backward(loss(bundle(student, draw.sample(train, LISTS), view)).loss)
        optimiser.step()
        yield step, student


def bundle(student: nn.Module, items: Sequence[Item], view: View) -> RankedScores:
    rows = nn.utils.rnn.pad_sequence([view(item) for item in items], batch_first=True)
    teacher = nn.utils.rnn.pad_sequence([log_odds(item) for item in items], batch_first=True)
    sizes = torch.tensor([len(item.set.ids) for item in items])
    valid = torch.arange(teacher.shape[1]) < sizes[:, None]
    return RankedScores(student=student(rows)[..., 0], teacher=teacher, valid=valid)


@torch.no_grad()
def told(student: nn.Module, item: Item, view: View) -> Scores:
    found: list[float] = student(view(item))[:, 0].tolist()
    return found


def length(item: Item) -> Scores:
    return [float(len(c.text.split())) for c in item.set.candidates]


def ranking(item: Item, scores: Scores) -> Ranking:
    return Ranking.from_scores(item.set.prompt.id, dict(zip(item.set.ids, scores, strict=True)))


def tau(item: Item, scores: Scores) -> float:
    return kendall_tau(ranking(item, scores), item.judged)


def gain(item: Item, scores: Scores) -> float:
    """nDCG; gains are places in the judge's order, K - 1 for its first."""
    return ndcg(ranking(item, scores), order_utilities(item.judged))


def best(found: Mapping[float, Sequence[Sequence[float]]]) -> Setting:
    """Of the best mean over seeds; among equals the first of the grid."""
    means = [
        Setting(decay=decay, steps=steps, tau=fmean(row[n] for row in rows))
        for (decay, rows), (n, steps) in itertools.product(found.items(), enumerate(STEPS))
    ]
    return max(means, key=lambda setting: setting.tau)


def tested(
    settings: Mapping[str, Setting], train: Sequence[Item], test: Sequence[Item], view: View, seeds: Sequence[int]
) -> dict[str, Any]:
    """Tau and nDCG of every arm and of what is free on the test prompts, and the claims of both."""
    draw, local = random.Random(0), LocalRanker()
    free: dict[str, Sequence[Scores]] = {
        "length": [length(item) for item in test],
        "packaged ranker": [
            local.score([(item.set.prompt.messages, c.text) for c in item.set.candidates]) for item in test
        ],
        "chance": [[draw.random() for _ in item.set.ids] for item in test],
    }
    found: dict[str, list[Sequence[Scores]]] = {name: [rows] * len(seeds) for name, rows in free.items()}
    for (name, setting), seed in itertools.product(settings.items(), seeds):
        *_, (_, student) = trained(ARMS[name], setting.decay, seed, train, view, setting.steps)
        found.setdefault(name, []).append([told(student, item, view) for item in test])
    measures: dict[str, Callable[[Item, Scores], float]] = {"tau": tau, "ndcg": gain}
    values = {
        measure: {
            name: [[of(item, s) for item, s in zip(test, row, strict=True)] for row in rows]
            for name, rows in found.items()
        }
        for measure, of in measures.items()
    }
    claims = [(name, "length") for name in ARMS] + [("pld", name) for name in ARMS if name != "pld"]
    return {
        **{m: {name: [fmean(row) for row in rows] for name, rows in of.items()} for m, of in values.items()},
        "claims": [{"measure": m, **row} for m, of in values.items() for row in compare_arms(of, claims)],
    }


if __name__ == "__main__":
    main()
