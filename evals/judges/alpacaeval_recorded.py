"""AlpacaEval's recorded judge: win rates of 8 models against two baselines, against the published leaderboards.

    python evals/judges/alpacaeval_recorded.py --data rankings.jsonl.gz --out evals/results/alpacaeval_recorded.json

``PUBLISHED``: win rates in percent of github.com/tatsu-lab/alpaca_eval, its leaderboards of AlpacaEval 1 (GPT-4,
against text-davinci-003) and 2 (GPT-4 Turbo weighted by log-probabilities, against GPT-4 Turbo; raw and
length-controlled). There are no human annotators in this data: what it can say of a judge is how far its two versions
rank the same lists alike.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

from scipy.stats import kendalltau, spearmanr

from cyclealign.evaluation.length_control import length_controlled
from cyclealign.evaluation.recorded import cohen_kappa
from cyclealign.evaluation.result import make_result, write_result
from cyclealign.evaluation.statistics import Figures, bootstrap_mean
from cyclealign.files.foreign_json import json_rows
from cyclealign.rankers.agreement import kendall_tau
from cyclealign.types import Ranking

WHOLE = 805


class Published(NamedTuple):
    """Percent; ``davinci_n``: verdicts that the first leaderboard counts."""

    davinci: float
    davinci_n: int
    turbo: float
    turbo_n: int
    controlled: float
    length: int


PUBLISHED = {
    "alpaca-7b": Published(26.4596, 805, 2.5915, 805, 5.8755, 396),
    "phi-2": Published(30.6633, 799, 2.3502, 803, 4.3987, 626),
    "alpaca-farm-ppo-human": Published(41.2422, 805, 4.1004, 805, 6.4186, 803),
    "minichat-3b": Published(48.8184, 804, 3.0072, 805, 5.7293, 868),
    "phi-2-sft": Published(68.5323, 804, 3.9776, 805, 5.8538, 1068),
    "oasst-rlhf-llama-33b": Published(66.5217, 805, 6.2964, 805, 7.9709, 1079),
    "vicuna-13b": Published(70.4348, 805, 5.8311, 805, 9.2221, 1037),
    "wizardlm-13b": Published(75.3109, 804, 5.8782, 805, 9.8282, 985),
}
BASELINES = {
    "davinci": ("pref_vs_davinci003", "baseline_davinci003"),
    "turbo": ("pref_vs_gpt4turbo", "baseline_gpt4turbo"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    rows = [row for _, row in json_rows(arguments.data)]
    models = {name: model_figures(rows, name, published) for name, published in PUBLISHED.items()}
    metrics = {
        "agreement_of_the_two_judges": two_judges(rows),
        "order_of_the_models": orders(models),
    }
    about: Figures = {"question": "win rates of 8 models from AlpacaEval's recorded verdicts", "prompts": len(rows)}
    result = make_result(
        "alpacaeval_recorded", about=about, seed=0, metrics=metrics, items=[], primary="davinci", subsets=models
    )
    write_result(arguments.out, result)
    for name, figures in models.items():
        d, t = figures["davinci"], figures["turbo"]
        print(
            f"{name:22} davinci {100 * d.value:.2f} ({PUBLISHED[name].davinci:.2f}, z {figures['davinci_z']:+.2f})"
            f" turbo {100 * t.value:.2f} ({PUBLISHED[name].turbo:.2f}, z {figures['turbo_z']:+.2f})"
            f" controlled {100 * figures['turbo_controlled'].value:.2f} ({PUBLISHED[name].controlled:.2f})"
            f" shorter than it in {figures['turbo_shorter']:.3f}"
        )
    print(metrics["agreement_of_the_two_judges"], metrics["order_of_the_models"])


def model_figures(rows: list[dict[str, Any]], model: str, published: Published) -> dict[str, Any]:
    """Win rates over each baseline with intervals, and how far they are from the published ones.

    ``z``: the difference over what drawing these prompts from the whole set without replacement makes of it.
    """
    figures: dict[str, Any] = {}
    for name, (pref, baseline) in BASELINES.items():
        found = [(c, row[baseline]) for row in rows for c in row["candidates"] if c["model"] == model]
        known = [(c[pref], len(c["output"]), len(other)) for c, other in found if c[pref] is not None]
        wins = [w for w, _, _ in known]
        target, whole = getattr(published, name) / 100, getattr(published, f"{name}_n")
        error = stdev(wins) * math.sqrt((1 - len(wins) / whole) / len(wins)) if len(wins) < whole else 0.0
        figures[name] = bootstrap_mean(wins)
        figures[f"{name}_published"] = target
        figures[f"{name}_z"] = (fmean(wins) - target) / error if error else 0.0
        figures[f"{name}_controlled"] = length_controlled(*map(list, zip(*known, strict=True)))
        figures[f"{name}_shorter"] = fmean(mine < other for _, mine, other in known)
        figures[f"{name}_missing_verdicts"] = len(found) - len(known)
    figures["turbo_controlled_published"] = published.controlled / 100
    lengths = [len(c["output"]) for row in rows for c in row["candidates"] if c["model"] == model]
    return figures | {"mean_characters": fmean(lengths), "mean_characters_published": published.length}


def two_judges(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """How far the two judges (each with its baseline) rank the responses to one prompt alike, and call wins alike."""
    taus, first, second = [], [], []
    for row in rows:
        both = [c for c in row["candidates"] if all(c[pref] is not None for pref, _ in BASELINES.values())]
        old, new = ({c["model"]: c[pref] for c in both} for pref, _ in BASELINES.values())
        if len(set(old.values())) > 1 and len(set(new.values())) > 1:
            taus.append(kendall_tau(Ranking.from_scores("", old), Ranking.from_scores("", new)))
        first += [v > 0.5 for v in old.values()]
        second += [v > 0.5 for v in new.values()]
    return {"tau_of_a_list": bootstrap_mean(taus), "kappa_of_wins": cohen_kappa(first, second)}


def orders(models: dict[str, Any]) -> dict[str, float]:
    """Rank correlation of our order of the models with the published one, and of the two judges' orders."""
    ours = {b: [models[m][b].value for m in PUBLISHED] for b in BASELINES}
    published = {b: [getattr(PUBLISHED[m], b) for m in PUBLISHED] for b in BASELINES}
    found = {f"tau_{b}_with_published": float(kendalltau(ours[b], published[b]).statistic) for b in BASELINES}
    found["spearman_between_baselines"] = float(spearmanr(ours["davinci"], ours["turbo"]).statistic)
    return found


if __name__ == "__main__":
    main()
