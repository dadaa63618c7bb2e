"""Lists per second of a training step: cached prefix against padded, in the same run, with equal gradients.

    python benchmarks/cached_prefix.py [--repeats 3] [--out benchmarks/results/cached_prefix.json]

A random 14M Llama, prompts of 300 tokens, responses of 120, RRHF. Each step is forward, backward, zero the gradients;
the layouts take turns, so that a busy machine slows both; a row's time is its median. Useful tokens: those of each
list's prompt, once, and of its responses; ``computed``: those that the cached prefix runs, padding included;
``ragged``: their rate in ragged lists over that in as many uniform ones, in turns, by the cost that a forward pass is
taken to have (``models/passes.py``; infinite: never more passes than two), the median over turns.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from cyclealign.files.environment import environment
from cyclealign.files.records import encode
from cyclealign.losses import RRHF
from cyclealign.models.encoded_lists import EncodedList
from cyclealign.models.logprobs import Plan, attach, token_logprobs
from cyclealign.models.passes import PASS_TOKENS
from cyclealign.training.batches import RankingCollator, TrainingBatch, TrainingList
from cyclealign.training.trainer import ranked_scores

PROMPT, RESPONSE, VOCABULARY = 300, 120, 8192
COSTS = (10**9, 0, 64, 128)  # of a pass, in tokens; the first: one pass over prompts, one over responses
LAYOUTS = (Plan("padded"), Plan("cached_prefix"))
# name -> (candidates, lists a step, LoRA, gradient checkpointing, ragged)
SETTINGS = {
    "K=2": (2, 2, False, False, False),
    "K=4": (4, 2, False, False, False),
    "K=8": (8, 1, False, False, False),
    "K=16": (16, 1, False, False, False),
    "K=4, LoRA": (4, 2, True, False, False),
    "K=4, gradient checkpointing": (4, 2, False, True, False),
    "K=4, LoRA, gradient checkpointing": (4, 2, True, True, False),
    "K=4, ragged": (4, 4, False, False, True),
}


def llama(*, lora: bool, checkpointing: bool) -> Any:
    torch.manual_seed(0)
    sizes = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 9, "num_attention_heads": 8}
    model: Any = LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, max_position_embeddings=1024, **sizes))
    if lora:
        from peft import LoraConfig, get_peft_model

        model.requires_grad_(False)
        model = get_peft_model(model, LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM"))
        for name, parameter in model.named_parameters():
            if "lora_B" in name:  # zero at first, which would leave half of the gradients zero
                torch.nn.init.normal_(parameter, std=0.02)
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    attach(model)
    return model.train()


def batch_of(candidates: int, lists: int, *, ragged: bool) -> TrainingBatch:
    """Random tokens; ragged: prompts of 30 to 300 tokens, responses of 12 to 120."""
    source = random.Random(0)

    def ids(length: int) -> list[int]:
        return [
            source.randrange(1, VOCABULARY) for _ in range(source.randint(length // 10, length) if ragged else length)
        ]

    def one() -> TrainingList:
        rows = tuple(ids(RESPONSE) for _ in range(candidates))
        return TrainingList(EncodedList(ids(PROMPT), rows), tuple(float(k) for k in range(candidates)))

    return RankingCollator(pad=0)([one() for _ in range(lists)])


def step(model: Any, batch: TrainingBatch, plan: Plan) -> tuple[float, float, torch.Tensor]:
    """Seconds, loss, and the gradients as one vector."""
    began = time.perf_counter()
    loss = RRHF()(ranked_scores(token_logprobs(model, batch["lists"], plan), batch, RRHF())).loss
    torch.autograd.backward(loss)
    seconds = time.perf_counter() - began
    gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    model.zero_grad()
    return seconds, float(loss.detach()), gradient


def measure(name: str, repeats: int) -> dict[str, Any]:
    candidates, lists, lora, checkpointing, ragged = SETTINGS[name]
    model = llama(lora=lora, checkpointing=checkpointing)
    batch = batch_of(candidates, lists, ragged=ragged)
    (_, padded_loss, padded), (_, cached_loss, cached) = (step(model, batch, plan) for plan in LAYOUTS)  # warm-up
    seconds: dict[str, list[float]] = {plan.layout: [] for plan in LAYOUTS}
    for _ in range(repeats):
        for plan in LAYOUTS:
            seconds[plan.layout].append(step(model, batch, plan)[0])
    rate = {layout: lists / statistics.median(found) for layout, found in seconds.items()}
    useful, computed = useful_tokens(batch), computed_tokens(model, batch)
    return {
        "setting": name,
        "lists_per_second": rate,
        "useful_share_of_computed_tokens": useful / computed,
        "useful_tokens_per_second": {layout: useful / lists * speed for layout, speed in rate.items()},
        "ratio": rate["cached_prefix"] / rate["padded"],
        "loss_difference": abs(cached_loss - padded_loss) / abs(padded_loss),
        "gradient_difference": float((cached - padded).norm() / padded.norm()),
        "seconds": seconds,
    }


def useful_tokens(batch: TrainingBatch) -> int:
    return sum(int(batch["lists"][name].sum()) for name in ("prompt_mask", "response_mask"))


def computed_tokens(model: Any, batch: TrainingBatch) -> int:
    """Tokens that reach the model under the cached prefix; the last of each response, which predicts nothing, too."""
    seen = [len(batch["slot"])]
    hook = model.get_input_embeddings().register_forward_pre_hook(lambda _, ids: seen.append(ids[0].numel()))
    step(model, batch, Plan("cached_prefix"))
    hook.remove()
    return sum(seen)


def ragged_shares(repeats: int) -> dict[str, float]:
    """Useful tokens a second of ragged lists over those of uniform ones, by cost of a pass."""
    model, chosen = llama(lora=False, checkpointing=False), PASS_TOKENS["cpu"]
    candidates, lists, *_ = SETTINGS["K=4, ragged"]
    uniform, ragged = (batch_of(candidates, lists, ragged=unlike) for unlike in (False, True))
    cases = {"uniform": (uniform, chosen), **{str(cost): (ragged, cost) for cost in (*COSTS, chosen)}}
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(repeats + 1):
        for name, (batch, cost) in cases.items():
            PASS_TOKENS["cpu"] = cost
            seconds[name].append(step(model, batch, Plan("cached_prefix"))[0])
    PASS_TOKENS["cpu"] = chosen
    useful = {name: useful_tokens(batch) / useful_tokens(uniform) for name, (batch, _) in cases.items()}
    turns = {name: zip(seconds["uniform"][1:], seconds[name][1:], strict=True) for name in cases if name != "uniform"}
    return {name: useful[name] * statistics.median(u / r for u, r in both) for name, both in turns.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "cached_prefix.json")
    options = parser.parse_args()
    parameters = sum(p.numel() for p in llama(lora=False, checkpointing=False).parameters())
    rows = []
    for name in SETTINGS:
        rows.append(measure(name, options.repeats))
        row = rows[-1]
        print(f"{name:36} {row['ratio']:.2f}x  gradients differ by {row['gradient_difference']:.1e}", flush=True)
    shares = ragged_shares(3 * options.repeats)
    for cost, share in shares.items():
        print(f"ragged lists, a pass at {cost} tokens: {share:.2f} of the useful tokens a second of uniform ones")
    about = {
        "parameters": parameters,
        "prompt": PROMPT,
        "response": RESPONSE,
        "threads": torch.get_num_threads(),
        "pass_tokens": PASS_TOKENS["cpu"],
        "ragged": shares,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps({**about, "rows": rows, "environment": encode(environment())}, indent=2) + "\n")


if __name__ == "__main__":
    main()
