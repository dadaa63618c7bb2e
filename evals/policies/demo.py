"""Does the demo's model learn the taste, and does anybody else like what it says? Replies before and after.

    python evals/policies/demo.py
    python evals/policies/demo.py --seeds 3 --out evals/results/demo.json

The first is `make demo`: one run of configs/demo.yaml. Of the 120 held-out questions, which no run and no choice of a
setting has seen, the start model and the kept one answer each once, with the same random numbers. Both sets of replies
are scored by the ranker that taught (recipes/taste.py) and by a witness that it shares nothing with
(recipes/reference.py: cosine to a reference answer); differences are paired by question. To see how much of
the witness's gain is brevity alone, it scores the start model's replies cut after two sentences too. A seed that has
been measured is read, not run again.
"""

from __future__ import annotations

import argparse
import os
import re
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from torch import get_num_threads

from cyclealign.config.loading import load_config
from cyclealign.config.schema import Config
from cyclealign.cycle.starting import Cycle
from cyclealign.evaluation.replies import reply_statistics
from cyclealign.evaluation.statistics import paired_difference
from cyclealign.files.environment import environment
from cyclealign.files.jsonl import read_json, write_json
from cyclealign.files.prompts import load_prompts
from cyclealign.files.records import encode, read_record
from cyclealign.files.run_dir import RunDir
from cyclealign.files.run_state import Kept
from cyclealign.generation.transformers import TransformersGenerator
from cyclealign.rankers.by_name import scorer_by_name
from cyclealign.training.policy_trainer import WhiteBox
from cyclealign.types import Candidate, PolicyVersion, Prompt, derive_seed

QUESTIONS = "prompts/questions_held_out.jsonl"
SCORERS = {"taste": "python:recipes/taste.py:taste", "witness": "python:recipes/reference.py:nearness"}
TOKENS = 72  # more than the loop samples, so that more replies end by themselves
SHOWN = 10
Replies = Sequence[tuple[Prompt, Candidate]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--runs", type=Path, default=Path("runs/demo"))
    parser.add_argument("--out", type=Path, help="where the figures of all seeds go")
    parser.add_argument("overrides", nargs="*", help="config overrides, e.g. policy.dtype=float32")
    arguments = parser.parse_args()
    rows = [found(seed, arguments.runs, arguments.overrides) for seed in range(arguments.seeds)]
    if arguments.out is not None:
        write_json(arguments.out, report(rows, arguments.overrides))
    for row in rows:
        print("\n".join(lines(row)))
    if arguments.out is not None:
        print("\n".join(["", *samples_table(rows[0]), "", *figures_table(rows)]))


def found(seed: int, root: Path, overrides: Sequence[str]) -> dict[str, Any]:
    """What one seed's run came to; made, or taken up again, where it is missing."""
    config = load_config("demo", [*overrides, f"seed={seed}", f"name=seed-{seed}", f"output_dir={root}"])
    run, at = RunDir(config.run_dir), config.run_dir / "measured.json"
    if at.exists():
        record: dict[str, Any] = read_json(at)
        return record
    whole, began, spent = not run.config.exists(), time.monotonic(), time.process_time()
    if run.kept() is None:
        (Cycle.from_config(config) if whole else Cycle.resume(run.path)).run()
    row = measured(run, load_prompts(QUESTIONS))
    minutes, processor = (time.monotonic() - began) / 60, (time.process_time() - spent) / 60
    took = {"minutes": minutes, "processor_minutes": processor, "threads": get_num_threads(), "load": os.getloadavg()}
    record = {"seed": seed, "took": took if whole else None, **row, **encode(environment())}
    write_json(at, record)
    return record


def measured(run: RunDir, prompts: Sequence[Prompt]) -> dict[str, Any]:
    """Start and kept model of a run on the held-out questions, and the paired differences."""
    kept = read_record(Kept, run.kept_file)
    config = load_config(str(run.config), [f"generator.max_new_tokens={TOKENS}"])
    adapter = run.best / "adapter" if kept.trained else None
    start, end = (
        replies(config, prompts, PolicyVersion(name, kept.start_model, weights))
        for name, weights in (("start", None), ("kept", adapter))
    )
    scores = {name: (scored(place, start), scored(place, end)) for name, place in SCORERS.items()}
    short = scored(SCORERS["witness"], [(p, Candidate(c.id, two_sentences(c.text), c.finish)) for p, c in start])
    return {
        "kept": kept.trained,
        "gain": {name: gain(*pair) for name, pair in scores.items()},
        "gain over the start cut after two sentences": {"witness": gain(short, scores["witness"][1])},
        "start": figures(start),
        "end": figures(end),
        "drift": drift(config, kept, run.best, start, end),
        "samples": [
            {"question": p.messages[-1]["content"], "before": a.text, "after": b.text}
            for (p, a), (_, b) in list(zip(start, end, strict=True))[::SHOWN]
        ],
    }


def replies(config: Config, prompts: Sequence[Prompt], version: PolicyVersion) -> Replies:
    """One reply to each prompt, in their order; the same seed for every version, so paired."""
    one = config.generator.model_copy(update={"candidates": 1})
    generator = TransformersGenerator(one, config.policy)
    sets = {s.prompt.id: s for s in generator.generate(prompts, version, seed=derive_seed(config.seed, "report"))}
    generator.close()
    return [(p, sets[p.id].candidates[0]) for p in prompts]


def scored(place: str, given: Replies) -> list[float]:
    return scorer_by_name(place).score([(p.messages, c.text) for p, c in given])


def two_sentences(reply: str) -> str:
    """A reply up to the end of its second sentence; whole where it has no more."""
    ends = [found.end() for found in re.finditer(r"[.!?]+(?=\s|$)", reply)]
    return reply[: ends[1]] if len(ends) > 1 else reply


def gain(before: Sequence[float], after: Sequence[float]) -> dict[str, Any]:
    change = paired_difference(before, after)
    assert change is not None
    return {"start": fmean(before), "kept": fmean(after), **change.record()}


def figures(given: Replies) -> dict[str, Any]:
    """Share of replies that end by themselves, that have at most two sentences too; length in words, distinct-2."""
    ended = [c.finish == "stop" for _, c in given]
    brief = [end and two_sentences(c.text).strip() == c.text.strip() for end, (_, c) in zip(ended, given, strict=True)]
    said = reply_statistics([c.text for _, c in given])
    return {"ended": fmean(ended), "ended_in_two_sentences": fmean(brief), **encode(said)}


def drift(config: Config, kept: Kept, best: Path, start: Replies, end: Replies) -> dict[str, float]:
    """NLL under the start model of both sets of replies, and the KL from it, estimated from the kept model's own
    replies: nats a token."""
    policy = WhiteBox(config, base=kept.start_model, total_steps=1, seed=0)
    before, after = (fmean(policy.nll(given, start_model=True)) for given in (start, end))
    policy.restore(best if kept.trained else None)
    return {"nll_start": before, "nll_end": after, "kl": after - fmean(policy.nll(end))}


def report(rows: Sequence[dict[str, Any]], overrides: Sequence[str]) -> dict[str, Any]:
    return {
        "question": "scores of the kept model's replies less the start model's, paired over the held-out questions",
        "overrides": list(overrides),
        "runs": list(rows),
    }


def lines(row: dict[str, Any]) -> list[str]:
    """What a person is shown of one run: twelve replies before and after, then figures."""
    said = [
        f"\n{s['question']}\n  before: {one_line(s['before'])}\n  after:  {one_line(s['after'])}"
        for s in row["samples"]
    ]
    for name, change in row["gain"].items():
        said.append(f"{name}: {change['start']:.3f} -> {change['kept']:.3f}, {interval(change)}")
    only = row["gain over the start cut after two sentences"]["witness"]
    said.append(f"witness, over the start model's first two sentences: {interval(only)}")
    ends = "replies that end within two sentences: {start:.0%} -> {end:.0%}; words a reply: {words:.0f} -> {now:.0f}"
    start, end = row["start"], row["end"]
    shares = {"start": start["ended_in_two_sentences"], "end": end["ended_in_two_sentences"]}
    said.append(ends.format(**shares, words=start["mean_words"], now=end["mean_words"]))
    return [*said, f"KL from the start model: {row['drift']['kl']:.2f} nats a token"]


def samples_table(row: dict[str, Any]) -> list[str]:
    """The same replies as the README has them."""
    cells = ([s[name] for name in ("question", "before", "after")] for s in row["samples"])
    rows = ("| " + " | ".join(one_line(cell).replace("|", "\\|") for cell in found) + " |" for found in cells)
    return ["| question | before | after |", "|---|---|---|", *rows]


def figures_table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Figures of every seed, as the page has them."""
    head = ["seed", "taste", "witness", "witness, start cut", "whole", "words", "KL", "minutes"]
    said = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for row in rows:
        gains = (
            row["gain"]["taste"],
            row["gain"]["witness"],
            row["gain over the start cut after two sentences"]["witness"],
        )
        start, end, took = row["start"], row["end"], row["took"]
        cells = [str(row["seed"]), *(f"{g['value']:+.3f} ({g['low']:+.3f} to {g['high']:+.3f})" for g in gains)]
        cells.append(f"{start['ended_in_two_sentences']:.0%} → {end['ended_in_two_sentences']:.0%}")
        cells.append(f"{start['mean_words']:.1f} → {end['mean_words']:.1f}")
        cells.append(f"{row['drift']['kl']:.2f}")
        cells.append(f"{took['minutes']:.1f} ({took['processor_minutes']:.1f})" if took else "")
        said.append("| " + " | ".join(cells) + " |")
    return said


def one_line(text: str) -> str:
    return " ".join(text.split())


def interval(change: dict[str, Any]) -> str:
    return (
        f"{change['value']:+.3f} (95% interval {change['low']:+.3f} to {change['high']:+.3f}, {change['n']} questions)"
    )


if __name__ == "__main__":
    main()
