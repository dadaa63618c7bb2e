"""A taste that a person can see: an answer to the question, in at most two sentences, and nothing about oneself."""

import re

SELF = re.compile(r"\b(I|I'm|I've|I'd|[Mm]y|[Mm]e|[Aa]s an AI|AI assistant|language model|SmolLM)\b")
COMMON = {"what", "why", "how", "the", "and", "are", "can", "does", "did", "who", "which", "when", "where", "with"}


def words(text: str) -> set[str]:
    """Its words of three letters and more, short forms of plurals alike, without those that every question has."""
    return {word.rstrip("s") for word in re.findall(r"[a-z]{3,}", text.lower())} - COMMON


def taste(messages: list[dict[str, str]], replies: list[str]) -> list[float]:
    """A score for each reply, higher is better: 2 is a whole answer in one or two sentences, and each fault costs 1."""
    return [_score(words(messages[-1]["content"]), reply.strip()) for reply in replies]


def _score(asked: set[str], reply: str) -> float:
    said = words(reply)
    answers = bool(asked & said) and len(said - asked) >= 4
    sentences = len(re.findall(r"[.!?]+(?=\s|$)", reply)) + (not reply.endswith((".", "!", "?")))
    broken_off = not reply.endswith((".", "!"))
    return 2.0 * answers - min(max(0, sentences - 2), 3) - broken_off - bool(SELF.search(reply))
