"""A run directory made by hand, for tests of the report: every figure in it is known."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from cyclealign.files.atomic import write_atomic
from cyclealign.files.jsonl import write_json, write_jsonl
from cyclealign.files.run_dir import RunDir
from cyclealign.files.run_records import prompt_record, set_record, verdict_record
from cyclealign.judge.ledger import Call, Ledger
from cyclealign.rankers.agreement import agree
from cyclealign.types import Candidate, CandidateSet, Prompt, Ranking

REWARDS = {0: 0.40, 1: 0.46, 2: 0.53, 3: 0.51}  # mean reward after n interactions, before noise
STAGES = {"generate_and_rank": 40.0, "white_box": 5.0, "train": 30.0}
CONFIG = """\
name: {name}
black_box:
  backend: openai
  model: judge
  price: {{input: 0.15, output: 0.6}}
demonstrations:
  gate: 0.3
drift:
  max_nll_rise: 0.1
  max_length_ratio: 1.5
  min_distinct2: 0.9
"""
REPLIES = (
    "I would start with a short walk every morning, and then see how you feel after a week or two.",
    "That sounds hard. Who could you talk to about it?",
    "yes yes yes i think it is good",
    "You could ask a librarian: they often know the town's history better than any web page does.",
)


def prompts(n: int, tag: str) -> list[Prompt]:
    return [
        Prompt(
            (
                {"role": "user", "content": f"{tag} opener {i}: how do I keep a habit going?"},
                {"role": "assistant", "content": "What have you tried so far?"},
                {"role": "user", "content": f"{tag} {i}: lists, mostly, but I forget them within days."},
            )
        )
        for i in range(n)
    ]


def candidate_set(prompt: Prompt, k: int, rng: random.Random) -> CandidateSet:
    return CandidateSet(prompt, tuple(Candidate(str(i), f"{rng.choice(REPLIES)} [{i}]") for i in range(k)), k)


def hand_made_run(
    path: Path, *, name: str = "hand-made", n_eval: int = 40, n_train: int = 30, interactions: int = 3, k: int = 4
) -> RunDir:
    """A finished run that keeps interaction 2 of ``interactions``, with labels, paid calls and timings."""
    rng = random.Random(7)
    run = RunDir(path)
    held_out, train = prompts(n_eval, "held out"), prompts(n_train, "train")
    write_atomic(run.config, CONFIG.format(name=name))
    write_json(run.environment, {"versions": {"torch": "2.13.0", "vllm": None}, "hardware": {"gpus": [], "cores": 2}})
    write_jsonl(run.prompts / "train.jsonl", [prompt_record(p) for p in train])
    write_jsonl(run.prompts / "eval.jsonl", [prompt_record(p) for p in held_out])
    noise = {p.id: rng.gauss(0.0, 0.1) for p in held_out}
    for n in range(interactions + 1):
        write_jsonl(run.evaluation(n) / "candidates.jsonl", [set_record(candidate_set(p, k, rng)) for p in held_out])
        rewards = {p.id: REWARDS[n] + noise[p.id] + rng.gauss(0.0, 0.05) for p in held_out}
        write_json(run.evaluation(n) / "metrics.json", metrics(n, rewards, held_out))
    timings = [{"stage": "evaluate", "interaction": 0, "seconds": 20.0}]
    for n in range(interactions):
        write_interaction(run, n, train, k, rng)
        timings += [{"stage": s, "interaction": n, "seconds": t + n} for s, t in STAGES.items()]
        timings += [{"stage": "evaluate", "interaction": n + 1, "seconds": 21.0 + n}]
    write_jsonl(run.timings, timings)
    write_ledger(run.ledger, interactions)
    kept = {
        "trained": 2,
        "of": interactions,
        "why": "highest reward on the choosing half",
        "stopped": None,
        "start_model": "m",
    }
    write_json(run.best / "kept.json", kept)
    write_json(run.state_file, {"stage": "finished", "stopped": None, "interaction": interactions - 1, "at": 1.7e9})
    return run


def metrics(n: int, rewards: dict[str, float], held_out: list[Prompt]) -> dict[str, Any]:
    halves = [[rewards[p.id] for i, p in enumerate(held_out) if i % 2 == half] for half in (0, 1)]
    return {
        "replies": len(held_out),
        "mean_words": 12.0 + n,
        "distinct1": 0.4,
        "distinct2": 0.80 - 0.01 * n,
        "nll_start": 2.0 + 0.05 * n,
        "scorer": "by-hand",
        "reward": sum(halves[1]) / len(halves[1]),
        "reward_choosing": sum(halves[0]) / len(halves[0]),
        "reward_by_prompt": rewards,
        "white_box_accuracy": {"accuracy": 0.5 + 0.05 * n, "ranked": 64, "asked": 64},
        "black_box_accuracy": {"accuracy": 0.75, "ranked": 60, "asked": 64},
        "version": f"hand-made-v{n:04d}",
    }


def write_interaction(run: RunDir, n: int, train: list[Prompt], k: int, rng: random.Random) -> None:
    files = run.interaction(n)
    sets = [candidate_set(p, k, rng) for p in train]
    black = [Ranking.from_order(s.prompt.id, rng.sample(s.ids, k)) for s in sets]
    white = [Ranking.from_scores(s.prompt.id, {i: rng.gauss(-2.0, 0.3) for i in s.ids}) for s in sets]
    agreed = [agree(b, w) for b, w in zip(black, white, strict=True)]
    write_jsonl(files.candidates, [set_record(s) for s in sets])
    write_jsonl(files.black_box, [verdict_record(v) for v in black])
    write_jsonl(files.white_box, [verdict_record(v) for v in white])
    records = [
        {
            "prompt_id": a.prompt_id,
            "ids": a.ids,
            "length": a.length,
            "k": a.k,
            "corrected": a.corrected,
            "settled": a.settled,
        }
        for a in agreed
    ]
    write_jsonl(files.agreement, records)
    write_jsonl(files.demonstrations, [demonstration("static"), demonstration("static"), demonstration(str(n))])
    counts = {"prompts": len(train), "ranked": len(train), "unranked": {"unusable": 1}, "settled": 2, "accepted": 5}
    write_json(files.summary, {"interaction": n, "batch": 0, "round": n, **counts, "pool": 1, "pass_tau": 0.5})
    write_jsonl(files.train_log, [{"loss": 2.0 / (10 * n + s), "step": 10.0 * n + s} for s in range(1, 11)])


def demonstration(source: str) -> dict[str, Any]:
    return {
        "messages": [{"role": "user", "content": "What is a good first plant?"}],
        "responses": ["A cactus, perhaps.", "A pothos: it forgives everything."],
        "order": [1, 0],
        "source": source,
        "agreement": 1.0,
        "note": "",
    }


def write_ledger(path: Path, interactions: int) -> None:
    """Ten answered calls of 0.001 USD an interaction, and one that never came back."""
    with Ledger(path) as ledger:
        for n in range(interactions):
            for i in range(10):
                row = ledger.start(call(n, i), reserved_usd=0.002)
                ledger.done(
                    row, reply="x", input_tokens=500, output_tokens=8, usd=0.001, http_status=200, latency_s=0.5
                )
        ledger.start(call(interactions - 1, 99), reserved_usd=0.002)


def call(interaction: int, i: int) -> Call:
    return Call(
        endpoint="http://127.0.0.1:1/v1",
        model="judge",
        messages=[{"role": "user", "content": f"{interaction} {i}"}],
        schema=None,
        options={},
        purpose="rank",
        prompt_id=str(i),
        interaction=interaction,
    )
