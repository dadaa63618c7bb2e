"""Does the quickstart's loop help? Reward of the kept model against the start model, over seeds and held-out openers.

    python evals/policies/quickstart_gain.py --seeds 5 --out evals/results/quickstart_gain.json

Each seed is one whole quickstart run. What it kept and what it started from then answer openers that no run sees, not
even to choose what it keeps (`builtin:openers-report`), eight times each. Reward by the independent scorer, paired by
opener; NLL under the start model and distinct-2 of the same replies. The interval is a bootstrap that draws seeds and
openers with replacement (both are random: a rerun would have other ones).
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cyclealign.config.loading import load_config
from cyclealign.config.schema import Config
from cyclealign.cycle.starting import Cycle
from cyclealign.evaluation.replies import kept_of_drawn, reply_statistics
from cyclealign.files.environment import environment
from cyclealign.files.jsonl import read_jsonl, write_json
from cyclealign.files.prompts import load_prompts
from cyclealign.files.records import encode, read_record
from cyclealign.files.run_dir import RunDir
from cyclealign.files.run_state import Kept
from cyclealign.generation.transformers import TransformersGenerator
from cyclealign.rankers.by_name import scorer_by_name
from cyclealign.rankers.local import LocalRanker
from cyclealign.training.policy_trainer import WhiteBox
from cyclealign.types import CandidateSet, PolicyVersion, Prompt, derive_seed

DRAWS = 10_000
OPENERS = "builtin:openers-report"
SHOWN = 10
REPLIES = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--runs", type=Path, default=Path("runs/quickstart_gain"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("overrides", nargs="*", help="config overrides, e.g. training.learning_rate=1e-3")
    arguments = parser.parse_args()
    runs = [run_of(seed, arguments.runs, arguments.overrides) for seed in range(arguments.seeds)]
    results = [measured(run) for run in runs]
    write_json(arguments.out, report(results, arguments.overrides))
    print(arguments.out.read_text(encoding="utf-8")[:2000])


def run_of(seed: int, root: Path, overrides: list[str]) -> RunDir:
    """The finished run of one seed; made, or taken up again, where it is missing."""
    config = load_config("quickstart", [*overrides, f"seed={seed}", f"name=seed-{seed}", f"output_dir={root}"])
    run = RunDir(config.run_dir)
    if run.kept() is None:
        started = run.config.exists() and any(run.interactions())
        (Cycle.resume(run.path) if started else Cycle.from_config(config)).run()
    return run


def measured(run: RunDir) -> dict[str, Any]:
    """Start and kept model of one run on the report openers, and the paired differences of reward."""
    kept = read_record(Kept, run.kept_file)
    config = load_config(str(run.config), [f"generator.candidates={REPLIES}", "generator.backend=transformers"])
    prompts = load_prompts(OPENERS)
    adapter = run.best / "adapter" if kept.trained else None
    start, end = (
        replies(config, prompts, PolicyVersion(name, kept.start_model, weights))
        for name, weights in (("start", None), ("kept", adapter))
    )
    policy = WhiteBox(config, base=kept.start_model, total_steps=1, seed=0)
    before, after = (figures(config, policy, sets) for sets in (start, end))
    gains = {i: after["rewards"][i] - before["rewards"][i] for i in before["rewards"]}
    return {
        "kept": kept.trained,
        "why": kept.why,
        "stopped": kept.stopped,
        "seconds": sum(row["seconds"] for row in read_jsonl(run.timings)),
        "start": {k: v for k, v in before.items() if k != "rewards"},
        "end": {k: v for k, v in after.items() if k != "rewards"},
        "nll_rise": after["nll_start"] / before["nll_start"] - 1,
        "distinct2_kept": after["distinct2"] / before["distinct2"],
        "ranker_gain": after["ranker"] - before["ranker"],
        "gains": gains,
        "samples": [
            {"opener": a.prompt.messages[-1]["content"], "before": a.candidates[0].text, "after": b.candidates[0].text}
            for a, b in zip(start[:: len(start) // SHOWN], end[:: len(end) // SHOWN], strict=True)
        ],
    }


def replies(config: Config, prompts: Sequence[Prompt], version: PolicyVersion) -> list[CandidateSet]:
    """New replies of a version, in the order of the prompts; the same seed for every version, so paired."""
    generator = TransformersGenerator(config.generator, config.policy)
    found = {s.prompt.id: s for s in generator.generate(prompts, version, seed=derive_seed(config.seed, "report"))}
    generator.close()
    return [found[p.id] for p in prompts]


def figures(config: Config, policy: WhiteBox, sets: Sequence[CandidateSet]) -> dict[str, Any]:
    """Reward by opener; reward, the ranker's own score, overlap with the opener, NLL, distinct-2, length: means."""
    flat = [(s.prompt, c) for s in sets for c in s.candidates]
    pairs = [(p.messages, c.text) for p, c in flat]
    scores = iter(given := scorer_by_name(str(config.cycle.scorer)).score(pairs))
    return {
        "rewards": {s.prompt.id: statistics.fmean(next(scores) for _ in s.candidates) for s in sets},
        "reward": statistics.fmean(given),
        "ranker": statistics.fmean(LocalRanker().score(pairs)),
        "overlap": statistics.fmean(scorer_by_name("overlap").score(pairs)),
        "nll_start": statistics.fmean(policy.nll(flat, start_model=True)),
        **encode(reply_statistics([c.text for _, c in flat])),
        "kept_of_drawn": kept_of_drawn(sets),
    }


def report(results: list[dict[str, Any]], overrides: list[str]) -> dict[str, Any]:
    openers = sorted(set.intersection(*(set(r["gains"]) for r in results)))
    gains = np.array([[r["gains"][i] for i in openers] for r in results])
    low, high = crossed_bootstrap(gains)
    return {
        "question": "reward of the kept model minus reward of the start model, independent scorer",
        "mean_gain": float(gains.mean()),
        "interval95": [low, high],
        "start_reward": statistics.fmean(r["start"]["reward"] for r in results),
        "kept_reward": statistics.fmean(r["end"]["reward"] for r in results),
        "ranker_gain": statistics.fmean(r["ranker_gain"] for r in results),
        "nll_rise": {
            "mean": statistics.fmean(r["nll_rise"] for r in results),
            "max": max(r["nll_rise"] for r in results),
        },
        "distinct2_kept": {
            "mean": statistics.fmean(r["distinct2_kept"] for r in results),
            "min": min(r["distinct2_kept"] for r in results),
        },
        "seconds": {"mean": statistics.fmean(r["seconds"] for r in results), "max": max(r["seconds"] for r in results)},
        "seeds": len(results),
        "openers": len(openers),
        "overrides": overrides,
        "runs": [{k: v for k, v in r.items() if k not in ("gains", "samples")} for r in results],
        "samples": results[0]["samples"],
        **encode(environment()),
    }


def crossed_bootstrap(gains: NDArray[np.float64]) -> tuple[float, float]:
    """95% percentile interval of the mean of [seeds, openers], both drawn with replacement."""
    rng = np.random.default_rng(0)
    seeds, openers = gains.shape
    means = [
        gains[np.ix_(rng.integers(seeds, size=seeds), rng.integers(openers, size=openers))].mean() for _ in range(DRAWS)
    ]
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


if __name__ == "__main__":
    main()
