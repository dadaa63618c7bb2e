"""A budget of thinking: after so many tokens it is closed for the policy, and the answer gets tokens of its own.

In two requests, so that it works with whatever takes token ids: the first is as long as the thinking may be; a reply
that is still thinking then is given its close, and one that has not ended goes on from there. What a back end sees are
prompts that end within a reply.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from cyclealign.config.schema import GeneratorConfig
from cyclealign.files.thinking import Tags, parted
from cyclealign.models.chat_template import tags_of
from cyclealign.types import UserError


@dataclass(frozen=True, slots=True)
class Budget:
    """``first``: tokens of the first request; ``answer``: most tokens of an answer; ``close``: what is written for a
    policy that is still thinking after the first."""

    tokenizer: Any
    tags: Tags
    first: int
    answer: int
    close: tuple[int, ...]

    def go_on(self, ids: Sequence[int], stops: Collection[int], *, inside: bool) -> tuple[list[int], int]:
        """After the first request: the reply so far, closed where it has to be, and how many tokens it may still get.

        None are left where it has ended, or its answer is as long as it may be; of a longer one the rest is cut.
        ``inside``: as in ``thinking.parted``.
        """
        end = next((n for n, token in enumerate(ids) if token in stops), None)
        said = list(ids[:end])
        if parted(self._text(said), self.tags, inside=inside).unfinished:
            return (list(ids), 0) if end is not None else ([*said, *self.close], self.answer)
        begins = self._answer_begins(said)
        left = self.answer - (len(said) - begins)
        if left < 0 or (left == 0 and end is None):
            return said[: begins + self.answer], 0
        return (list(ids), 0) if end is not None else (said, left)

    def _answer_begins(self, ids: Sequence[int]) -> int:
        """How many tokens it takes to have written the last close."""
        closes = self._text(ids).count(self.tags.close)
        least, most = 0, len(ids) if closes else 0
        while least < most:
            middle = (least + most) // 2
            if self._text(ids[:middle]).count(self.tags.close) == closes:
                most = middle
            else:
                least = middle + 1
        return least

    def _text(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))


def thinking_budget(tokenizer: Any, generator: GeneratorConfig) -> Budget | None:
    """Of ``generator.thinking.max_tokens``; None where nothing limits thinking but the reply's own length.

    Raises:
        UserError: no tags are known, or there is no room for the close.
    """
    most, tags = generator.thinking.max_tokens, tags_of(tokenizer)
    if most is None:
        return None
    if tags is None:
        raise UserError(
            "generator.thinking.max_tokens: the chat template names no thinking tags that are known; name them in"
            " generator.thinking.open and .close, or set it to null"
        )
    close = tuple(tokenizer(tags.forced, add_special_tokens=False)["input_ids"])
    if most <= len(close):
        raise UserError(
            f"generator.thinking.max_tokens: expected more than the {len(close)} tokens that closing takes, got {most}"
        )
    return Budget(tokenizer, tags, most - len(close), generator.max_new_tokens, close)
