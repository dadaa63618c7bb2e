"""The model card of a run's product: what it is, what it was trained on and how, what came of it, samples."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cyclealign.config.schema import BUILTIN_POLICY, Config
from cyclealign.files.held_out_lists import LIST_MEASURES, held_out_means
from cyclealign.files.records import read_record
from cyclealign.files.run_dir import RunDir
from cyclealign.files.run_records import read_sets
from cyclealign.files.run_state import Kept
from cyclealign.files.strict_yaml import write_yaml
from cyclealign.types import CandidateSet

SAMPLES = 3
TAG = "cyclealign"  # by which a repository on the hub is known to be of an export
MODEL_USE = """\
from transformers import pipeline

chat = pipeline("text-generation", {place})
print(chat([{{"role": "user", "content": "Hello!"}}], max_new_tokens=64)[0]["generated_text"][-1]["content"])
"""
ADAPTER_USE = """\
from peft import AutoPeftModelForCausalLM

model = AutoPeftModelForCausalLM.from_pretrained({place})
"""


@dataclass(frozen=True, slots=True)
class HubPlace:
    """Where a model goes on the hub: ``OWNER/NAME``, and the folder in it; empty for the root."""

    repo: str
    folder: str


def model_card(config: Config, run: RunDir, *, adapter: bool, at: HubPlace | None = None) -> str:
    """Markdown with the hub's YAML header. ``adapter``: a PEFT adapter, not a whole model."""
    kept = read_record(Kept, run.kept_file)
    loss = config.model_dump(mode="json")["loss"]
    loss |= {"function": Path(loss["function"]).name} if "function" in loss else {}  # a path is nobody else's business
    fields = ", ".join(f"{k} {v}" for k, v in loss.items() if k != "name")
    return "\n".join(
        [
            "---",
            write_yaml(_metadata(config, adapter)).rstrip(),
            "---",
            "",
            f"# {config.name}",
            "",
            *_taught_by(config, run),
            f"- Loss: {loss['name']} ({fields}); anchor {config.anchor.kind} with weight {config.anchor.weight}"
            f"{f'; leaf with weight {config.leaf.weight}' if config.leaf else ''}",
            f"- Weights: {_weights(config)}",
            *_template(config),
            f"- Kept: {kept.why}" if config.lists else f"- Kept: after {kept.trained} interactions, {kept.why}",
            "",
            *_use(at, adapter),
            *_held_out_lists(run),
            *_results(run, kept.trained),
            *_samples(run, kept.trained),
        ]
    )


def _taught_by(config: Config, run: RunDir) -> list[str]:
    """Whose judgement, on which candidates."""
    if (taken := run.lists()) is not None:
        gives = {"order": "an order", "magnitude": "scores", "votes": "votes of several passes"}[taken.gives]
        return [
            f"`{base_name(config)}` trained on ranked lists by cyclealign.",
            "",
            f"- Lists: `{Path(taken.source).name}` ({taken.trained} trained on, {taken.held_out} held out), which give"
            f" {gives}",
        ]
    judge = config.black_box.judge_name
    sampling = config.generator
    return [
        f"`{base_name(config)}` aligned with the judgement of `{judge}` by cyclealign.",
        "",
        f"- Prompts: `{config.data.prompts}` ({len(run.train_prompts())})",
        f"- Candidates per prompt: {sampling.candidates} (temperature {sampling.temperature},"
        f" top-p {sampling.top_p}, at most {sampling.max_new_tokens} new tokens)",
        f"- Ranked by: `{config.black_box.backend}` `{judge}`, {config.black_box.passes} pass(es)",
    ]


def base_name(config: Config) -> str:
    """The start model as others know it: a local path gives its last part only."""
    return Path(config.policy.model).name if Path(config.policy.model).is_dir() else config.policy.model


def _template(config: Config) -> list[str]:
    """With which values chats were rendered: who serves an adapter has to give them again."""
    given = config.policy.chat_template_kwargs
    values = ", ".join(f"`{name}={json.dumps(value)}`" for name, value in given.items())
    return [f"- Chats rendered with {values}"] if given else []


def _use(at: HubPlace | None, adapter: bool) -> list[str]:
    """How others load it, once it has a place where they find it."""
    if at is None:
        return []
    place = f'"{at.repo}"' + (f', subfolder="{at.folder}"' if at.folder else "")
    code = (ADAPTER_USE if adapter else MODEL_USE).format(place=place)
    return ["## Use", "", f"```python\n{code}```", ""]


def _metadata(config: Config, adapter: bool) -> Mapping[str, object]:
    on_hub = config.policy.model != BUILTIN_POLICY and not Path(config.policy.model).is_dir()
    return {
        "library_name": "peft" if adapter else "transformers",
        "pipeline_tag": "text-generation",
        "tags": [TAG, "alignment", config.loss.name],
        **({"base_model": config.policy.model} if on_hub else {}),
    }


def _weights(config: Config) -> str:
    lora = config.policy.lora
    return "full fine-tuning" if lora is None else f"LoRA, rank {lora.r}, alpha {lora.alpha}"


def _results(run: RunDir, trained: int) -> list[str]:
    """Start model against the kept one, on held-out prompts; nothing where the run measured nothing."""
    evaluations = run.evaluations()
    if 0 not in evaluations or trained not in evaluations:
        return []
    start, kept = evaluations[0], evaluations[trained]
    measures = (
        (f"Reward ({kept.scorer})", start.reward, kept.reward, 4),
        ("NLL under the start model (nats per token)", start.nll_start, kept.nll_start, 3),
        ("Distinct-2", start.distinct2, kept.distinct2, 3),
        ("Mean length (words)", start.mean_words, kept.mean_words, 1),
    )
    rows = [
        f"| {title} | {before:.{digits}f} | {after:.{digits}f} |"
        for title, before, after, digits in measures
        if before is not None and after is not None
    ]
    return ["## Results", "", "| on held-out prompts | start | this |", "|---|---|---|", *rows, ""]


def _held_out_lists(run: RunDir) -> list[str]:
    """The start model against the trained one on lists that only measured; nothing where none did."""
    start, trained = (held_out_means(run.held_out_lists(n)) for n in (0, 1))
    rows = [
        f"| {title} | {start[name]:.{digits}f} | {trained[name]:.{digits}f} |"
        for name, title, digits in LIST_MEASURES
        if name in start and name in trained
    ]
    return ["## Results", "", "| on held-out lists | start | this |", "|---|---|---|", *rows, ""] if rows else []


def _samples(run: RunDir, trained: int) -> list[str]:
    before = read_sets(run.evaluation(0) / "candidates.jsonl")
    after = read_sets(run.evaluation(trained) / "candidates.jsonl")
    shared = [i for i in after if i in before and after[i].candidates and before[i].candidates][:SAMPLES]
    if not shared:
        return []
    lines = ["## Samples", "", "The first candidates of the first held-out prompts, as sampled.", ""]
    for prompt_id in shared:
        lines += _sample(before[prompt_id], after[prompt_id])
    return lines


def _sample(before: CandidateSet, after: CandidateSet) -> list[str]:
    prompt = after.prompt.messages[-1]["content"]
    texts = (("Prompt", prompt), ("Before", before.candidates[0].text), ("After", after.candidates[0].text))
    return [line for title, text in texts for line in (f"**{title}**", "", *_indented(text), "")]


def _indented(text: str) -> list[str]:
    """A code block by indentation: no text can end it, as a fence of backticks could be ended."""
    return [f"    {line}" for line in text.strip().splitlines()] or ["    (empty)"]
