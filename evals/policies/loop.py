"""What iteration, demonstrations and agreement are each worth to a policy, by planted judges.

    python recipes/smollm2.py models/smollm2-135m-instruct
    python evals/policies/loop.py --out evals/results/loop.json [--accuracy 0.8] [--worth 0 0.1] [--seeds 3]

Policy, questions and taste are the demo's (configs/demo.yaml, recipes/taste.py). The judge is planted: a server on
loopback that knows the taste and orders a list by it with a chance, at random otherwise, so that of the pairs that the
taste tells apart a stated share is right (``accuracy``); each right one of the eight dynamic demonstrations that it is
shown adds an eighth of ``worth`` to it. So this says what the loop makes of such judges, and nothing about what
demonstrations are worth to a language model.

Arms: the cycle (three interactions on the same questions, dynamic demonstrations, trained on the agreement); one pass
(one interaction, trained on three times, which are as many steps); without dynamic demonstrations; trained on the
judge's order instead of the agreement. Measured: taste of one reply to each held-out question, less the start model's.
What has been measured stands in --out and is not run again; a run that was stopped begins anew.
"""

from __future__ import annotations

import argparse
import itertools
import random
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from demo import QUESTIONS, SCORERS, TOKENS, replies, scored

from cyclealign.config.loading import load_config
from cyclealign.cycle.starting import Cycle
from cyclealign.evaluation.arms import compare_arms
from cyclealign.files.environment import environment
from cyclealign.files.jsonl import read_json, write_json
from cyclealign.files.prompts import load_prompts
from cyclealign.files.records import encode
from cyclealign.rankers.by_name import scorer_by_name
from cyclealign.types import PolicyVersion, Prompt, derive_seed

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "helpers"))

from loopback import CANDIDATE, ESCAPED, Body, Loopback, answer, shown

SHOWN, RIGHT = 8, 0.75  # demonstrations; share of a demonstration's pairs from which on it is right
ROUNDS = 3
ARMS: dict[str, Sequence[str]] = {
    "cycle": ("cycle.target=agreement", f"cycle.max_interactions={ROUNDS}"),
    "one pass": ("cycle.target=agreement", "cycle.max_interactions=1", f"training.num_train_epochs={ROUNDS}"),
    "no demonstrations": (
        *("cycle.target=agreement", f"cycle.max_interactions={ROUNDS}"),
        "demonstrations.capacity=0",
    ),
    "judge's order": ("cycle.target=black_box", f"cycle.max_interactions={ROUNDS}"),
}
SHOWS_NONE = ("one pass", "no demonstrations")  # whatever demonstrations are worth, these are the same
CLAIMS = [("cycle", other) for other in ARMS if other != "cycle"]


class Planted:
    """A judge that is right by a stated chance. It knows a question by its words, wherever they stand in a request."""

    def __init__(self, questions: Sequence[Prompt], accuracy: float, worth: float, seed: int) -> None:
        self._asked = {p.messages[-1]["content"]: p for p in questions}
        self._taste = scorer_by_name(SCORERS["taste"])
        self._accuracy, self._worth, self._seed = accuracy, worth, seed

    def __call__(self, body: Body) -> str:
        texts = shown(body)
        last = next(m["content"] for m in reversed(body["messages"]) if CANDIDATE.search(m["content"]))
        draw = random.Random(derive_seed(self._seed, last))
        slots = list(range(len(texts)))
        draw.shuffle(slots)  # ties of the taste, and what is said by chance
        right = min(SHOWN, self.right_ones(body))
        if draw.random() < 2 * (self._accuracy + self._worth * right / SHOWN) - 1:
            scores = self._scores(last, texts)
            slots.sort(key=lambda slot: -scores[slot])
        return answer(body, slots)

    def _scores(self, content: str, texts: Sequence[str]) -> list[float]:
        found = [prompt for words, prompt in self._asked.items() if words in content]
        if not found:  # the client's question whether a server obeys its schema
            return [0.0] * len(texts)
        prompt = max(found, key=lambda p: len(p.messages[-1]["content"]))
        return self._taste.score([(prompt.messages, text) for text in texts])

    def right_ones(self, body: Body) -> int:
        """Dynamic demonstrations before the list whose order is right by the taste."""
        found = 0
        for asked, told in itertools.pairwise(body["messages"][:-1]):
            texts = [ESCAPED.sub("", text) for _, _, text in CANDIDATE.findall(asked["content"])]
            dynamic = any(words in asked["content"] for words in self._asked)
            if told["role"] == "assistant" and texts and dynamic:
                scores = self._scores(asked["content"], texts)
                order = [int(n) - 1 for n in "".join(c if c.isdigit() else " " for c in told["content"]).split()]
                pairs = [scores[a] > scores[b] for a, b in itertools.combinations(order, 2) if scores[a] != scores[b]]
                found += bool(pairs) and fmean(pairs) >= RIGHT
        return found


@dataclass(frozen=True, kw_only=True)
class Case:
    arm: str
    accuracy: float
    worth: float
    seed: int

    @property
    def name(self) -> str:
        return f"{self.arm}, {self.accuracy:g}, {self.worth:g}, {self.seed}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--accuracy", type=float, nargs="+", default=[0.7, 0.8, 0.9])
    parser.add_argument("--worth", type=float, nargs="+", default=[0.0, 0.05, 0.1])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--scratch", type=Path, default=Path("runs/loop_show"))
    parser.add_argument("overrides", nargs="*", help="config overrides, e.g. data.limit=12")
    asked = parser.parse_args()
    found: dict[str, Any] = read_json(asked.out)["runs"] if asked.out.exists() else {}
    for case in cases(asked.accuracy, asked.worth, asked.seeds):
        if case.name not in found:
            found[case.name] = measured(case, asked.scratch, asked.overrides)
            print(f"{case.name}: {fmean(found[case.name]['gain']):+.3f}", flush=True)
        result = {"runs": found, "claims": claims(found, asked.accuracy, asked.worth, asked.seeds)}
        write_json(asked.out, result | {"overrides": asked.overrides, "environment": encode(environment())})


def cases(accuracies: Sequence[float], worths: Sequence[float], seeds: int) -> list[Case]:
    """All that differ, seeds outermost, so that what is stopped early has whole comparisons."""
    return [
        Case(arm=arm, accuracy=accuracy, worth=worth, seed=seed)
        for seed, accuracy, worth, arm in itertools.product(range(seeds), accuracies, worths, ARMS)
        if worth == worths[0] or arm not in SHOWS_NONE
    ]


def measured(case: Case, scratch: Path, overrides: Sequence[str]) -> dict[str, Any]:
    """Taste of the kept model's replies less the start model's, by question; and what the run says of its judge."""
    began, folder = time.monotonic(), scratch / case.name.replace(", ", "-").replace(" ", "_")
    shutil.rmtree(folder, ignore_errors=True)
    questions = load_prompts("prompts/questions_train.jsonl")
    judge = Planted(questions, case.accuracy, case.worth, case.seed)
    with Loopback(judge=judge) as server:
        keys = [
            *("black_box.backend=openai", f"black_box.base_url={server.url}", "black_box.model=planted"),
            *("black_box.path=null", "black_box.passes=2", f"demonstrations.capacity={SHOWN}", "loss.name=simpo"),
            "black_box.min_consistency=null",  # known; it orders ties by chance
            *("demonstrations.token_budget=4096", f"seed={case.seed}", "name=run", f"output_dir={folder}"),
        ]
        cycle = Cycle.from_config(load_config("demo", [*keys, *ARMS[case.arm], *overrides]))
        cycle.run()
        told = [judge.right_ones(body) for body in server.requests]
    run, config, held_out = cycle.run_dir, cycle.config, load_prompts(QUESTIONS)
    base, kept = config.policy.model, run.best / "adapter"
    answering = config.model_copy(update={"generator": config.generator.model_copy(update={"max_new_tokens": TOKENS})})
    start, end = (
        scored(SCORERS["taste"], replies(answering, held_out, PolicyVersion(name, base, weights)))
        for name, weights in (("start", None), ("kept", kept if kept.exists() else None))
    )
    return {
        "gain": [after - before for before, after in zip(start, end, strict=True)],
        "right_demonstrations_a_call": fmean(told),
        "interactions": len(run.interactions()),
        "minutes": (time.monotonic() - began) / 60,
    }


def claims(
    found: dict[str, Any], accuracies: Sequence[float], worths: Sequence[float], seeds: int
) -> list[dict[str, Any]]:
    """The cycle against each other arm, of every judge: by the seeds of which all arms are measured."""
    rows: list[dict[str, Any]] = []
    for accuracy, worth in itertools.product(accuracies, worths):
        values: dict[str, list[list[float]]] = {arm: [] for arm in ARMS}
        for seed in range(seeds):
            own = {arm: worths[0] if arm in SHOWS_NONE else worth for arm in ARMS}
            names = {arm: Case(arm=arm, accuracy=accuracy, worth=own[arm], seed=seed).name for arm in ARMS}
            if all(name in found for name in names.values()):
                for arm, name in names.items():
                    values[arm].append(found[name]["gain"])
        if count := len(values["cycle"]):
            gain = {arm: fmean(map(fmean, table)) for arm, table in values.items()}
            compared = compare_arms(values, CLAIMS)
            rows.append({"accuracy": accuracy, "worth": worth, "seeds": count, "gain": gain, "claims": compared})
    return rows


if __name__ == "__main__":
    main()
