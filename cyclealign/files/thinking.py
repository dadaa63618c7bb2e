"""Thinking in a policy's replies: by which tags it is told, and where the answer begins."""

from __future__ import annotations

from dataclasses import dataclass, replace

from cyclealign.types import Candidate


@dataclass(frozen=True, slots=True)
class Tags:
    """What opens thinking, and what closes it."""

    open: str
    close: str

    @property
    def forced(self) -> str:
        """What is written to close thinking for a policy that has not, as the families of these tags write it."""
        return f"\n{self.close}\n\n"


KNOWN = (
    Tags("<think>", "</think>"),
    Tags("<thinking>", "</thinking>"),
    Tags("<thought>", "</thought>"),
    Tags("<reasoning>", "</reasoning>"),
    Tags("<seed:think>", "</seed:think>"),
    Tags("<|START_THINKING|>", "<|END_THINKING|>"),
    Tags("<|begin_of_thought|>", "<|end_of_thought|>"),
    Tags("[THINK]", "[/THINK]"),
    Tags("◁think▷", "◁/think▷"),
)


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply in two: ``thinking`` as it was written, with its tags and the white space after them, and the answer.

    ``unfinished``: it never leaves its thinking, so that there is no answer.
    """

    thinking: str
    answer: str
    unfinished: bool = False


def tags_in(template: str) -> Tags | None:
    """The tags that a chat template names; None: of no family that is known."""
    return next((tags for tags in KNOWN if tags.close in template or tags.open in template), None)


def parted(text: str, tags: Tags, *, inside: bool) -> Reply:
    """The answer is what stands after the last thinking part: what was drafted before it is nobody's business.

    inside: the prompt has opened the thinking already. A close without an open is a close all the same: then a prompt
    that we have not seen (a server's) has opened it.
    """
    before, close, after = text.rpartition(tags.close)
    if tags.open in after or (not close and (inside or _begins(tags.open, after))):
        return Reply(text, "", unfinished=True)
    if not close:
        return Reply("", text)
    answer = after.lstrip()
    return Reply(before + close + after[: len(after) - len(answer)], answer)


def recorded(text: str) -> Reply:
    """A reply that somebody recorded, by the tags that are known: it begins with an open one, or has a close alone, as
    where the prompt had opened it. A tag that an answer only speaks of is left where it is."""
    for tags in KNOWN:
        if text.lstrip().startswith(tags.open) or (tags.close in text and tags.open not in text):
            return parted(text, tags, inside=False)
    return Reply("", text)


def answered(candidate: Candidate) -> Candidate:
    """A recorded candidate with its thinking apart, where its text holds some; its answer is empty where it is all."""
    reply = recorded(candidate.text)
    if candidate.thinking is not None or not reply.thinking:
        return candidate
    return replace(candidate, text=reply.answer, thinking=reply.thinking)


def _begins(tag: str, text: str) -> bool:
    """Whether a reply is the beginning of a tag, cut off."""
    return bool(text.strip()) and tag.startswith(text.strip())
