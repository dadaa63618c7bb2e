"""One policy, the same rankings, every ranking loss of the package and its published forms of log-ratios: what each
makes of them.

    python evals/policies/policy_losses.py --seeds 3 --out evals/results/policy_losses.json

Per seed the start model answers the train openers K times and the embedded ranker scores the answers, once. Each loss
then trains a fresh adapter on these lists: the same order, steps, learning rate and anchor, the loss's own defaults
otherwise. What it has learned is measured on openers that nothing trains on (`builtin:openers-report`): reward by the
independent scorer, paired with the start model's; the share of held-out lists (of the start model, on
`builtin:openers-eval`) whose best and worst candidate the policy's own likelihood orders as the ranker does; length,
NLL under the start model, distinct-2; and seconds a step. One setting for all losses is not the best for each: the
table says what they do from the same data, not what each can be tuned to. A loss that was measured is not run again.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from transformers import TrainerCallback

from cyclealign.config.loading import load_config
from cyclealign.config.schema import Config, DemonstrationsConfig
from cyclealign.evaluation.arms import conclusion, crossed_difference, smallest_detectable
from cyclealign.evaluation.labelled_pairs import accuracy
from cyclealign.evaluation.replies import reply_statistics
from cyclealign.files.environment import environment
from cyclealign.files.jsonl import read_json, write_json
from cyclealign.files.prompts import load_prompts
from cyclealign.files.records import encode
from cyclealign.generation.transformers import TransformersGenerator
from cyclealign.judge.demonstrations import DemonstrationPool
from cyclealign.judge.template import load_template
from cyclealign.losses import losses_fed_by
from cyclealign.rankers.by_name import scorer_by_name
from cyclealign.rankers.local import LocalRanker
from cyclealign.rankers.utilities import teacher_utilities
from cyclealign.training.policy_trainer import WhiteBox
from cyclealign.types import (
    Candidate,
    CandidateSet,
    PolicyVersion,
    RankContext,
    Ranking,
    RankingExample,
    derive_seed,
)

START = "start model"
RATIO = ("loss.student_score=log_ratio", "loss.beta=0.1")  # DPO's own beta
# SPPO is none of them: it needs votes of two passes, and these lists have scores.
PUBLISHED: dict[str, Sequence[str]] = {
    "PL-DPO": ("loss.name=listmle", *RATIO),
    "KPO, top 2": ("loss.name=listmle", "loss.top=2", *RATIO),
    "LiPO-lambda": ("loss.name=lambdarank", *RATIO),
    "InfoNCA": ("loss.name=listnet", *RATIO),
    "REBEL": ("loss.name=margin_mse", "loss.reference=previous", *RATIO),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--scratch", type=Path, default=Path("runs/policy_losses"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("overrides", nargs="*", help="config overrides, e.g. training.learning_rate=3e-4")
    arguments = parser.parse_args()
    found = [of_seed(seed, arguments.scratch / str(seed), arguments.overrides) for seed in range(arguments.seeds)]
    result = report(found, arguments.overrides)
    write_json(arguments.out, result)
    print(table(result))


class Clock(TrainerCallback):  # type: ignore[misc]
    """Seconds of each optimiser step, data and checkpoints left out."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._began = 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self._began = time.monotonic()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.seconds.append(time.monotonic() - self._began)


def arms() -> dict[str, Sequence[str]]:
    """The config's overrides of each arm, by its name."""
    plain: dict[str, Sequence[str]] = {name: [f"loss.name={name}"] for name in losses_fed_by("magnitude")}
    return plain | PUBLISHED


def of_seed(seed: int, folder: Path, overrides: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Figures of the start model and of every loss; those that are on disk are not made again."""
    folder.mkdir(parents=True, exist_ok=True)
    shared = ["generator.candidates=4", "generator.backend=transformers", f"seed={seed}", *overrides]
    config = load_config("quickstart", shared)
    todo = [name for name in (START, *arms()) if not (folder / f"{name}.json").exists()]
    if todo:
        examples = list(ranked(sampled(config, config.data.prompts)))
        pairs = list(best_and_worst(sampled(config, str(config.data.eval_prompts))))
        for name in todo:
            chosen = config if name == START else load_config("quickstart", [*shared, *arms()[name]])
            write_json(folder / f"{name}.json", measured(name, chosen, examples, pairs, folder / "weights"))
            print(f"seed {seed}: {name}", flush=True)
    return {name: read_json(folder / f"{name}.json") for name in (START, *arms())}


def sampled(config: Config, openers: str, version: PolicyVersion | None = None) -> list[CandidateSet]:
    """Answers to openers; the same seed for every version, so that they are paired."""
    generator = TransformersGenerator(config.generator, config.policy)
    version = version or PolicyVersion("start", config.policy.model)
    prompts = load_prompts(openers)
    found = {s.prompt.id: s for s in generator.generate(prompts, version, seed=derive_seed(config.seed, openers))}
    generator.close()
    return [found[p.id] for p in prompts if len(found[p.id].candidates) >= 2]


def rankings(sets: Iterable[CandidateSet]) -> list[tuple[CandidateSet, Ranking]]:
    sets = list(sets)
    found = {v.prompt_id: v for v in LocalRanker().rank(iter(sets), context())}
    return [(s, v) for s in sets if isinstance(v := found[s.prompt.id], Ranking)]


def context() -> RankContext:
    pool = DemonstrationPool.start(DemonstrationsConfig(), template=load_template("rank"))
    return RankContext(run="policy_losses", interaction=0, seed=0, demonstrations=pool, purpose="eval")


def ranked(sets: Iterable[CandidateSet]) -> Iterable[RankingExample]:
    """The lists to train on, with the ranker's scores as utilities."""
    for item, ranking in rankings(sets):
        utilities = teacher_utilities(ranking)
        yield RankingExample(
            prompt_id=item.prompt.id,
            messages=item.prompt.messages,
            responses=tuple(c.text for c in item.candidates),
            ended=tuple(c.finish == "stop" for c in item.candidates),
            teacher=tuple(utilities[c.id] for c in item.candidates),
        )


def best_and_worst(sets: Iterable[CandidateSet]) -> Iterable[CandidateSet]:
    """Held-out pairs: the ranker's best candidate as ``chosen``, its worst as ``rejected``."""
    for item, ranking in rankings(sets):
        best, worst = item.text(ranking.order[0]), item.text(ranking.order[-1])
        yield CandidateSet(item.prompt, (Candidate("chosen", best), Candidate("rejected", worst)))


def measured(
    name: str, config: Config, examples: Sequence[RankingExample], pairs: Sequence[CandidateSet], weights: Path
) -> dict[str, Any]:
    """Train one loss (none for the start model) and measure what came of it."""
    batch = int(config.training["per_device_train_batch_size"])
    steps = -(-len(examples) // batch)
    clock = Clock()
    base = config.policy.model
    policy = WhiteBox(config, base=base, total_steps=steps, seed=config.seed, callbacks=[clock])
    figures: dict[str, Any] = {}
    version = None
    if name != START:
        shutil.rmtree(weights, ignore_errors=True)
        weights.mkdir(parents=True)
        figures["steps"] = policy.fit(examples, start=None, out=weights).global_step
        figures["seconds_per_step"] = statistics.median(clock.seconds)
        version = PolicyVersion(name, base, weights / "adapter")
    judged = accuracy(list(policy.rank(pairs, context())))
    figures["accuracy"] = None if judged is None else encode(judged)
    sets = sampled(config, "builtin:openers-report", version)
    flat = [(s.prompt, c) for s in sets for c in s.candidates]
    scores = iter(scorer_by_name(str(config.cycle.scorer)).score([(p.messages, c.text) for p, c in flat]))
    rewards = {s.prompt.id: statistics.fmean(next(scores) for _ in s.candidates) for s in sets}
    nll = policy.nll(flat, start_model=True)
    return figures | {
        "rewards": rewards,
        "nll_start": statistics.fmean(nll),
        **encode(reply_statistics([c.text for _, c in flat])),
    }


def report(found: Sequence[dict[str, dict[str, Any]]], overrides: Sequence[str]) -> dict[str, Any]:
    openers = sorted(set.intersection(*(set(row["rewards"]) for seed in found for row in seed.values())))
    losses = {name: of_loss([s[name] for s in found], [s[START] for s in found], openers) for name in arms()}
    plain = ("accuracy", "mean_words", "nll_start", "distinct2")
    return {
        "question": "what each ranking loss makes of the same rankings: reward of new replies minus the start model's",
        "losses": dict(sorted(losses.items(), key=lambda item: -item[1]["gain"])),
        START: {k: statistics.fmean(figure(s[START], k) for s in found) for k in plain}
        | {"reward": statistics.fmean(s[START]["rewards"][i] for s in found for i in openers)},
        "seeds": len(found),
        "openers": len(openers),
        "overrides": list(overrides),
        "runs": [{n: {k: v for k, v in r.items() if k != "rewards"} for n, r in s.items()} for s in found],
        **encode(environment()),
    }


def of_loss(rows: Sequence[Any], starts: Sequence[Any], openers: Sequence[str]) -> dict[str, Any]:
    gains = np.array(
        [[row["rewards"][i] - s["rewards"][i] for i in openers] for row, s in zip(rows, starts, strict=True)]
    )
    gain = crossed_difference(np.zeros_like(gains), gains)
    return {
        "gain": gain.value,
        "interval95": [gain.low, gain.high],
        "smallest_detectable": smallest_detectable(gain),
        "verdict": conclusion(gain),
        "nll_rise": statistics.fmean(r["nll_start"] / s["nll_start"] - 1 for r, s in zip(rows, starts, strict=True)),
        **{k: statistics.fmean(figure(r, k) for r in rows) for k in ("accuracy", "mean_words", "distinct2")},
        "seconds_per_step": statistics.median(r["seconds_per_step"] for r in rows),
    }


def table(result: dict[str, Any]) -> str:
    """Markdown, for the docs; ``step``: time of an optimiser step over SimPO's."""
    lines = ["| loss | reward | 95% interval | verdict | accuracy | words | NLL | distinct-2 | step |"]
    lines.append("|---" * 9 + "|")
    step = result["losses"]["simpo"]["seconds_per_step"]
    for name, row in result["losses"].items():
        low, high = row["interval95"]
        gain = f"{row['gain']:+.3f} | {low:+.3f} to {high:+.3f} | {row['verdict']}"
        drift = f"{row['mean_words']:.1f} | {row['nll_rise']:+.1%} | {row['distinct2']:.3f}"
        lines.append(f"| {name} | {gain} | {row['accuracy']:.3f} | {drift} | {row['seconds_per_step'] / step:.1f} |")
    start = result[START]
    plain = f"{start['accuracy']:.3f} | {start['mean_words']:.1f} | | {start['distinct2']:.3f}"
    return "\n".join([*lines, f"| {START} | {start['reward']:.3f} in all | | | {plain} | |"])


def figure(row: Any, key: str) -> float:
    return float(row[key]["accuracy"] if key == "accuracy" else row[key])


if __name__ == "__main__":
    main()
