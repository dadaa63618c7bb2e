"""A small finished run with real weights (a tiny random policy and a LoRA adapter), for tests of what leaves a run."""

from __future__ import annotations

from pathlib import Path

import torch
from tiny_policy import save_tiny, tiny_llama

from cyclealign.config.black_box import BlackBoxConfig, Price
from cyclealign.config.loading import dump_config
from cyclealign.config.schema import Config, DataConfig, GeneratorConfig, LoraConfig, PolicyConfig
from cyclealign.files.atomic import write_atomic
from cyclealign.files.jsonl import write_jsonl
from cyclealign.files.records import write_record, write_records
from cyclealign.files.run_dir import RunDir
from cyclealign.files.run_figures import Metrics, TrainRow
from cyclealign.files.run_records import prompt_record, set_record, verdict_record
from cyclealign.files.run_state import Kept, State, Timing
from cyclealign.rankers.agreement import Agreement
from cyclealign.types import Candidate, CandidateSet, Prompt, Ranking, Unranked

TEXTS = ("good yes", "yes", "no", "bad no")


def prompt(text: str) -> Prompt:
    return Prompt(({"role": "user", "content": text},))


def candidate_set(text: str) -> CandidateSet:
    return CandidateSet(prompt(text), tuple(Candidate(f"c{i}", t) for i, t in enumerate(TEXTS)), 4)


def save_adapter(directory: Path, base: Path) -> None:
    """An adapter that does something: LoRA starts at zero, so its second factor is filled here."""
    from peft import LoraConfig as PeftLora
    from peft import get_peft_model

    model = tiny_llama()
    model.name_or_path = str(base)
    adapted = get_peft_model(model, PeftLora(r=4, lora_alpha=8, target_modules="all-linear"))
    torch.manual_seed(3)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    adapted.peft_config["default"].base_model_name_or_path = str(base)
    adapted.save_pretrained(directory)


def finished_run(folder: Path) -> RunDir:
    """``folder/run``, of a policy in ``folder/policy``; two interactions of two prompts, the second kept."""
    policy = save_tiny(folder / "policy")
    config = Config(
        name="run",
        output_dir=folder,
        data=DataConfig(prompts="prompts.jsonl"),
        policy=PolicyConfig(model=str(policy), dtype="float32", lora=LoraConfig(r=4, alpha=8)),
        generator=GeneratorConfig(candidates=4),
        black_box=BlackBoxConfig(backend="openai", model="judge", price=Price(input=1, output=2), budget_usd=5),
    )
    run = RunDir(folder / "run")
    write_atomic(run.config, dump_config(config))
    write_jsonl(run.prompts / "train.jsonl", [prompt_record(prompt(t)) for t in ("hello a", "hello b")])
    write_jsonl(run.prompts / "eval.jsonl", [prompt_record(prompt("hello eval"))])
    for n in (0, 1):
        files = run.interaction(n)
        sets = [candidate_set("hello a"), candidate_set("hello b")]
        first, second = (s.prompt.id for s in sets)
        write_jsonl(files.candidates, map(set_record, sets))
        ranking = Ranking(prompt_id=first, tiers=(("c0",), ("c1", "c2"), ("c3",)))
        write_jsonl(files.black_box, map(verdict_record, (ranking, Unranked(second, "refusal", "no"))))
        write_records(files.agreement, [Agreement(first, ("c0", "c1", "c3"), 3, 4, 0.37, settled=n == 1)])
        write_records(files.train_log, [TrainRow(loss=1.0, step=n + 1.0)])
    for n, words in ((0, 2.0), (2, 3.0)):
        folder_of = run.evaluation(n)
        text = "```\n# <b>before</b>" if n == 0 else "after | that"
        write_jsonl(
            folder_of / "candidates.jsonl", [set_record(CandidateSet(prompt("hello eval"), (Candidate("0", text),)))]
        )
        write_record(folder_of / "metrics.json", metrics(n, words))
    write_records(run.timings, [Timing(stage="train", interaction=0, seconds=61.0)])
    about = {"interaction": 1, "prompts": 2}
    ended = State(stage="finished", launch="1-1", pid=1, at=0.0, judge="openai", values={}, **about)
    write_record(run.state_file, ended)
    save_adapter(run.best / "adapter", policy)
    why = "highest reward on the choosing half"
    write_record(run.kept_file, Kept(trained=2, of=2, why=why, stopped=None, start_model=str(policy)))
    return run


def metrics(n: int, words: float) -> Metrics:
    return Metrics(
        replies=1,
        mean_words=words,
        distinct1=1.0,
        distinct2=1.0,
        kept_of_drawn=1.0,
        nll_start=2.0 + n / 10,
        nll_by_prompt={},
        white_box_accuracy=None,
        black_box_accuracy=None,
        version=f"run-v{n}",
    )
