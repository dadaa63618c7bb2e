"""A training step beside its peers: lists a second, peak memory, and the bound that the operations set.

    python benchmarks/training_peers.py --out benchmarks/results/training_peers.json

The same lists, tokens and random 14M Llama for all: prompts of 300 tokens, responses of 120. Arms: our layouts; TRL's
``DPOTrainer`` over all pairs of a list, by its own loss on batches of its own collator, with its reference forward and
with log-probabilities of the reference that are there already; a step as the official repositories of PRO (a forward a
candidate, log_softmax of whole logits) and RRHF (all candidates in one padded batch, the same) do theirs. Each arm is a
process of its own, ``--repeats`` times in turns, so that a busy machine slows all; a figure is the median over turns
of a process's quickest step. Peak: the kernel's high-water mark (VmHWM) in the first step, less what was resident
before it.

``flop_ratio`` is what the cached prefix could at most gain over padded on this model: multiplications of weights,
head and causal attention of the one layout over the other's.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from cached_prefix import PROMPT, RESPONSE, batch_of, llama
from fused_logprobs import memory
from torch import Tensor

from cyclealign.files.environment import environment
from cyclealign.files.jsonl import write_json
from cyclealign.files.records import encode
from cyclealign.losses import PRO, RRHF
from cyclealign.losses.base import RankingLoss
from cyclealign.models.logprobs import Plan, token_logprobs
from cyclealign.training.batches import TrainingBatch
from cyclealign.training.trainer import ranked_scores

CANDIDATES = (2, 4, 8, 16)
PAIRS = 6  # of one forward of DPO; a list's others follow, their gradients added
ROWS = 8  # candidates of a step, of as many lists
STEPS = 2  # of a process, after one that warms up
# Forward and backward of one batch of lists.
Step = Callable[[], None]
Arm = TypeVar("Arm")


def lists_of(candidates: int) -> int:
    """Lists of a step."""
    return max(1, ROWS // candidates)


def ours(layout: str) -> Callable[[int], Step]:
    def made(candidates: int) -> Step:
        model, batch = llama(lora=False, checkpointing=False), batch_of(candidates, lists_of(candidates), ragged=False)
        plan = Plan("padded" if layout == "padded" else "cached_prefix")
        return lambda: ranked(RRHF(), token_logprobs(model, batch["lists"], plan), batch)

    return made


def ranked(loss: RankingLoss, logprobs: Tensor, batch: TrainingBatch) -> None:
    torch.autograd.backward(loss(ranked_scores(logprobs, batch, loss)).loss)


def sequences(batch: TrainingBatch) -> Tensor:
    """Token ids of prompt and response, a row each candidate."""
    lists = batch["lists"]
    return torch.cat([lists["prompt_ids"][lists["owner"]], lists["response_ids"]], dim=1)


def whole_logits(model: Any, ids: Tensor) -> Tensor:
    logprobs = model(input_ids=ids).logits.log_softmax(dim=-1)
    found: Tensor = logprobs[:, :-1].gather(2, ids[:, 1:, None])[:, PROMPT - 1 :, 0]
    return found


def pro(candidates: int) -> Step:
    model, batch = llama(lora=False, checkpointing=False), batch_of(candidates, lists_of(candidates), ragged=False)
    rows = [row[None] for row in sequences(batch)]
    return lambda: ranked(PRO(), torch.cat([whole_logits(model, row) for row in rows]), batch)


def rrhf(candidates: int) -> Step:
    model, batch = llama(lora=False, checkpointing=False), batch_of(candidates, lists_of(candidates), ragged=False)
    ids = sequences(batch)
    return lambda: ranked(RRHF(), whole_logits(model, ids), batch)


def dpo(*, reference: bool) -> Callable[[int], Step]:
    """reference: whether a step has the reference's forward in it."""

    def made(candidates: int) -> Step:
        from trl.trainer.dpo_trainer import DataCollatorForPreference

        with tempfile.TemporaryDirectory() as folder:
            trainer = dpo_trainer(folder)
        trainer.precompute_ref_logps = not reference
        model = trainer.model.train()
        ids = sequences(batch_of(candidates, lists_of(candidates), ragged=False)).tolist()
        known = {} if reference else {"ref_chosen_logps": -900.0, "ref_rejected_logps": -900.0}
        pairs = [
            {"prompt_ids": ids[a][:PROMPT], "chosen_ids": ids[a][PROMPT:], "rejected_ids": ids[b][PROMPT:], **known}
            for first in range(0, len(ids), candidates)
            for a, b in itertools.combinations(range(first, first + candidates), 2)
        ]
        collate = DataCollatorForPreference(pad_token_id=0)
        batches = [collate(pairs[at : at + PAIRS]) for at in range(0, len(pairs), PAIRS)]

        def step() -> None:
            for batch in batches:
                loss = trainer._compute_loss(model, batch, return_outputs=False)
                torch.autograd.backward(loss * len(batch["input_ids"]) / 2 / len(pairs))

        return step

    return made


def dpo_trainer(folder: str) -> Any:
    """TRL's, made for a text of three words; its batches are ours."""
    from datasets import Dataset
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast
    from trl import DPOConfig, DPOTrainer

    words = Tokenizer(models.WordLevel({"<pad>": 0, "</s>": 1, "a": 2}, unk_token="a"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="</s>")
    llama(lora=False, checkpointing=False).save_pretrained(folder)  # it reads its reference from there
    data = Dataset.from_list([{"prompt": "a", "chosen": "a a", "rejected": "a"}])
    options = DPOConfig(output_dir=folder, report_to=[], use_cpu=True, bf16=False, gradient_checkpointing=False)
    return DPOTrainer(model=folder, args=options, train_dataset=data, processing_class=tokenizer)


ARMS: dict[str, Callable[[int], Step]] = {
    "cached_prefix": ours("cached_prefix"),
    "padded": ours("padded"),
    "PRO, a forward a candidate": pro,
    "RRHF, whole logits": rrhf,
    "TRL DPO": dpo(reference=True),
    "TRL DPO, reference known": dpo(reference=False),
}
OF_PAIRS = ("TRL DPO", "TRL DPO, reference known")


def flop_ratio(candidates: int) -> float:
    """Multiplications of padded over those of the cached prefix, forward; backward has twice as many of both."""
    model = llama(lora=False, checkpointing=False)
    head = model.lm_head.weight.numel()
    body = sum(p.numel() for p in model.model.layers.parameters())
    width = 2 * model.config.num_hidden_layers * model.config.hidden_size  # of attention, a pair of places
    both = PROMPT + RESPONSE
    padded = candidates * (both * body + RESPONSE * head + width * both**2 / 2)
    of_response = RESPONSE * (body + head) + width * RESPONSE * (PROMPT + RESPONSE / 2)
    return float(padded / (PROMPT * body + width * PROMPT**2 / 2 + candidates * of_response))


def timed(step: Step) -> dict[str, float]:
    """Seconds of the quickest step, and bytes at the peak of the first."""
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark to what is resident now
    resident = memory("VmRSS")
    step()
    peak = memory("VmHWM") - resident  # of the first step: what it frees may stay resident
    seconds = []
    for _ in range(STEPS):
        began = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - began)
    return {"seconds": min(seconds), "peak_bytes": peak}


def in_turns(script: str, arms: Mapping[Arm, Sequence[str]], repeats: int) -> dict[Arm, list[dict[str, float]]]:
    """What ``timed`` says of each arm, every time in a process of its own; ``arms``: with their arguments."""
    found: dict[Arm, list[dict[str, float]]] = {arm: [] for arm in arms}
    for _, arm in itertools.product(range(repeats), arms):
        command, quiet = [sys.executable, script, *arms[arm]], os.environ | {"TQDM_DISABLE": "1"}
        ran = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=quiet)
        found[arm].append(json.loads(ran.stdout.splitlines()[-1]))
    return found


def measured(candidates: int, arms: list[str], repeats: int) -> dict[str, Any]:
    found = in_turns(__file__, {arm: ("--arm", arm, "--candidates", str(candidates)) for arm in arms}, repeats)
    seconds = {arm: statistics.median(f["seconds"] for f in each) for arm, each in found.items()}
    peak = {arm: statistics.median(f["peak_bytes"] for f in each) for arm, each in found.items()}
    return {
        "candidates": candidates,
        "flop_ratio": flop_ratio(candidates),
        "lists_per_second": {arm: lists_of(candidates) / s for arm, s in seconds.items()},
        "cached_prefix_over": {arm: s / seconds["cached_prefix"] for arm, s in seconds.items()},
        "peak_bytes": peak,
        "peak_share_of": {arm: peak["cached_prefix"] / p for arm, p in peak.items()},
        "rounds": found,
    }


def lines(row: dict[str, Any]) -> Iterator[str]:
    yield f"K = {row['candidates']}, bound {row['flop_ratio']:.2f}"
    for arm, times in row["cached_prefix_over"].items():
        yield f"  {arm:28} cached prefix {times:6.2f}x, its peak {row['peak_share_of'][arm]:.2f} of this"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--candidates", type=int, nargs="+", default=list(CANDIDATES))
    parser.add_argument("--arm", choices=ARMS)
    asked = parser.parse_args()
    if asked.arm:
        print(json.dumps(timed(ARMS[asked.arm](*asked.candidates))))
        return
    rows = []
    for candidates in asked.candidates:
        arms = [arm for arm in ARMS if candidates <= 4 or arm not in OF_PAIRS]  # 28 pairs take minutes
        rows.append(measured(candidates, arms, asked.repeats))
        print("\n".join(lines(rows[-1])), flush=True)
    about = {"prompt": PROMPT, "response": RESPONSE, "threads": torch.get_num_threads()}
    if asked.out:
        write_json(asked.out, {**about, "rows": rows, "environment": encode(environment())})


if __name__ == "__main__":
    main()
