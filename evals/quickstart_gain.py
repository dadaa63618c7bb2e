"""Does the quickstart's loop help? Reward of the kept model against the start model, over seeds and held-out openers.

    python evals/quickstart_gain.py --seeds 5 --out evals/results/quickstart_gain.json

Each seed is one whole quickstart run. The reward is the independent scorer's, on the half of the eval openers that
takes no part in choosing the kept interaction: the mean over 16 new replies to each opener, of the start and of the
kept model, paired by opener. NLL and distinct-2 are the run's own, over all eval openers. The interval is a bootstrap
that draws seeds and openers with replacement (both are random: a rerun would have other ones).
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cyclealign.config_loading import load_config
from cyclealign.cycle import Cycle
from cyclealign.environment import environment
from cyclealign.generation.transformers import TransformersGenerator
from cyclealign.run_dir import RunDir, read_json, read_sets, write_json
from cyclealign.scorers import scorer_by_name
from cyclealign.types import PolicyVersion, derive_seed

DRAWS = 10_000
SHOWN = 8
REPLIES = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--runs", type=Path, default=Path("runs/quickstart_gain"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("overrides", nargs="*", help="config overrides, e.g. training.learning_rate=1e-3")
    arguments = parser.parse_args()
    runs = [run_of(seed, arguments.runs, arguments.overrides) for seed in range(arguments.seeds)]
    results = [measured(run) for run in runs]
    write_json(arguments.out, report(results, runs, arguments.overrides))
    print(arguments.out.read_text(encoding="utf-8")[:2000])


def run_of(seed: int, root: Path, overrides: list[str]) -> RunDir:
    """The finished run of one seed; made, or taken up again, where it is missing."""
    config = load_config("quickstart", [*overrides, f"seed={seed}", f"name=seed-{seed}", f"output_dir={root}"])
    run = RunDir(config.run_dir)
    if not (run.best / "kept.json").exists():
        started = run.config.exists() and any(run.interactions())
        (Cycle.resume(run.path) if started else Cycle.from_config(config)).run()
    return run


def measured(run: RunDir) -> dict[str, Any]:
    """Start and kept evaluation of one run, and the paired differences on the reporting half."""
    evaluations, kept = run.evaluations(), read_json(run.best / "kept.json")
    start, end = evaluations[0], evaluations[kept["trained"]]
    base, adapter = kept["start_model"], run.best / "adapter"
    before = rewards(run, PolicyVersion("start", base))
    after = rewards(run, PolicyVersion("kept", base, adapter)) if kept["trained"] else before
    measures = ("nll_start", "distinct2", "mean_words")
    return {
        "kept": kept["trained"],
        "why": kept["why"],
        "stopped": kept["stopped"],
        "start": {"reward": statistics.fmean(before.values()), **{m: start[m] for m in measures}},
        "end": {"reward": statistics.fmean(after.values()), **{m: end[m] for m in measures}},
        "nll_rise": end["nll_start"] / start["nll_start"] - 1,
        "distinct2_kept": end["distinct2"] / start["distinct2"],
        "gains": {i: after[i] - before[i] for i in before},
    }


def rewards(run: RunDir, version: PolicyVersion) -> dict[str, float]:
    """Mean reward of new replies to each reporting opener."""
    config = load_config(str(run.config), [f"generator.candidates={REPLIES}", "generator.backend=transformers"])
    generator, scorer = TransformersGenerator(config), scorer_by_name(str(config.cycle.scorer))
    reporting = run.eval_prompts()[1::2]
    sets = list(generator.generate(reporting, version, seed=derive_seed(config.seed, "measure")))
    generator.close()
    scores = iter(scorer.score([(s.prompt.messages, c.text) for s in sets for c in s.candidates]))
    found = {s.prompt.id: statistics.fmean(next(scores) for _ in s.candidates) for s in sets}
    return {p.id: found[p.id] for p in reporting}


def report(results: list[dict[str, Any]], runs: list[RunDir], overrides: list[str]) -> dict[str, Any]:
    openers = sorted(set.intersection(*(set(r["gains"]) for r in results)))
    gains = np.array([[r["gains"][i] for i in openers] for r in results])
    low, high = crossed_bootstrap(gains)
    return {
        "question": "reward of the kept model minus reward of the start model, independent scorer",
        "mean_gain": float(gains.mean()),
        "interval95": [low, high],
        "start_reward": statistics.fmean(r["start"]["reward"] for r in results),
        "kept_reward": statistics.fmean(r["end"]["reward"] for r in results),
        "nll_rise": {
            "mean": statistics.fmean(r["nll_rise"] for r in results),
            "max": max(r["nll_rise"] for r in results),
        },
        "distinct2_kept": {
            "mean": statistics.fmean(r["distinct2_kept"] for r in results),
            "min": min(r["distinct2_kept"] for r in results),
        },
        "seeds": len(results),
        "openers": len(openers),
        "overrides": overrides,
        "runs": [{k: v for k, v in r.items() if k != "gains"} for r in results],
        "samples": samples(runs[0]),
        **environment(),
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


def samples(run: RunDir) -> list[dict[str, str]]:
    """First replies of the start and the kept model to the first reporting openers: not chosen."""
    kept = read_json(run.best / "kept.json")["trained"]
    before = read_sets(run.evaluation(0) / "candidates.jsonl")
    after = read_sets(run.evaluation(kept) / "candidates.jsonl")
    rows = []
    for prompt in run.eval_prompts()[1 : 2 * SHOWN : 2]:
        texts = (before[prompt.id].candidates[0].text, after[prompt.id].candidates[0].text)
        rows.append({"opener": prompt.messages[-1]["content"], "before": texts[0], "after": texts[1]})
    return rows


if __name__ == "__main__":
    main()
