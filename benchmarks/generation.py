"""Lists a second of K replies a prompt, and seconds from a trained adapter to its first words.

    python benchmarks/generation.py --out benchmarks/results/generation.json

Sampling, the packaged model, the same prompts in every arm: vLLM with one request of n = K and its prefix cache; vLLM
with K requests of one reply and no prefix cache; our back end on transformers; transformers' own ``generate``, padded,
all prompts in one batch. Rounds alternate between the arms, the figures are medians; tokens are those of the replies.
Engines are up before the clock starts.

Hand-over: from an adapter on disk to the canary's log-probabilities, with an engine that stays warm between
interactions and with one that ends and is started again.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from cyclealign.config.loading import load_config
from cyclealign.config.schema import Config
from cyclealign.files.environment import environment
from cyclealign.files.jsonl import write_json
from cyclealign.files.prompts import load_prompts
from cyclealign.files.records import encode
from cyclealign.generation.transformers import TransformersGenerator
from cyclealign.generation.vllm import VllmGenerator
from cyclealign.models.chat_template import render_prompt
from cyclealign.models.policy import load_tokenizer
from cyclealign.models.policy_files import resolve_model
from cyclealign.types import PolicyVersion, Prompt

MODEL = "builtin:tiny-chat"
K, TOKENS = 4, 32
Arm = Callable[[int], Iterator[str]]  # seed -> the replies, all of them


@dataclass(frozen=True)
class Speed:
    """lists_per_second: of K replies. tokens_per_second: of the replies."""

    lists_per_second: float
    tokens_per_second: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--prompts", type=int, default=48)
    parser.add_argument("--turns", type=int, default=8, help="openers joined to one prompt")
    parser.add_argument("--hand-overs", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rates = sampling(Path(folder), options.prompts, options.turns, options.rounds)
        handing = hand_over(Path(folder), options.hand_overs)
    found = {"model": MODEL, "candidates": K, "max_new_tokens": TOKENS, "prompts": options.prompts}
    found |= {"prompt_tokens": prompt_tokens(prompts(options.prompts, options.turns))}
    write_json(options.out, found | {"sampling": rates, "hand_over": handing, "environment": encode(environment())})


def config(**engine: Any) -> Config:
    keys = ["generator.backend=vllm", f"generator.max_new_tokens={TOKENS}", "policy.max_prompt_tokens=480"]
    loaded = load_config("quickstart", [*keys, f"policy.model={MODEL}", "policy.lora.r=8"])
    generator = loaded.generator.model_copy(update={"candidates": K, "temperature": 1.0, "engine": engine})
    return loaded.model_copy(update={"generator": generator})


def prompts(count: int, turns: int) -> list[Prompt]:
    """Long enough that reading them K times would show."""
    texts = [p.messages[-1]["content"] for p in load_prompts("builtin:openers-train", limit=None)]
    joined = [" ".join(texts[(7 * i + j) % len(texts)] for j in range(turns)) for i in range(count)]
    return [Prompt(({"role": "user", "content": text},)) for text in joined]


def prompt_tokens(found: list[Prompt]) -> float:
    tokenizer, limit = load_tokenizer(config().policy), config().policy.max_prompt_tokens
    return statistics.fmean(len(render_prompt(tokenizer, p.messages, limit)) for p in found)


def sampling(folder: Path, count: int, turns: int, rounds: int) -> dict[str, dict[str, float]]:
    asked = prompts(count, turns)
    tokenizer = load_tokenizer(config().policy)
    with ExitStack() as stack:
        arms = dict(made(stack, folder, asked))
        for arm in arms.values():
            list(arm(0))
        speeds: dict[str, list[Speed]] = {name: [] for name in arms}
        for number in range(1, rounds + 1):
            for name, arm in arms.items():
                began = time.perf_counter()
                replies = list(arm(number))
                seconds = time.perf_counter() - began
                tokens = sum(len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in replies)
                speeds[name].append(Speed(len(replies) / K / seconds, tokens / seconds))
    return {name: median(found) for name, found in speeds.items()}


def median(found: list[Speed]) -> dict[str, float]:
    names = asdict(found[0])
    return {name: statistics.median(getattr(speed, name) for speed in found) for name in names}


def made(stack: ExitStack, folder: Path, asked: list[Prompt]) -> Iterator[tuple[str, Arm]]:
    version = PolicyVersion("start", resolve_model(MODEL))
    shared = config()
    together = VllmGenerator(shared.generator, shared.policy, workdir=folder)
    single = config(enable_prefix_caching=False)
    apart = VllmGenerator(
        single.generator.model_copy(update={"candidates": 1}), single.policy, workdir=folder / "apart"
    )
    ours = TransformersGenerator(shared.generator, shared.policy)
    for generator in (together, apart, ours):
        stack.callback(generator.close)

    def sets(generator: Any, given: list[Prompt]) -> Arm:
        return lambda seed: (c.text for s in generator.generate(given, version, seed=seed) for c in s.candidates)

    yield "vllm, n = K, prefix cache", sets(together, asked)
    # A number before each, as another user's words would be: a prompt's replies are drawn by its id.
    copies = [
        Prompt(({"role": "user", "content": f"{i} {p.messages[-1]['content']}"},)) for p in asked for i in range(K)
    ]
    yield "vllm, K requests, no prefix cache", sets(apart, copies)
    yield "cyclealign on transformers", sets(ours, asked)
    yield "transformers generate", plain(asked, version)


def plain(asked: list[Prompt], version: PolicyVersion) -> Arm:
    model: Any = AutoModelForCausalLM.from_pretrained(version.base, dtype=torch.float32).eval()
    policy, settings = config().policy, config().generator
    tokenizer = load_tokenizer(policy)
    rows = [render_prompt(tokenizer, p.messages, policy.max_prompt_tokens) for p in asked]
    length = max(map(len, rows))
    ids = torch.tensor([[tokenizer.pad_token_id] * (length - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows])

    def arm(seed: int) -> Iterator[str]:
        torch.manual_seed(seed)
        with torch.inference_mode():
            out = model.generate(
                ids,
                attention_mask=mask,
                do_sample=True,
                temperature=settings.temperature,
                top_p=settings.top_p,
                top_k=0,
                max_new_tokens=TOKENS,
                num_return_sequences=K,
                pad_token_id=tokenizer.pad_token_id,
            )
        yield from tokenizer.batch_decode(out[:, length:], skip_special_tokens=True)

    return arm


def hand_over(folder: Path, times: int) -> dict[str, dict[str, Any]]:
    """Seconds, warm and started again, each its median and all of them."""
    versions = [PolicyVersion("start", resolve_model(MODEL)), *(adapter(folder, n) for n in range(times))]
    found: dict[str, dict[str, Any]] = {}
    for warm in ("always", "never"):
        settings = config().generator.model_copy(update={"warm": warm})
        generator = VllmGenerator(settings, config().policy, workdir=folder / warm)
        seconds = []
        for version in versions:
            began = time.perf_counter()
            generator.canary(prompts(1, 1)[0], version)
            seconds.append(time.perf_counter() - began)
            generator.pause()
        generator.close()
        found[warm] = {"first_s": seconds[0], "median_s": statistics.median(seconds[1:]), "all_s": seconds[1:]}
    return found


def adapter(folder: Path, number: int) -> PolicyVersion:
    torch.manual_seed(number)
    base = AutoModelForCausalLM.from_pretrained(resolve_model(MODEL), dtype=torch.float32)
    lora = LoraConfig(r=8, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    path = folder / f"adapter{number}"
    get_peft_model(base, lora).save_pretrained(path)
    return PolicyVersion(f"v{number}", resolve_model(MODEL), path)


if __name__ == "__main__":
    main()
