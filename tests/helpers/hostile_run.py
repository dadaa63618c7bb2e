"""A run whose models and data wrote markup, scripts and control characters."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from report_run import hand_made_run, state

from cyclealign.files.environment import Environment, Hardware
from cyclealign.files.jsonl import read_jsonl, write_jsonl
from cyclealign.files.records import read_record, write_record
from cyclealign.files.run_dir import RunDir
from cyclealign.files.run_figures import Summary
from cyclealign.files.run_state import Kept

HOSTILE = "</div><script>alert('x')</script><img src=\"https://evil.example/p.png\" onerror='alert(1)'>&lt;\x00\x1b[31m"


def hostile_run(path: Path) -> RunDir:
    """A run in which everything that a model or a file may have written is hostile."""
    run = hand_made_run(path)
    run.config.write_text(f"name: '{HOSTILE[:70].replace(chr(39), chr(39) * 2)}'\nblack_box: {{backend: '<script>'}}\n")
    for file in [*path.glob("*/*/candidates.jsonl"), path / "prompts" / "train.jsonl"]:
        records = list(read_jsonl(file))
        for record in records:
            record["messages"][-1]["content"] += HOSTILE
            record["messages"][0]["role"] = "<script>"
            for candidate in record.get("candidates", []):
                candidate["text"] = HOSTILE + candidate["text"]
        write_jsonl(file, records)
    # The ids that the pages join by come from the content, so the changed prompts need their records renamed.
    rename_prompts(run)
    for n, metrics in run.evaluations().items():
        write_record(run.evaluation(n) / "metrics.json", replace(metrics, scorer=HOSTILE))
    for interaction in run.interactions():
        records = list(read_jsonl(interaction.demonstrations))
        write_jsonl(interaction.demonstrations, [r | {"responses": [HOSTILE, "b"]} for r in records])
        summary = read_record(Summary, interaction.summary)
        write_record(interaction.summary, replace(summary, unranked={HOSTILE: 1}))
    hardware = Hardware(cpu=HOSTILE, cores=2, gpus=(HOSTILE,), platform=HOSTILE)
    versions = {HOSTILE: HOSTILE}
    write_record(run.environment, Environment(versions=versions, python=HOSTILE, hardware=hardware, commit=HOSTILE))
    write_record(run.kept_file, Kept(trained=2, of=3, why=HOSTILE, stopped=HOSTILE, start_model="m"))
    write_record(run.state_file, state("finished", 2, stopped=HOSTILE, judge=HOSTILE))
    return run


def rename_prompts(run: RunDir) -> None:
    """Give the records of the training prompts the ids of their changed content."""
    new = [p.id for p in run.train_prompts()]
    old = [r["prompt_id"] for r in read_jsonl(run.prompts / "train.jsonl")]
    names = dict(zip(old, new, strict=True))
    for interaction in run.interactions():
        for file in (interaction.candidates, interaction.black_box, interaction.white_box, interaction.agreement):
            write_jsonl(file, [r | {"prompt_id": names[r["prompt_id"]]} for r in read_jsonl(file)])
