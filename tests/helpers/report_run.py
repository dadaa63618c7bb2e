"""A run directory made by hand, for tests of the report: every figure in it is known."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

from cyclealign.files.atomic import write_atomic
from cyclealign.files.environment import Environment, Hardware
from cyclealign.files.jsonl import write_jsonl
from cyclealign.files.records import write_record, write_records
from cyclealign.files.run_dir import RunDir
from cyclealign.files.run_figures import Accuracy, Metrics, Summary, TrainRow
from cyclealign.files.run_records import prompt_record, set_record, verdict_record
from cyclealign.files.run_state import Kept, Stage, State, Timing
from cyclealign.judge.call import Call
from cyclealign.judge.ledger import Ledger
from cyclealign.rankers.agreement import agree
from cyclealign.types import Candidate, CandidateSet, Prompt, Ranking

REWARDS = {0: 0.40, 1: 0.46, 2: 0.53, 3: 0.51}  # mean reward after n interactions, before noise
STAGES: dict[Stage, float] = {"generate_and_rank": 40.0, "white_box": 5.0, "train": 30.0}
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
    hardware = Hardware(cpu="x86", cores=2, gpus=(), platform="Linux")
    versions = {"torch": "2.13.0", "vllm": None}
    write_record(run.environment, Environment(versions=versions, python="3.12.0", hardware=hardware, commit=None))
    write_jsonl(run.prompts / "train.jsonl", [prompt_record(p) for p in train])
    write_jsonl(run.prompts / "eval.jsonl", [prompt_record(p) for p in held_out])
    noise = {p.id: rng.gauss(0.0, 0.1) for p in held_out}
    for n in range(interactions + 1):
        write_jsonl(run.evaluation(n) / "candidates.jsonl", [set_record(candidate_set(p, k, rng)) for p in held_out])
        rewards = {p.id: REWARDS[n] + noise[p.id] + rng.gauss(0.0, 0.05) for p in held_out}
        write_record(run.evaluation(n) / "metrics.json", metrics(n, rewards, held_out))
    timings = [Timing(stage="evaluate", interaction=0, seconds=20.0)]
    for n in range(interactions):
        write_interaction(run, n, train, k, rng)
        timings += [Timing(stage=s, interaction=n, seconds=t + n) for s, t in STAGES.items()]
        timings += [Timing(stage="evaluate", interaction=n + 1, seconds=21.0 + n)]
    write_records(run.timings, timings)
    write_ledger(run.ledger, interactions)
    why = "highest reward on the choosing half"
    write_record(run.kept_file, Kept(trained=2, of=interactions, why=why, stopped=None, start_model="m"))
    write_record(run.state_file, state("finished", interactions - 1))
    return run


def state(stage: Stage, interaction: int, **more: Any) -> State:
    """A state file's record, of a run that asks an API and was last seen in 2023."""
    seen = State(stage=stage, launch="1-1", pid=1, at=1.7e9, judge="openai", values={}, interaction=interaction)
    return replace(seen, **more)


def metrics(n: int, rewards: dict[str, float], held_out: list[Prompt]) -> Metrics:
    halves = [[rewards[p.id] for i, p in enumerate(held_out) if i % 2 == half] for half in (0, 1)]
    return Metrics(
        replies=len(held_out),
        mean_words=12.0 + n,
        distinct1=0.4,
        distinct2=0.80 - 0.01 * n,
        kept_of_drawn=1.0,
        nll_start=2.0 + 0.05 * n,
        nll_by_prompt={},
        scorer="by-hand",
        reward=sum(halves[1]) / len(halves[1]),
        reward_choosing=sum(halves[0]) / len(halves[0]),
        reward_by_prompt=rewards,
        white_box_accuracy=Accuracy(accuracy=0.5 + 0.05 * n, ranked=64, asked=64),
        black_box_accuracy=Accuracy(accuracy=0.75, ranked=60, asked=64),
        version=f"hand-made-v{n:04d}",
    )


def write_interaction(run: RunDir, n: int, train: list[Prompt], k: int, rng: random.Random) -> None:
    files = run.interaction(n)
    sets = [candidate_set(p, k, rng) for p in train]
    black = [Ranking.from_order(s.prompt.id, rng.sample(s.ids, k)) for s in sets]
    white = [Ranking.from_scores(s.prompt.id, {i: rng.gauss(-2.0, 0.3) for i in s.ids}) for s in sets]
    agreed = [agree(b, w) for b, w in zip(black, white, strict=True)]
    write_jsonl(files.candidates, [set_record(s) for s in sets])
    write_jsonl(files.black_box, [verdict_record(v) for v in black])
    write_jsonl(files.white_box, [verdict_record(v) for v in white])
    write_records(files.agreement, agreed)
    write_jsonl(files.demonstrations, [demonstration("static"), demonstration("static"), demonstration(str(n))])
    write_record(files.summary, summary(n, len(train)))
    write_records(files.train_log, [TrainRow(loss=2.0 / (10 * n + s), step=10.0 * n + s) for s in range(1, 11)])


def summary(n: int, ranked: int) -> Summary:
    return Summary(
        interaction=n,
        batch=0,
        round=n,
        prompts=ranked,
        ranked=ranked,
        unranked={"unusable": 1},
        lcs=2.0,
        lcs_by_chance=1.9,
        agreement=0.5,
        agreement_corrected=0.1,
        pass_tau=0.5,
        settled=2,
        accepted=5,
        pool=1,
        pool_version="0" * 16,
    )


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
                assert row is not None
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
