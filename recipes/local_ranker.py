"""Trains the embedded local ranker: two bags of token embeddings that score a reply to a chat.

    python recipes/local_ranker.py --data DATA --out cyclealign/assets/local_ranker --minutes 6

Levels that need no human labels: the true reply (0) over another turn of the same dialogue (1) over a reply of
another dialogue of the same source (2); every other list has in level 2 the user's own words given back, so that an
echo is not an answer. First the towers learn to find the true reply, and the dialogue, among those of the batch
(InfoNCE), then the lists are trained with multi-level ranking beside it. Evaluated on dialogues that neither the
ranker nor the policy was trained on, and that are not the policy's held-out ones.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from dialogues import SOURCES, Dialogue, load_dialogues, shorten
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn.functional import cross_entropy

from cyclealign.losses import MultiLevelRanking, RankedScores
from cyclealign.rankers.local import CHAT_TURNS, ResponseScorer

WIDTH, BATCH, LEARNING_RATE, SEED = 256, 256, 2e-3, 29
LEVELS = torch.tensor([0, 1, 1, 2, 2, 2])
LOSS = MultiLevelRanking(separation=0.15, compactness=0.1, squash="sigmoid")
FIRST_TURN_SHARE, ECHO_SHARE, TOKEN_DROPOUT = 0.35, 0.5, 0.2
SOURCE_SHARES = (0.35, 0.4, 0.25)  # of the batches, in the order of SOURCES


@dataclass(frozen=True)
class Example:
    """Token ids of a chat, and of replies in the order of LEVELS."""

    source: str
    chat: Tensor
    replies: tuple[Tensor, ...]


class Lists:
    """Draws lists from dialogues, every text tokenised once."""

    def __init__(self, dialogues: list[Dialogue], tokenizer: Tokenizer, seed: int) -> None:
        self.dialogues = [d for d in dialogues if len(d.turns) >= 4]
        # Replies are told from other replies of their own source: sources differ in style, which says nothing of
        # whether a reply answers.
        self.by_source = {s: [d for d in self.dialogues if d.source == s] for s in SOURCES}
        self.tokenizer, self.rng = tokenizer, random.Random(seed)
        self.cache: dict[str, Tensor] = {}

    def ids(self, text: str) -> Tensor:
        if text not in self.cache:
            self.cache[text] = torch.tensor(self.tokenizer.encode(text, add_special_tokens=False).ids)
        return self.cache[text]

    def draw(self, dialogue: Dialogue, *, echo: bool) -> Example:
        """One list about a reply of the dialogue; first replies are frequent, as openers are first turns."""
        rng = self.rng
        # Topical-Chat is people among themselves: either side's turn is a reply.
        places = range(1, len(dialogue.turns), 1 if dialogue.source == "topical" else 2)
        place = 1 if rng.random() < FIRST_TURN_SHARE else rng.choice(places)
        chat = dialogue.turns[max(0, place - CHAT_TURNS) : place]
        others = [t for i, t in enumerate(dialogue.turns) if abs(i - place) > 1]
        near = [shorten(rng.choice(others)) for _ in range(2)] if others else [dialogue.turns[-1]] * 2
        far = [shorten(self.reply(rng.choice(self.by_source[dialogue.source]))) for _ in range(3)]
        if echo:
            far[0] = dialogue.turns[place - 1]
        replies = (shorten(dialogue.turns[place]), *near, *far)
        return Example(dialogue.source, self.ids("\n".join(chat)), tuple(self.ids(r) for r in replies))

    def reply(self, dialogue: Dialogue) -> str:
        return dialogue.turns[self.rng.randrange(1, len(dialogue.turns), 2)]

    def batch(self, size: int) -> list[Example]:
        """Lists of one source, so that the true replies of the others are no easier than the list's own."""
        source = self.rng.choices(SOURCES, SOURCE_SHARES)[0]
        chosen = self.rng.sample(self.by_source[source], min(size, len(self.by_source[source])))
        return [self.draw(d, echo=self.rng.random() < ECHO_SHARE) for d in chosen]


def thinned(ids: Tensor) -> Tensor:
    """Some tokens left out: there are few dialogues, and single words of theirs are learned by heart else."""
    kept = ids[torch.rand(len(ids)) >= TOKEN_DROPOUT]
    return kept if len(kept) else ids


def losses(model: ResponseScorer, batch: Sequence[Example]) -> tuple[Tensor, Tensor]:
    """InfoNCE over the batch's true replies and over its dialogues, and multi-level ranking over each list's own.

    The second InfoNCE finds another turn of the same dialogue among those of other dialogues: what belongs together.
    """
    count = len(LEVELS)
    u, v, quality = model.towers([thinned(e.chat) for e in batch], [thinned(r) for e in batch for r in e.replies])
    echoed = model.echoed([e.chat for e in batch for _ in e.replies], [r for e in batch for r in e.replies])
    true, near = (model.log_scale.exp() * u @ v[i::count].T + quality[i::count] for i in (0, 1))
    own = v.view(len(batch), count, -1)
    listed = model.log_scale.exp() * (u[:, None] * own).sum(dim=2) + (quality + echoed).view(len(batch), count)
    target = torch.arange(len(batch))
    contrast = cross_entropy(torch.cat([true, listed[:, 3:]], dim=1), target) + 0.5 * cross_entropy(near, target)
    levels = LEVELS.expand(len(batch), count)
    # Scores are compared within a list only, so a list may be shifted to where the sigmoid is steep.
    centred = (listed - listed.mean(dim=1, keepdim=True)) / 4
    valid = torch.ones_like(listed, dtype=torch.bool)
    ranked = LOSS(RankedScores(student=centred, teacher=-levels.float(), valid=valid, levels=levels))
    return contrast, ranked.loss


def train(model: ResponseScorer, lists: Lists, minutes: float) -> int:
    """Trains for the given time; returns the number of lists seen."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.02)
    began, seen = time.monotonic(), 0
    while (progress := (time.monotonic() - began) / (60 * minutes)) < 1:
        contrast, ranked = losses(model, lists.batch(BATCH))
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * min(1.0, 10 * progress + 0.05, 1.02 - progress)
        optimizer.zero_grad()
        (contrast + (ranked if progress > 0.3 else 0.0)).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        seen += BATCH
        if seen // BATCH % 50 == 0:
            print(f"{progress:4.0%} contrast {contrast:.3f} levels {ranked:.3f}", flush=True)
    return seen


@torch.no_grad()
def accuracies(model: ResponseScorer, lists: Lists, rounds: int) -> dict[str, dict[str, float]]:
    """Share of pairs in the right order by level pair and source, with their number; true replies against echoes."""
    counts: dict[str, dict[str, list[float]]] = {}
    for dialogue in [d for _ in range(rounds) for d in lists.dialogues]:
        for echo in (False, True):
            e = lists.draw(dialogue, echo=echo)
            scores = model([e.chat] * len(e.replies), e.replies)
            pairs = {"true_over_echo": [(0, 3)]} if echo else level_pairs()
            for source in (dialogue.source, "all"):
                for name, members in pairs.items():
                    found = counts.setdefault(source, {}).setdefault(name, [])
                    found += [float(scores[a] > scores[b]) + 0.5 * float(scores[a] == scores[b]) for a, b in members]
    return {
        source: {key: value for n, c in by.items() for key, value in ((n, sum(c) / len(c)), (f"n_{n}", len(c)))}
        for source, by in counts.items()
    }


def level_pairs() -> dict[str, list[tuple[int, int]]]:
    places = range(len(LEVELS))
    return {
        f"{a}v{b}": [(i, j) for i in places for j in places if LEVELS[i] == a and LEVELS[j] == b]
        for a, b in ((0, 1), (1, 2), (0, 2))
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with hh_rlhf, topical_chat, sgd_dialogues")
    parser.add_argument("--policy", type=Path, default=Path("cyclealign/assets/tiny_chat"), help="whose tokenizer")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=6.0)
    arguments = parser.parse_args()
    torch.manual_seed(SEED)
    tokenizer = Tokenizer.from_file(str(arguments.policy / "tokenizer.json"))
    dialogues = load_dialogues(arguments.data)
    model = ResponseScorer(vocabulary=tokenizer.get_vocab_size(), width=WIDTH)
    seen = train(model, Lists([d for d in dialogues if d.split == "train"], tokenizer, SEED), arguments.minutes)
    held_out = Lists([d for d in dialogues if d.split == "ranker_eval"], tokenizer, SEED + 1)
    report = {"lists": seen, "minutes": arguments.minutes, "held_out": accuracies(model.eval(), held_out, 3)}
    arguments.out.mkdir(parents=True, exist_ok=True)
    save_file(
        {k: v.to(torch.bfloat16).contiguous() for k, v in model.state_dict().items()},
        arguments.out / "model.safetensors",
    )
    shape = {"vocabulary": tokenizer.get_vocab_size(), "width": WIDTH}
    (arguments.out / "config.json").write_text(json.dumps(shape | {"trained": report}, indent=2) + "\n")
    print(json.dumps({s: {k: round(v, 3) for k, v in a.items()} for s, a in report["held_out"].items()}, indent=1))
    print({source: sum(d.source == source for d in dialogues) for source in SOURCES})


if __name__ == "__main__":
    main()
