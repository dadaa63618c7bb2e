"""Generation by a real vLLM: its engine in a child process, and its server with adapters loaded while it runs."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from openai import OpenAI
from peft import LoraConfig, PeftModel, get_peft_model
from tiny_policy import tiny_config
from transformers import AutoModelForCausalLM

from cyclealign.config.schema import GeneratorConfig, PolicyConfig
from cyclealign.generation.backend import build_generator
from cyclealign.generation.openai_server import ServerGenerator
from cyclealign.generation.vllm import VllmGenerator
from cyclealign.models.chat_template import render_prompt
from cyclealign.models.policy import load_tokenizer
from cyclealign.models.policy_files import resolve_model
from cyclealign.types import CanarySample, CandidateSet, PolicyVersion, Prompt, RunStopped, UserError

pytestmark = [pytest.mark.vllm, pytest.mark.slow]
START = resolve_model("builtin:tiny-chat")
WORDS = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "good", "bad", "yes", "no", "hello", "world"]
PROMPTS = [Prompt(({"role": "user", "content": " ".join(WORDS[i : i + 1 + i % 7])},)) for i in range(12)]
MANY = [Prompt(({"role": "user", "content": f"{a} {b} {c}"},)) for a in WORDS[:5] for b in WORDS[:5] for c in WORDS[:5]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three random adapters for the packaged model."""
    path = tmp_path_factory.mktemp("served")
    for seed in (1, 2, 3):
        torch.manual_seed(seed)
        lora = LoraConfig(
            r=4, lora_alpha=8, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM"
        )
        get_peft_model(start_model(START), lora).save_pretrained(path / f"adapter{seed}")
    return path


def start_model(path: str) -> Any:
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)


def version(folder: Path, number: int) -> PolicyVersion:
    return PolicyVersion(f"t-v{number:04d}", START, folder / f"adapter{number}" if number else None)


def sections_of(**settings: Any) -> tuple[GeneratorConfig, PolicyConfig]:
    values = {"candidates": 3, "max_new_tokens": 24, "temperature": 1.0, "top_p": 0.95} | settings
    config = tiny_config(Path(START), generator=values)
    return config.generator, config.policy


def plain(sets: list[CandidateSet]) -> list[Any]:
    return [(s.prompt.id, s.drawn, [(c.id, c.text, c.finish) for c in s.candidates]) for s in sets]


def agrees_with_transformers(taken: CanarySample, which: PolicyVersion) -> bool:
    """Whether these are the likeliest tokens, and their log-probabilities, under the version's weights."""
    model: Any = start_model(which.base)
    if which.adapter is not None:
        model = PeftModel.from_pretrained(model, which.adapter)
    ids = render_prompt(load_tokenizer(sections_of()[1]), taken.prompt.messages, 64)
    with torch.inference_mode():
        whole = torch.tensor([ids + list(taken.token_ids)])
        logprobs = model.eval()(whole).logits[0, len(ids) - 1 : -1].log_softmax(-1)
    same_tokens = logprobs.argmax(-1).tolist() == list(taken.token_ids)
    own = torch.tensor(taken.logprobs)
    return same_tokens and bool(torch.allclose(own, logprobs.max(-1).values, rtol=1e-3, atol=1e-3))


# The engine in a child ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def engine(folder: Path) -> Iterator[VllmGenerator]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "nowhere", "LOCAL_RANK": "1"}.items():
            patch.setenv(name, value)
        generator = build_generator(*sections_of(backend="vllm"), workdir=folder / "run")
        assert isinstance(generator, VllmGenerator)
        yield generator
        generator.close()


def test_each_version_is_served_with_its_own_weights(engine: VllmGenerator, folder: Path) -> None:
    taken = {}
    for number in (0, 1, 2, 0, 1):
        taken[number] = engine.canary(PROMPTS[3], version(folder, number))
        assert agrees_with_transformers(taken[number], version(folder, number))
    assert len({sample.logprobs for sample in taken.values()}) == 3


def test_the_child_has_nothing_of_the_launcher(engine: VllmGenerator, folder: Path) -> None:
    engine.canary(PROMPTS[0], version(folder, 0))
    entries = Path(f"/proc/{engine.pid}/environ").read_text().split("\0")
    names = {entry.partition("=")[0] for entry in entries}
    assert not names & {"RANK", "WORLD_SIZE", "MASTER_ADDR", "LOCAL_RANK"}
    assert os.environ["RANK"] == "1"  # the parent keeps its own


def test_a_chunk_is_a_function_of_its_seed_also_after_a_kill(engine: VllmGenerator, folder: Path) -> None:
    which = version(folder, 1)
    first = plain(list(engine.generate(PROMPTS, which, seed=7)))
    assert plain(list(engine.generate(PROMPTS, which, seed=7))) == first
    other = plain(list(engine.generate(PROMPTS, which, seed=8)))
    assert sorted(other) != sorted(first)
    assert {prompt_id for prompt_id, _, _ in first} == {p.id for p in PROMPTS}
    for _, drawn, candidates in first:
        texts = [text for _, text, _ in candidates]
        assert len(set(texts)) == len(texts)
        assert all(text and text == text.strip() for text in texts)
        assert drawn in (3, 6, 9)
        assert len(texts) == 3 or drawn == 9
    assert sum(len(candidates) for _, _, candidates in first) > 30  # the three samples of a prompt have three seeds

    given_up = engine.generate(PROMPTS, which, seed=9)
    next(given_up)
    given_up.close()
    assert plain(list(engine.generate(PROMPTS, which, seed=7))) == first

    killed, pid = engine.generate(MANY, which, seed=7), engine.pid
    next(killed)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(RunStopped, match=r"vLLM failed: the engine's process ended; its log is .*vllm\.log"):
        list(killed)
    assert plain(list(engine.generate(PROMPTS, which, seed=7))) == first
    assert engine.pid != pid


def test_sets_come_while_others_are_still_being_sampled(engine: VllmGenerator, folder: Path) -> None:
    list(engine.generate(PROMPTS, version(folder, 0), seed=0))  # the engine is up
    began = time.monotonic()
    arrived = []
    for item in engine.generate(MANY, version(folder, 0), seed=1):
        arrived.append((time.monotonic() - began, item.prompt.id))
    assert len({prompt_id for _, prompt_id in arrived}) == len(MANY) == 125
    assert arrived[0][0] < 0.7 * arrived[-1][0]


def test_closing_ends_the_child(engine: VllmGenerator, folder: Path) -> None:
    engine.canary(PROMPTS[0], version(folder, 0))
    pid = engine.pid
    engine.pause()
    assert engine.pid == pid  # warm: on a CPU a new start would take longer than the samples
    engine.canary(PROMPTS[0], version(folder, 1))
    assert engine.pid == pid
    engine.close()
    engine.close()
    assert engine.pid is None
    assert not Path(f"/proc/{pid}").exists()


def test_a_model_that_vllm_cannot_load_is_one_readable_line(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    load_tokenizer(sections_of()[1]).save_pretrained(broken)
    settings = json.loads(Path(START, "config.json").read_text())
    (broken / "config.json").write_text(json.dumps(settings | {"architectures": ["Nothing"], "model_type": "none"}))
    config = tiny_config(broken, generator={"backend": "vllm"})
    generator = VllmGenerator(config.generator, config.policy, workdir=tmp_path)
    with pytest.raises(UserError, match=r"generator.backend: vLLM failed: .*vllm\.log") as caught:
        generator.canary(PROMPTS[0], PolicyVersion("t-start", str(broken)))
    assert "\n" not in str(caught.value)
    assert generator.pid is None


# The server ---------------------------------------------------------------------------------------------------


@pytest.fixture
def remote(vllm_server: str, tmp_path: Path) -> Iterator[ServerGenerator]:
    both = sections_of(backend="server", endpoints=[vllm_server], adapter_root=tmp_path / "shared")
    generator = build_generator(*both, workdir=tmp_path)
    assert isinstance(generator, ServerGenerator)
    yield generator
    generator.close()


def served_names(url: str) -> set[str]:
    with OpenAI(base_url=url, api_key="none") as client:
        return {model.id.rpartition("-")[0] for model in client.models.list() if model.id.startswith("t-v")}


def test_a_server_is_given_each_version(
    remote: ServerGenerator, folder: Path, vllm_server: str, tmp_path: Path
) -> None:
    for number, there in ((0, set()), (1, {"t-v0001"}), (2, {"t-v0001", "t-v0002"}), (3, {"t-v0002", "t-v0003"})):
        taken = remote.canary(PROMPTS[3], version(folder, number))
        assert agrees_with_transformers(taken, version(folder, number))
        assert served_names(vllm_server) == there
    copies = sorted(p.name.rpartition("-")[0] for p in (tmp_path / "shared").iterdir())
    assert copies == ["t-v0001", "t-v0002", "t-v0003"]


def test_a_server_samples_by_seed(remote: ServerGenerator, folder: Path) -> None:
    which = version(folder, 3)
    first = sorted(plain(list(remote.generate(PROMPTS, which, seed=7))))
    assert sorted(plain(list(remote.generate(PROMPTS, which, seed=7)))) == first
    assert sorted(plain(list(remote.generate(PROMPTS, which, seed=8)))) != first
    assert len(first) == len(PROMPTS)
    assert sum(len(candidates) for _, _, candidates in first) > 30
    assert {finish for _, _, candidates in first for _, _, finish in candidates} == {"stop", "length"}


def test_the_server_answers_by_schema_without_white_space(vllm_server: str) -> None:
    schema = {"type": "object", "properties": {"ranking": {"enum": ["1>2", "2>1"]}}, "required": ["ranking"]}
    schema["additionalProperties"] = False
    with OpenAI(base_url=vllm_server, api_key="none") as client:
        reply = client.chat.completions.create(
            model=next(iter(client.models.list())).id,
            messages=[{"role": "user", "content": "a b"}],
            max_tokens=40,
            temperature=1.5,
            response_format={"type": "json_schema", "json_schema": {"name": "r", "schema": schema}},
        )
    assert json.loads(reply.choices[0].message.content or "")["ranking"] in ("1>2", "2>1")
    assert reply.choices[0].message.content in ('{"ranking":"1>2"}', '{"ranking":"2>1"}')
