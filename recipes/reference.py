"""A witness of the demo: how near a reply comes to a reference answer, which no ranker is shown."""

import json
from functools import cache
from pathlib import Path

from cyclealign.rankers.witnesses import SentenceSimilarity
from cyclealign.types import Message

ANSWERS = Path("prompts/questions_held_out.jsonl")  # from a checkout's root, as the demo's config


def nearness(messages: list[Message], replies: list[str]) -> list[float]:
    """Cosine in [-1, 1] of each reply and the answer to the last question, by all-MiniLM-L6-v2; KeyError: no answer."""
    answer: Message = {"role": "user", "content": answers()[messages[-1]["content"]]}
    return encoder().score([((answer,), reply) for reply in replies])


@cache
def answers() -> dict[str, str]:
    """The answer to each held-out question."""
    rows = map(json.loads, ANSWERS.read_text(encoding="utf-8").splitlines())
    return {row["prompt"]: row["reference"] for row in rows}


@cache
def encoder() -> SentenceSimilarity:
    return SentenceSimilarity(device="cpu")
