"""Trains the embedded tiny chat policy from scratch: a small Llama and its own byte-level BPE.

    python recipes/tiny_chat.py --data DATA --out SCRATCH
    python recipes/tiny_chat.py --data DATA --out SCRATCH --export SCRATCH/model
    python recipes/tiny_chat.py --data DATA --out AGAIN --start SCRATCH/model
    python recipes/tiny_chat.py --data DATA --out AGAIN --start SCRATCH/model --export cyclealign/assets/tiny_chat

The first form trains (and goes on where it stopped), `--export` writes the averaged weights of the last checkpoint
in bfloat16, `--start` trains a second time, from the weights and the tokenizer of a model. Weights in the hidden
layers are trained by Muon (Jordan et al. 2024), embeddings and norms by AdamW; the schedule is warm-up, stable, linear
decay and follows the clock, so that a run ends on time on any machine. The first time the model starts shallow, which
is faster per token, and grows two layers on the way. In the decay phase most of the text is the product's own use:
first exchanges with short replies. Muon works in bfloat16, which a CPU without such instructions emulates slowly.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from chat_model import Encoder, Settings, grown, held_out, new_model, token_losses, train_tokenizer
from dialogues import Dialogue, Source, load_dialogues, view
from torch import Tensor
from transformers import GenerationConfig, LlamaForCausalLM, PreTrainedTokenizerFast

SYSTEM_PROMPTS = (
    "You are a helpful assistant.",
    "You are a friendly assistant.",
    "Answer briefly and kindly.",
)
# How many views of each dialogue an epoch holds, by phase: HH-RLHF is the smallest and closest to everyday
# questions, SGD the largest and most repetitive.
VIEWS: dict[bool, dict[Source, float]] = {
    False: {"hh": 1.2, "topical": 1.0, "sgd": 0.8},
    True: {"hh": 1.5, "topical": 1.5, "sgd": 1.0},
}


def epoch_rows(
    dialogues: list[Dialogue], encode: Encoder, settings: Settings, *, chat: bool, epoch: int
) -> tuple[Tensor, Tensor]:
    """One epoch packed without padding: ids and weights, each [rows, length + 1]."""
    rng = random.Random(f"{settings.seed}|{chat}|{epoch}")
    views = []
    for dialogue in dialogues:
        count = VIEWS[chat][dialogue.source]
        for _ in range(int(count) + (rng.random() < count % 1)):
            short = chat and rng.random() < settings.short_share
            messages = view(dialogue, rng, chat=short)
            if rng.random() < 0.05:
                messages = [{"role": "system", "content": rng.choice(SYSTEM_PROMPTS)}, *messages]
            views.append(encode(messages, chat=short))
    rng.shuffle(views)
    ids = torch.tensor([token for piece, _ in views for token in piece])
    weights = torch.tensor([weight for _, piece in views for weight in piece])
    starts = torch.arange(rng.randrange(settings.length), len(ids) - settings.length - 1, settings.length)
    index = starts[:, None] + torch.arange(settings.length + 1)
    return ids[index], weights[index]


def batches(
    dialogues: list[Dialogue], encode: Encoder, settings: Settings, *, chat: bool, skip: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless batches of one phase, from batch number `skip` on."""
    epoch = 0
    while True:
        ids, weights = epoch_rows(dialogues, encode, settings, chat=chat, epoch=epoch)
        count = len(ids) // settings.rows
        for start in range(min(skip, count) * settings.rows, count * settings.rows, settings.rows):
            yield ids[start : start + settings.rows], weights[start : start + settings.rows]
        skip, epoch = max(0, skip - count), epoch + 1


class Run:
    """A training run in a folder: the state between two steps, saved and loaded whole."""

    def __init__(self, folder: Path, dialogues: list[Dialogue], settings: Settings, start: Path | None) -> None:
        self.folder, self.settings, self.dialogues = folder, settings, dialogues
        self.train = [d for d in dialogues if d.split == "train"]
        self.tokenizer = tokenizer_in(start or folder / "tokenizer", self.train, settings)
        self.encode = Encoder(self.tokenizer, settings.user_weight)
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        # CPUs without bfloat16 instructions emulate them, many times slower than float32.
        self.half = self.device == "cuda" or torch.ops.mkldnn._is_mkldnn_bf16_supported()
        self._build(settings.first_layers)
        if start is not None:
            weights = LlamaForCausalLM.from_pretrained(start, dtype=torch.float32).state_dict()
            self.model.load_state_dict(weights)
            self.average = {name: value.detach().clone() for name, value in self.model.named_parameters()}
        self.seconds, self.steps = 0.0, {False: 0, True: 0}
        if (folder / "state.pt").exists():
            self._load(torch.load(folder / "state.pt", map_location=self.device, weights_only=True))

    def _build(self, layers: int) -> None:
        settings = self.settings
        self.layers = layers
        self.model = new_model(self.tokenizer, settings, layers).to(self.device)
        self.average = {name: value.detach().clone() for name, value in self.model.named_parameters()}
        named = dict(self.model.named_parameters())
        hidden = {name for name, value in named.items() if value.ndim == 2 and "embed" not in name}
        self.muon = torch.optim.Muon([named[name] for name in sorted(hidden)], weight_decay=settings.weight_decay)
        self.adam = torch.optim.AdamW(
            [value for name, value in named.items() if name not in hidden],
            betas=(0.9, 0.95),
            weight_decay=settings.weight_decay,
        )

    def grow(self) -> None:
        """To the full depth, with the same function; the optimisers' averages start anew."""
        layers = self.settings.layers
        weights, average = grown(self.model.state_dict(), layers), grown(self.average, layers)
        self._build(layers)
        self.model.load_state_dict(weights)
        self.average = average

    def save(self) -> None:
        state = {"model": self.model.state_dict(), "average": self.average, "muon": self.muon.state_dict()}
        rest = {"adam": self.adam.state_dict(), "seconds": self.seconds, "steps": self.steps}
        torch.save({**state, **rest}, self.folder / "state.tmp")
        (self.folder / "state.tmp").replace(self.folder / "state.pt")

    def _load(self, state: dict[str, Any]) -> None:
        depth = len({name.split(".")[2] for name in state["model"] if name.startswith("model.layers.")})
        if depth != self.layers:
            self._build(depth)
        self.model.load_state_dict(state["model"])
        self.adam.load_state_dict(state["adam"])
        self.muon.load_state_dict(state["muon"])
        self.average = state["average"]
        self.seconds, self.steps = state["seconds"], state["steps"]

    @property
    def progress(self) -> float:
        return self.seconds / (60 * self.settings.minutes)

    def rate(self) -> float:
        """Warm-up, stable, linear decay to a fiftieth; a share of the peak."""
        s = self.settings
        rise = self.progress / s.warmup
        fall = (1 - self.progress) / (1 - s.decay_from)
        return max(0.02, min(1.0, 0.05 + rise, fall))

    def step(self, ids: Tensor, weights: Tensor, losses: Any) -> float:
        """One update; returns the batch's weighted loss in nats per token."""
        total = weights[:, 1:].sum()
        value = 0.0
        rows = self.settings.micro_rows
        for part, weight in zip(torch.split(ids, rows), torch.split(weights, rows), strict=True):
            with torch.autocast(self.device, dtype=torch.bfloat16, enabled=self.half):
                nats = losses(self.model, part.to(self.device))
            loss = (nats * weight[:, 1:].to(self.device)).sum() / total
            loss.backward()
            value += float(loss.detach())
        self.adam.param_groups[0]["lr"] = self.settings.adam_lr * self.rate()
        self.adam.step()
        self.muon.param_groups[0]["lr"] = self.settings.muon_lr * self.rate()
        self.muon.step()  # type: ignore[no-untyped-call]
        self.model.zero_grad(set_to_none=True)
        for name, parameter in self.model.named_parameters():
            self.average[name].lerp_(parameter.detach(), 1 - self.settings.average)
        return value

    def averaged(self) -> LlamaForCausalLM:
        """A copy of the model with the running average of its weights."""
        copy = new_model(self.tokenizer, self.settings, self.layers)
        copy.load_state_dict(
            {
                **self.model.state_dict(),
                **self.average,
                "lm_head.weight": self.average["model.embed_tokens.weight"],
            }
        )
        return copy.eval()


def tokenizer_in(folder: Path, train: list[Dialogue], settings: Settings) -> PreTrainedTokenizerFast:
    if not folder.exists():
        train_tokenizer(train, settings.vocabulary).save_pretrained(folder)
    tokenizer: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(folder)
    return tokenizer


def train(run: Run, *, every: int = 150) -> None:
    """Trains until the clock says stop; logs and saves on the way."""
    settings = run.settings
    losses = torch.compile(token_losses)
    streams = {
        chat: batches(run.train, run.encode, settings, chat=chat, skip=run.steps[chat]) for chat in (False, True)
    }
    recent: list[float] = []
    while run.progress < 1:
        if run.layers < settings.layers and run.progress >= settings.grow_at:
            run.grow()
        began = time.monotonic()
        chat = run.progress >= settings.decay_from
        recent.append(run.step(*next(streams[chat]), losses))
        run.steps[chat] += 1
        run.seconds += time.monotonic() - began
        count = sum(run.steps.values())
        if count % 10 == 0:
            rate = count * settings.rows * settings.length / run.seconds
            mean = sum(recent) / len(recent)
            print(f"step {count} {run.seconds / 60:.1f} min loss {mean:.3f} {rate:.0f} tok/s", flush=True)
            recent.clear()
        if count % every == 0:
            log(run)
    log(run)


def log(run: Run) -> None:
    """Saves the run and appends the held-out losses of its averaged weights to `log.jsonl`."""
    run.save()
    report = held_out(run.averaged().to(run.device), run.dialogues, run.encode, run.settings)
    tokens = sum(run.steps.values()) * run.settings.rows * run.settings.length
    line = {
        "minutes": run.seconds / 60,
        "steps": sum(run.steps.values()),
        "tokens": tokens,
        "held_out": report,
    }
    with (run.folder / "log.jsonl").open("a") as lines:
        lines.write(json.dumps(line) + "\n")
    print("held-out", {name: round(r["nats"], 4) for name, r in report.items()}, flush=True)


def export(run: Run, folder: Path) -> None:
    """The averaged weights in bfloat16 with all that transformers and vLLM read."""
    model = run.averaged().to(torch.bfloat16)
    eos, pad = run.tokenizer.eos_token_id, run.tokenizer.pad_token_id
    model.generation_config = GenerationConfig(
        eos_token_id=eos, pad_token_id=pad, do_sample=True, temperature=0.8, top_p=0.95, max_new_tokens=64
    )
    model.save_pretrained(folder)
    run.tokenizer.save_pretrained(folder)


def second_time(settings: Settings) -> Settings:
    """From trained weights: the full depth at once, half the peak rate, an earlier decay, other shuffles."""
    return replace(
        settings,
        first_layers=settings.layers,
        decay_from=0.38,
        muon_lr=settings.muon_lr / 2,
        adam_lr=settings.adam_lr / 2,
        seed=settings.seed + 1,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with hh_rlhf, topical_chat, sgd_dialogues")
    parser.add_argument("--out", type=Path, required=True, help="scratch folder of the run")
    parser.add_argument("--minutes", type=float, default=Settings.__dataclass_fields__["minutes"].default)
    parser.add_argument("--start", type=Path, help="folder of a model to train a second time")
    parser.add_argument("--export", type=Path, help="write the last checkpoint there instead of training")
    arguments = parser.parse_args()
    settings = Settings(minutes=arguments.minutes)
    if arguments.start:
        settings = second_time(settings)
    arguments.out.mkdir(parents=True, exist_ok=True)
    run = Run(arguments.out, load_dialogues(arguments.data), settings, arguments.start)
    if arguments.export:
        export(run, arguments.export)
    else:
        train(run)


if __name__ == "__main__":
    main()
