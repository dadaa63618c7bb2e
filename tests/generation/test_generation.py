"""Sampling: the rule for sets, the decoding loop against transformers' own, and the back ends that need no vLLM."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from loopback import Fault, Loopback
from peft import LoraConfig, PeftModel, get_peft_model
from tiny_policy import save_tiny, tiny_config, tiny_llama, tiny_tokenizer
from transformers import AutoModelForCausalLM

from cyclealign.config.schema import GeneratorConfig, PolicyConfig
from cyclealign.generation import backend as generation
from cyclealign.generation.backend import build_generator
from cyclealign.generation.decoding import ATTEMPTS, Batch, choose, greedy, prefer_folded_attention, sample
from cyclealign.generation.engine import child_environment
from cyclealign.generation.sampling import ROUNDS, Draw, collect, is_final, stop_token_ids, to_draw
from cyclealign.generation.serving import check_adapter, check_servable, engine_rank
from cyclealign.generation.transformers import TransformersGenerator
from cyclealign.models.chat_template import render_prompt
from cyclealign.types import CandidateSet, PolicyVersion, Prompt, UserError

ROOT = Path(__file__).resolve().parents[2]


TEXTS = ["", " ", "\n", "a", " a", "a ", "b", "a b", "a\n\nHuman: b", "\n\nHuman: b", "b\n\nHuman:", "Human: a"]
draws = st.lists(st.builds(Draw, st.sampled_from(TEXTS), st.sampled_from(["stop", "length"])), max_size=12)


def prompt(text: str) -> Prompt:
    return Prompt(({"role": "user", "content": text},))


PROMPTS = [prompt(t) for t in ("a b c", "hello", "good bad yes no", "d", "e f g h i j", "world a", "k l")]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("start"))


def adapter(base: Path, directory: Path, seed: int = 1) -> Path:
    """A random LoRA adapter that moves the model well away from its base."""
    torch.manual_seed(seed)
    config = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    get_peft_model(AutoModelForCausalLM.from_pretrained(base), config).save_pretrained(directory)
    return directory


def sections(start: Path, **settings: Any) -> tuple[GeneratorConfig, PolicyConfig]:
    values = {"backend": "transformers", "candidates": 3, "max_new_tokens": 6, "top_p": 0.9} | settings
    config = tiny_config(start, generator=values)
    return config.generator, config.policy


def plain(sets: list[CandidateSet]) -> dict[str, Any]:
    return {s.prompt.id: ([(c.id, c.text, c.finish) for c in s.candidates], s.drawn) for s in sets}


# The rule for sets ------------------------------------------------------------------------------------------


@given(draws, st.integers(2, 5))
def test_collect_agrees_with_a_loop(drawn: list[Draw], k: int) -> None:
    kept: list[tuple[str, str]] = []
    for draw in drawn:
        text, finish = draw.text, draw.finish
        if "\n\nHuman:" in text:
            text, finish = text[: text.index("\n\nHuman:")], "stop"
        text = text.strip()
        if text and text not in [t for t, _ in kept] and len(kept) < k:
            kept.append((text, finish))
    item = collect(PROMPTS[0], drawn, k)
    assert [(c.text, c.finish) for c in item.candidates] == kept
    assert item.ids == tuple(str(i) for i in range(len(kept)))
    assert item.drawn == len(drawn)
    assert is_final(item, k) == (len(kept) == k or len(drawn) >= ROUNDS * k)


@given(draws, draws, st.integers(2, 5))
def test_more_draws_only_append(first: list[Draw], more: list[Draw], k: int) -> None:
    before, after = collect(PROMPTS[0], first, k), collect(PROMPTS[0], first + more, k)
    assert after.candidates[: len(before.candidates)] == before.candidates


def test_text_of_a_sample_ends_before_its_first_stop_token() -> None:
    tokenizer = tiny_tokenizer()
    ids = tokenizer("good bad yes", add_special_tokens=False)["input_ids"]
    assert to_draw(tokenizer, [*ids, 2, *ids], (2,)) == Draw("good bad yes", "stop")
    assert to_draw(tokenizer, [4, *ids], (2,)) == Draw("good bad yes", "length")
    assert to_draw(tokenizer, [2], (2,)) == Draw("", "stop")


def test_stop_tokens_are_the_templates_the_tokenizers_and_the_models(start: Path, tmp_path: Path) -> None:
    assert stop_token_ids(tiny_tokenizer(), str(start)) == (2,)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [7, 9]}))
    assert stop_token_ids(tiny_tokenizer(), str(tmp_path)) == (2, 7, 9)
    assert stop_token_ids(tiny_tokenizer(), str(tmp_path / "none")) == (2,)


# The decoding loop ------------------------------------------------------------------------------------------


def nucleus(probs: torch.Tensor, top_p: float) -> torch.Tensor:
    """The top-p distribution by a loop over the sorted tokens."""
    kept, mass = torch.zeros_like(probs), 0.0
    for i in probs.argsort(descending=True).tolist():
        kept[i] = probs[i]
        mass += float(probs[i])
        if mass >= top_p:
            break
    return kept / kept.sum()


def chi_square(counts: torch.Tensor, probs: torch.Tensor) -> float:
    """Pearson's statistic less its mean, in standard deviations, over cells of at least 5."""
    total = counts.sum()
    cells = probs * total >= 5
    expected = probs[cells] * total
    freedom = int(cells.sum()) - 1
    value = ((counts[cells] - expected) ** 2 / expected).sum()
    return float((value - freedom) / (2 * freedom) ** 0.5)


@pytest.mark.parametrize("top_p", [0.05, 0.3, 0.8, 0.95, 1.0])
def test_tokens_are_drawn_from_the_nucleus(top_p: float) -> None:
    random = torch.Generator().manual_seed(5)
    logits, n = torch.randn(40, generator=random) * 1.5, 40_000
    uniform = torch.rand(n, ATTEMPTS, generator=random)
    tokens = choose(logits.expand(n, -1), uniform, temperature=0.7, top_p=top_p)
    expected = nucleus((logits / 0.7).softmax(-1), top_p)
    counts = torch.bincount(tokens, minlength=40).float()
    assert counts[expected == 0].sum() == 0
    if int((expected > 0).sum()) > 1:
        assert abs(chi_square(counts, expected)) < 4


def test_a_tie_at_the_edge_of_the_nucleus_is_inside() -> None:
    logits = torch.tensor([[0.5, 0.2, 0.2, 0.1]]).log()
    uniform = torch.rand(4000, ATTEMPTS, generator=torch.Generator().manual_seed(0))
    tokens = choose(logits.expand(4000, -1), uniform, temperature=1.0, top_p=0.6)
    assert set(tokens.tolist()) == {0, 1, 2}


@pytest.mark.parametrize("folded", [True, False])
def test_a_batch_that_shrinks_and_grows_has_the_models_logits(folded: bool) -> None:
    model = tiny_llama(3).eval()
    if folded:
        prefer_folded_attention(model)
    rows = [[5, 6, 7, 8, 9], [10, 11], [12, 13, 14]]
    with torch.inference_mode():
        batch = Batch(model, rows, pad=0)
        order = torch.tensor([0, 0, 1, 2, 2])
        batch.select(order)
        rows = [rows[i] for i in order.tolist()]
        for step in range(70):  # past the room that a cache grows by
            if step == 3:
                batch.select(torch.tensor([4, 1, 2]))
                rows = [rows[4], rows[1], rows[2]]
            tokens = torch.tensor([(7 * step + i) % 38 for i in range(len(rows))])
            batch.advance(tokens)
            rows = [[*row, int(t)] for row, t in zip(rows, tokens, strict=True)]
            if step in (0, 2, 3, 40, 69):
                plain_model = tiny_llama(3).eval()
                expected = torch.stack([plain_model(torch.tensor([row])).logits[0, -1] for row in rows])
                torch.testing.assert_close(batch.logits, expected, rtol=1e-4, atol=1e-5)


def test_the_head_reads_states_without_gaps() -> None:
    """Over states with gaps torch would copy the head's matrix for every row: gigabytes for a small model's prompts."""
    model, steps = tiny_llama(3).eval(), []
    model.lm_head.register_forward_pre_hook(lambda _, given: steps.append((given[0].shape, given[0].is_contiguous())))
    with torch.inference_mode():
        batch = Batch(model, [[5, 6, 7], [8, 9]], pad=0)
        batch.advance(torch.tensor([1, 2]))
    assert steps == [((2, 1, model.config.hidden_size), True)] * 2


def test_first_tokens_follow_the_models_probabilities() -> None:
    model, ids, n = tiny_llama(4, initializer_range=0.05).eval(), [5, 6, 7], 6000
    uniforms = torch.rand(1, n, 1, ATTEMPTS, generator=torch.Generator().manual_seed(1))
    [(_, samples)] = sample(model, [ids], uniforms, temperature=1.0, top_p=1.0, stops=(), pad=0)
    counts = torch.bincount(torch.tensor(samples)[:, 0], minlength=38).float()
    with torch.inference_mode():
        probs = model(torch.tensor([ids])).logits[0, -1].softmax(-1)
    assert abs(chi_square(counts, probs)) < 4


def test_samples_end_at_their_stop_token_or_at_the_limit_and_prompts_are_yielded_when_complete() -> None:
    model = tiny_llama(6, initializer_range=0.02).eval()
    uniforms = torch.rand(4, 5, 30, ATTEMPTS, generator=torch.Generator().manual_seed(2))
    stops = (2, 3, 4, 5)
    found = list(sample(model, [[7], [8, 9], [10], [11]], uniforms, temperature=1.0, top_p=1.0, stops=stops, pad=0))
    assert sorted(i for i, _ in found) == [0, 1, 2, 3]
    longest = [max(map(len, lines)) for _, lines in found]
    assert longest == sorted(longest)  # a prompt comes as soon as its last sample has ended
    for line in (line for _, lines in found for line in lines):
        assert not set(line[:-1]) & set(stops)
        assert len(line) == 30 or line[-1] in stops


def test_greedy_is_transformers_own(start: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(start).eval()
    ids, logprobs = greedy(model, [5, 6, 7], limit=9, stops=(), pad=0)
    whole = model.generate(
        torch.tensor([[5, 6, 7]]),
        attention_mask=torch.ones(1, 3),
        max_new_tokens=9,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    assert whole[0, 3:].tolist() == ids
    with torch.inference_mode():
        expected = model(whole).logits[0, 2:-1].log_softmax(-1).gather(-1, torch.tensor(ids)[:, None])[:, 0]
    torch.testing.assert_close(torch.tensor(logprobs), expected, rtol=1e-4, atol=1e-5)
    assert greedy(model, [5, 6, 7], limit=9, stops=(ids[2],), pad=0)[0] == ids[: ids.index(ids[2]) + 1]


# The transformers back end ----------------------------------------------------------------------------------


def test_a_chunk_is_a_function_of_its_seed(start: Path) -> None:
    version = PolicyVersion("t-start", str(start))
    both = sections(start)
    generator = TransformersGenerator(*both)
    first = list(generator.generate(PROMPTS, version, seed=7))
    torch.manual_seed(99)
    state = torch.get_rng_state()
    again = list(generator.generate(PROMPTS, version, seed=7))
    assert torch.equal(torch.get_rng_state(), state)  # nobody else's random numbers are used up
    generator.close()
    generator.close()
    reloaded = list(generator.generate(PROMPTS, version, seed=7))
    assert first == again == reloaded
    assert plain(first) == plain(list(TransformersGenerator(*both).generate(PROMPTS, version, seed=7)))
    assert plain(first) != plain(list(generator.generate(PROMPTS, version, seed=8)))
    assert {s.prompt.id for s in first} == {p.id for p in PROMPTS}
    for item in first:
        texts = [c.text for c in item.candidates]
        assert len(set(texts)) == len(texts) <= 3
        assert all(t and t == t.strip() for t in texts)
        assert item.drawn % 3 == 0
        assert item.drawn <= 9


def test_a_prompts_samples_do_not_hang_on_its_batch(start: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    version = PolicyVersion("t-start", str(start))
    together = list(TransformersGenerator(*sections(start)).generate(PROMPTS, version, seed=7))
    monkeypatch.setattr("cyclealign.generation.transformers.MOST_ROWS", 3)
    apart = list(TransformersGenerator(*sections(start)).generate(PROMPTS, version, seed=7))
    assert plain(together) == plain(apart)
    lengths = [len(render_prompt(tiny_tokenizer(), s.prompt.messages, 64)) for s in apart if s.drawn == 3]
    assert lengths == sorted(lengths, reverse=True)


def test_a_model_that_knows_one_reply_gives_short_sets(start: Path) -> None:
    version = PolicyVersion("t-start", str(start))
    certain = sections(start, temperature=1e-4, top_p=0.01, candidates=4)
    sets = list(TransformersGenerator(*certain).generate(PROMPTS[:3], version, seed=1))
    for item in sets:
        assert len(item.candidates) <= 1
        assert item.drawn == ROUNDS * 4


def test_candidates_are_what_transformers_finds_likeliest(start: Path) -> None:
    both = sections(start, temperature=1e-4, top_p=0.01)
    model = AutoModelForCausalLM.from_pretrained(start).eval()
    tokenizer = tiny_tokenizer()
    for item in TransformersGenerator(*both).generate(PROMPTS, PolicyVersion("t", str(start)), seed=1):
        ids = torch.tensor([render_prompt(tokenizer, item.prompt.messages, 64)])
        mask = torch.ones_like(ids)
        out = model.generate(
            ids, attention_mask=mask, max_new_tokens=6, do_sample=False, eos_token_id=2, pad_token_id=0
        )
        reply = out[0, ids.shape[1] :].tolist()
        assert [c.text for c in item.candidates] == [t for t in [to_draw(tokenizer, reply, (2,)).text] if t]
        assert [c.finish for c in item.candidates] == ["stop" if 2 in reply else "length"] * len(item.candidates)


def test_each_version_is_served_with_its_own_weights(start: Path, tmp_path: Path) -> None:
    other = save_tiny(tmp_path / "other", seed=5)
    versions = [
        PolicyVersion("t-start", str(start)),
        PolicyVersion("t-v0001", str(start), adapter(start, tmp_path / "one", 1)),
        PolicyVersion("t-v0002", str(start), adapter(start, tmp_path / "two", 2)),
        PolicyVersion("t-full", str(other)),
    ]
    generator = TransformersGenerator(*sections(start))
    for version in [*versions, versions[1], versions[0], versions[2], versions[1]]:
        model: Any = AutoModelForCausalLM.from_pretrained(version.base)
        if version.adapter is not None:
            model = PeftModel.from_pretrained(model, version.adapter)
        model.eval()
        taken = generator.canary(PROMPTS[0], version)
        ids = render_prompt(tiny_tokenizer(), PROMPTS[0].messages, 64)
        whole = torch.tensor([ids + list(taken.token_ids)])
        with torch.inference_mode():
            expected = model(whole).logits[0, len(ids) - 1 : -1].log_softmax(-1)
        assert expected.argmax(-1).tolist() == list(taken.token_ids)
        torch.testing.assert_close(torch.tensor(taken.logprobs), expected.max(-1).values, rtol=1e-4, atol=1e-5)
        assert 1 <= len(taken.token_ids) <= 16


def test_an_adapter_that_is_not_there_is_named(start: Path, tmp_path: Path) -> None:
    version = PolicyVersion("t-v0001", str(start), tmp_path / "gone")
    with pytest.raises(UserError, match=r"adapter of t-v0001: no adapter_config\.json"):
        TransformersGenerator(*sections(start)).canary(PROMPTS[0], version)


# Choosing a back end ----------------------------------------------------------------------------------------


def test_the_back_end_is_picked_by_what_is_installed(start: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generation, "_installed", lambda: False)
    assert generation.pick_backend(sections(start, backend="auto")[0]) == "transformers"
    with pytest.raises(UserError, match=r"cyclealign\[vllm\]"):
        build_generator(*sections(start, backend="vllm"), workdir=start)
    monkeypatch.setattr(generation, "_installed", lambda: True)
    monkeypatch.setattr(generation, "_cuda", lambda: False)
    monkeypatch.setattr(generation, "_cpu_build", lambda: False)
    assert generation.pick_backend(sections(start, backend="auto")[0]) == "transformers"
    monkeypatch.setattr(generation, "_cpu_build", lambda: True)
    assert generation.pick_backend(sections(start, backend="auto")[0]) == "vllm"
    assert isinstance(build_generator(*sections(start), workdir=start), TransformersGenerator)


@pytest.mark.parametrize(
    ("lora", "backend", "complaint"),
    [
        (None, "server", "policy.lora: a server cannot be given full checkpoints"),
        ({"r": 513}, "vllm", "policy.lora.r: vLLM serves ranks up to 512, got 513"),
        ({"target_modules": ["q_proj", "lm_head"]}, "vllm", "target_modules: vLLM cannot serve adapters of lm_head"),
    ],
)
def test_what_vllm_cannot_serve_is_refused(start: Path, lora: Any, backend: str, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        check_servable(tiny_config(start, policy={"lora": lora}).policy, backend)


def test_ranks_are_rounded_up_to_those_of_the_engine() -> None:
    assert [engine_rank(r) for r in (1, 2, 8, 9, 33, 257, 512)] == [1, 8, 8, 16, 64, 320, 512]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"use_dora": True}, "use_dora"),
        ({"bias": "all"}, "bias"),
        ({"target_modules": ["q_proj", "model.embed_tokens"]}, "model.embed_tokens"),
    ],
)
def test_adapters_with_features_that_vllm_ignores_are_refused(
    start: Path, tmp_path: Path, change: dict[str, Any], named: str
) -> None:
    path = adapter(start, tmp_path / "adapter")
    version = PolicyVersion("t-v0001", str(start), path)
    assert check_adapter(version) == path.resolve()
    file = path / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(UserError, match=f"vLLM cannot serve {named}"):
        check_adapter(version)


def test_the_childs_environment_has_nothing_of_the_launcher() -> None:
    launcher = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "x"}
    launcher |= {"MASTER_PORT": "1", "TORCHELASTIC_RUN_ID": "x", "ACCELERATE_USE_CPU": "1", "GROUP_RANK": "0"}
    launcher |= {"ROLE_NAME": "default", "OMP_NUM_THREADS": "1", "FSDP_VERSION": "2"}
    own = {"HOME": "/home/x", "RANKING": "1", "CUDA_VISIBLE_DEVICES": "3", "VLLM_CPU_KVCACHE_SPACE": "4"}
    child = child_environment(own | launcher)
    assert not set(launcher) & set(child)
    assert {name: child[name] for name in own} == own
    # A user's own choice of threads is kept where there is no launcher.
    assert child_environment({"OMP_NUM_THREADS": "3"})["OMP_NUM_THREADS"] == "3"


def test_an_engine_ends_with_its_parent() -> None:
    child = "from cyclealign.generation.vllm_worker import _end_with_parent as e; import time; e(); "
    child += "print('up', flush=True); time.sleep(60)"
    parent = (
        "import subprocess, sys, time\n"
        f"print(subprocess.Popen([sys.executable, '-c', {child!r}]).pid, flush=True)\n"
        "time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None
    said = {process.stdout.readline().strip() for _ in range(2)}  # the child has to come up before its parent goes
    pid = int((said - {"up"}).pop())
    process.kill()
    process.stdout.close()
    process.wait()
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        if Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z":
            return  # ended; who adopted it has not looked yet
        time.sleep(0.1)
    os.kill(pid, signal.SIGKILL)
    raise AssertionError("the child outlived its parent")


# A server that is not vLLM's ----------------------------------------------------------------------------------


def served(start: Path, *urls: str, **settings: Any) -> Any:
    both = sections(start, backend="server", endpoints=list(urls), **settings)
    return build_generator(*both, workdir=start)


def test_another_server_gets_messages_and_is_asked_until_k_replies_are_there(start: Path) -> None:
    with Loopback(judge=lambda body: f"reply {body['seed'] % 97}") as one, Loopback(judge=lambda _: "same") as two:
        generator = served(start, one.url, two.url, temperature=0.6)
        version = PolicyVersion("t-start", str(start))
        first = plain(list(generator.generate(PROMPTS, version, seed=3)))
        requests = len(one.requests), len(two.requests)
        assert plain(list(generator.generate(PROMPTS, version, seed=3))) == first
        assert (len(one.requests), len(two.requests)) == (2 * requests[0], 2 * requests[1])
        generator.close()
        generator.close()
        placed = {p.id: int(p.id, 16) % 2 for p in PROMPTS}
        assert set(placed.values()) == {0, 1}  # else this test would say less than it seems to
        for prompt_id, (candidates, drawn) in first.items():
            assert len(candidates) == (1 if placed[prompt_id] else 3)
            assert drawn == (ROUNDS * 3 if placed[prompt_id] else 3)
        body = one.requests[0]
        assert (body["temperature"], body["top_p"], body["max_tokens"]) == (0.6, 0.9, 6)
        assert body["messages"] in [list(p.messages) for p in PROMPTS]


def test_another_server_cannot_be_given_an_adapter_nor_checked(start: Path, tmp_path: Path) -> None:
    with Loopback(judge=lambda _: "good") as server:
        generator = served(start, server.url)
        trained = PolicyVersion("t-v0001", str(start), adapter(start, tmp_path / "adapter"))
        with pytest.raises(UserError, match="is not a vLLM server"):
            list(generator.generate(PROMPTS, trained, seed=0))
        with pytest.raises(UserError, match="gives no log-probabilities"):
            generator.canary(PROMPTS[0], PolicyVersion("t-start", str(start)))
        generator.close()


def test_a_broken_server_is_one_readable_line(start: Path) -> None:
    version = PolicyVersion("t-start", str(start))
    with Loopback(script=lambda *_: Fault(status=400, body='{"error": {"message": "too long"}}')) as server:
        generator = served(start, server.url)
        with pytest.raises(UserError, match=r"generator.endpoints: http://127.*too long"):
            list(generator.generate(PROMPTS, version, seed=0))
        generator.close()
