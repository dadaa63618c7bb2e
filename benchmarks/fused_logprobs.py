"""Peak memory of a training step: chunked log-probs against log_softmax over all logits; and their gradients.

    python benchmarks/fused_logprobs.py [--out benchmarks/results/fused_logprobs.json]

One list of K=8 rows of 512 tokens (prompt 32, response 480), vocabulary 32,000, a small random Llama on the CPU.
Each arm is a process of its own; its peak is the kernel's high-water mark (VmHWM) over the step, less what was
resident before it.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from cyclealign.files.environment import environment
from cyclealign.files.records import encode
from cyclealign.losses import RRHF
from cyclealign.models.encoded_lists import EncodedList
from cyclealign.models.logprobs import Plan, attach, token_logprobs
from cyclealign.training.batches import RankingCollator, TrainingBatch, TrainingList
from cyclealign.training.trainer import ranked_scores

CANDIDATES, PROMPT, RESPONSE, VOCABULARY = 8, 32, 480, 32_000
ARMS = ("naive", "padded", "cached_prefix")


def memory(field: str) -> int:
    """A field of /proc/self/status, in bytes."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return 1024 * int(found[1])


def batch_of() -> TrainingBatch:
    generator = torch.Generator().manual_seed(0)

    def ids(length: int) -> list[int]:
        found: list[int] = torch.randint(1, VOCABULARY, (length,), generator=generator).tolist()
        return found

    rows = tuple(ids(RESPONSE) for _ in range(CANDIDATES))
    item = TrainingList(EncodedList(ids(PROMPT), rows), tuple(float(k) for k in range(CANDIDATES)))
    return RankingCollator(pad=0)([item])


def naive_logprobs(model: Any, batch: TrainingBatch) -> Tensor:
    """log_softmax over the logits of every position of every row, as a plain trainer does it."""
    lists = batch["lists"]
    ids = torch.cat([lists["prompt_ids"][lists["owner"]], lists["response_ids"]], dim=1)
    logprobs = model(input_ids=ids).logits.log_softmax(dim=-1)
    found: Tensor = logprobs[:, :-1].gather(2, ids[:, 1:, None])[:, PROMPT - 1 :, 0]
    return found


def run_arm(arm: str, gradients: Path) -> None:
    """One step; prints its numbers as JSON."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4}
    model: Any = LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, max_position_embeddings=1024, **sizes))
    attach(model)
    model.train()
    batch = batch_of()
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark to what is resident now
    resident, began = memory("VmRSS"), time.perf_counter()
    if arm == "naive":
        logprobs = naive_logprobs(model, batch)
    else:
        logprobs = token_logprobs(model, batch["lists"], Plan("padded" if arm == "padded" else "cached_prefix"))
    loss = RRHF()(ranked_scores(logprobs, batch, RRHF())).loss
    torch.autograd.backward(loss)
    seconds, peak = time.perf_counter() - began, memory("VmHWM") - resident
    save_file({n: p.grad for n, p in model.named_parameters() if p.grad is not None}, gradients)
    print(json.dumps({"arm": arm, "peak_bytes": peak, "seconds": seconds, "loss": float(loss.detach())}))


def difference(found: Path, expected: Path) -> float:
    """|found - expected| / |expected| over all gradients."""
    mine, theirs = load_file(found), load_file(expected)
    error = sum(float((mine[n] - theirs[n]).double().square().sum()) for n in theirs)
    return math.sqrt(error / sum(float(t.double().square().sum()) for t in theirs.values()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "fused_logprobs.json")
    parser.add_argument("--arm", choices=ARMS)
    parser.add_argument("--gradients", type=Path)
    options = parser.parse_args()
    if options.arm:
        run_arm(options.arm, options.gradients)
        return
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for arm in ARMS:
            gradients = Path(folder) / f"{arm}.safetensors"
            command = [sys.executable, __file__, "--arm", arm, "--gradients", str(gradients)]
            row = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            row["peak_share_of_naive"] = row["peak_bytes"] / (rows[0] if rows else row)["peak_bytes"]
            row["gradient_difference"] = difference(gradients, Path(folder) / "naive.safetensors")
            rows.append(row)
            print(
                f"{arm:14} {row['peak_bytes'] / 2**20:6.0f} MiB  {row['peak_share_of_naive']:.2f} of naive "
                f" gradients differ by {row['gradient_difference']:.1e}",
                flush=True,
            )
    about = {"candidates": CANDIDATES, "prompt": PROMPT, "response": RESPONSE, "vocabulary": VOCABULARY}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps({**about, "rows": rows, "environment": encode(environment())}, indent=2) + "\n")


if __name__ == "__main__":
    main()
