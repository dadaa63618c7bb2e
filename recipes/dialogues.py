"""Dialogues for the embedded models: reading, screening, splitting and shortening.

Three permissively licensed sources are read from one data folder: the helpful part of HH-RLHF (MIT),
Topical-Chat (CDLA-Sharing 1.0) and Schema-Guided Dialogue (CC BY-SA 4.0). Both recipes use this module, so
that the chat policy and the local ranker agree on what a dialogue is and which ones are held out.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Message = dict[str, str]
Source = Literal["hh", "topical", "sgd"]
Split = Literal["policy_eval", "ranker_eval", "train"]
SOURCES: tuple[Source, ...] = ("hh", "topical", "sgd")

# A dialogue with any of these is left out as a whole. The lists are wide on purpose: losing a harmless
# dialogue costs little, and a stranger's first sample must not offend. Stems match at the start of a word.
BLOCKED_STEMS = """
    abortion abusive assault bastard bitch blowjob boob breasts cannabi cocaine condom corpse cunt damn
    drunk erotic explosive fetish fuck genital genocid hitler holocaust homicid homosex horny impeach incest
    kidnap killer killing marijuana massacre masturbat molest murder naked nazi nigg nude orgasm orgies
    overdos pedo piss porn prostitut pussy racis rapist sadis sexis sexual slaughter slut smuggl sniper
    strippe stupid suicid terroris torture transgender vagina violence violent weapon whore
"""
BLOCKED_WORDS = """
    abuse abused ass asshole bomb bombs butt crap crappy democrat democrats dick dildo drug drugs fag gay
    gun guns heroin hell hillary idiot idiots jail kill killed kills lesbian meth moron obama orgy penis
    rape raped republican republicans sex sexy shit shoot shooting slave slavery slaves steal stealing trump
    victim victims weed
"""
_STEMS, _WORDS = "|".join(BLOCKED_STEMS.split()), "|".join(BLOCKED_WORDS.split())
_BLOCKED = re.compile(rf"\b(?:(?:{_STEMS})\w*|(?:{_WORDS})\b)", re.IGNORECASE)
_HH_TURN = re.compile(r"\n\n(Human|Assistant):")
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z0-9\"'(])")


@dataclass(frozen=True, kw_only=True, slots=True)
class Dialogue:
    """One screened dialogue: alternating user and assistant turns, the user first.

    `alternative` is another last reply to the same context (HH-RLHF's rejected one), where there is one.
    """

    source: Source
    group: str
    turns: tuple[str, ...]
    alternative: str | None = None

    @property
    def split(self) -> Split:
        """Fixed by a hash of `group`, so that rows that share a first turn never straddle two splits.

        Of 100 buckets, 0-2 evaluate the policy, 3-5 evaluate the ranker, 6-99 train both. Neither model is
        trained on buckets 0-5, and the ranker never sees the policy's held-out dialogues.
        """
        bucket = int(hashlib.sha256(f"tiny-chat-v1|{self.group}".encode()).hexdigest(), 16) % 100
        return "policy_eval" if bucket < 3 else "ranker_eval" if bucket < 6 else "train"


def as_messages(turns: tuple[str, ...] | list[str]) -> list[Message]:
    """Turns to chat messages: even positions are the user's, odd ones the assistant's."""
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(turns)]


def shorten(reply: str, *, sentences: int = 3, characters: int = 320) -> str:
    """The first sentences of a reply, within a length: the embedded policy is to answer briefly."""
    text = reply.split("\n")[0].strip() if len(reply.split("\n")[0]) >= 40 else " ".join(reply.split())
    kept = ""
    for sentence in _SENTENCE.split(text)[:sentences]:
        if kept and len(kept) + len(sentence) > characters:
            break
        kept = f"{kept} {sentence}".strip()
    return kept


def load_dialogues(data: Path) -> list[Dialogue]:
    """All screened dialogues of the three sources, in file order, without repeated texts."""
    unique: dict[tuple[str, ...], Dialogue] = {}
    for read in (_read_hh, _read_topical, _read_sgd):
        for dialogue in read(data):
            texts = (*dialogue.turns, dialogue.alternative or "")
            if len(dialogue.turns) >= 2 and not any(_BLOCKED.search(text) for text in texts):
                unique.setdefault(dialogue.turns, dialogue)
    return list(unique.values())


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def _read_hh(data: Path) -> Iterator[Dialogue]:
    for row in _rows(data / "hh_rlhf" / "helpful_base_test.jsonl.gz"):
        chosen, rejected = _hh_turns(row["chosen"]), _hh_turns(row["rejected"])
        if not chosen:
            continue
        shared = rejected[:-1] == chosen[:-1]
        yield Dialogue(source="hh", group=f"hh|{chosen[0]}", turns=chosen, alternative=rejected[-1] if shared else None)


def _hh_turns(text: str) -> tuple[str, ...]:
    """Turns up to the first empty or out-of-turn one, an even number of them."""
    parts = _HH_TURN.split(text)[1:]
    turns: list[str] = []
    for speaker, said in zip(parts[::2], parts[1::2], strict=True):
        if speaker != ("Human", "Assistant")[len(turns) % 2] or not said.strip():
            break
        turns.append(said.strip())
    return tuple(turns[: len(turns) // 2 * 2])


def _read_topical(data: Path) -> Iterator[Dialogue]:
    for name in ("valid_freq", "valid_rare", "test_freq", "test_rare"):
        for row in _rows(data / "topical_chat" / f"{name}.jsonl.gz"):
            pairs = [(turn["agent"], turn["text"]) for turn in row["turns"]]
            yield Dialogue(source="topical", group=f"topical|{row['id']}", turns=_merged(pairs))


def _read_sgd(data: Path) -> Iterator[Dialogue]:
    for row in _rows(data / "sgd_dialogues" / "train_sample.jsonl.gz"):
        yield Dialogue(source="sgd", group=f"sgd|{row['id']}", turns=_merged(row["turns"]))


def _merged(pairs: list[Any]) -> tuple[str, ...]:
    """Consecutive messages of one speaker become one turn; the first speaker is the user."""
    turns: list[str] = []
    last = None
    for speaker, said in pairs:
        text = " ".join(said.split())
        if not text:
            continue
        if speaker == last:
            turns[-1] = f"{turns[-1]} {text}"
        else:
            turns.append(text)
        last = speaker
    return tuple(turns)


def view(dialogue: Dialogue, rng: random.Random, *, chat: bool) -> list[Message]:
    """One training view of a dialogue.

    Topical-Chat is told from either side: starting at its second turn swaps the roles. With `chat`, replies
    are short and half of the views are first exchanges alone, as the product's openers are first turns;
    otherwise the whole dialogue is told, sometimes with the alternative last reply.
    """
    turns = list(dialogue.turns)
    if dialogue.alternative is not None and not chat and rng.random() < 0.5:
        turns[-1] = dialogue.alternative
    if dialogue.source == "topical" and rng.random() < 0.5:
        turns = turns[1:]
    if chat:
        if dialogue.source == "topical" and rng.random() < 0.5:
            turns = turns[2 * rng.randrange(max(1, len(turns) // 2 - 1)) :]
        turns = [shorten(text) if i % 2 else text for i, text in enumerate(turns)]
        turns = turns[: 2 if rng.random() < 0.5 else 6]
    return as_messages(turns[: len(turns) // 2 * 2])
