"""The training and held-out prompts of a run (`data` section)."""

from __future__ import annotations

import logging
import random
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclealign.files.prompts import distinct_prompts
from cyclealign.files.run_records import PromptSpool
from cyclealign.files.seen import Seen
from cyclealign.types import Message, Prompt, UserError, derive_seed

if TYPE_CHECKING:
    from cyclealign.config.schema import Config, DataConfig

log = logging.getLogger(__name__)
# Most held-out prompts of an evaluation: enough for an interval of a few hundredths, and their replies are
# sampled after every interaction.
EVAL_LIMIT = 256
# Most prompts that are rendered where nothing is begun; a run renders all of its own.
TRIED = 10_000


def run_prompts(
    data: DataConfig, *, answers: str | None = None, aside: Path | None = None
) -> tuple[Sequence[Prompt], list[Prompt]]:
    """Training prompts, each read when it is asked for, and at most EVAL_LIMIT held-out ones that are not among them.

    Args:
        answers: as in ``distinct_prompts``, of the training prompts.
        aside: directory in which the training prompts wait, in a file without a name; that of temporary files if None.

    Raises:
        UserError: as ``distinct_prompts``; or none of the eval prompts is new.
    """
    train, ids = PromptSpool(aside), Seen()
    with closing(_prompts(data, data.prompts, "data.prompts", limit=data.limit, answers=answers)) as found:
        for prompt in found:
            if ids.add(prompt.id):  # folding makes one of two
                train.add(prompt)
    if data.eval_prompts is None:
        return train, []
    with closing(_prompts(data, data.eval_prompts, "data.eval_prompts")) as found:
        new = {p.id: p for p in islice((p for p in found if p.id not in ids), EVAL_LIMIT)}
    if not new:
        raise UserError(f"data.eval_prompts: every prompt of {data.eval_prompts} is a training prompt; name other data")
    return train, list(new.values())


def _prompts(
    data: DataConfig, source: str, key: str, *, limit: int | None = None, answers: str | None = None
) -> Generator[Prompt]:
    """Prompts without system turns, where ``data.system_turns`` says so. UserError where none is left."""
    read = left = 0
    with closing(distinct_prompts(source, format=data.format, split=data.split, limit=limit, answers=answers)) as found:
        try:
            for prompt in found:
                read += 1
                if data.system_turns == "skip" and any(m["role"] == "system" for m in prompt.messages):
                    continue
                left += 1
                yield _folded(prompt) if data.system_turns == "fold" else prompt
        finally:
            if 0 < left < read:
                log.warning(
                    "%s: %d of %d prompts have a system turn and are left out (data.system_turns skip)",
                    *(key, read - left, read),
                )
    if not left:
        raise UserError(f"{key}: every prompt of {source} has a system turn; set data.system_turns to fold or keep")


def _folded(prompt: Prompt) -> Prompt:
    """System turns before the words of the first user turn; where there is none, as a user turn."""
    said = [m["content"] for m in prompt.messages if m["role"] == "system"]
    if not said:
        return prompt
    rest = [m for m in prompt.messages if m["role"] != "system"]
    place = next((n for n, m in enumerate(rest) if m["role"] == "user"), None)
    if place is None:
        place, rest = 0, [{"role": "user", "content": ""}, *rest]
    words = "\n\n".join(w for w in (*said, rest[place]["content"]) if w.strip())
    first: Message = {"role": "user", "content": words}
    return replace(prompt, messages=(*rest[:place], first, *rest[place + 1 :]))


def check_rendered(config: Config, train: Sequence[Prompt], held_out: Sequence[Prompt]) -> None:
    """Every prompt in the policy's chat template, before anything is paid for. UserError naming the prompt."""
    from cyclealign.models.policy import load_tokenizer

    _check(load_tokenizer(config.policy, config.generator.thinking), train, held_out)


def _check(tokenizer: Any, train: Sequence[Prompt], held_out: Sequence[Prompt]) -> None:
    from cyclealign.models.chat_template import check_prompts

    check_prompts(tokenizer, train, "data.prompts")
    check_prompts(tokenizer, held_out, "data.eval_prompts")


def try_prompts(config: Config, train: Sequence[Prompt], held_out: Sequence[Prompt]) -> str:
    """The same without a run, of at most ``TRIED`` training prompts; returns a line that says of how many."""
    tried = _drawn(config, train)
    check_rendered(config, tried, held_out)
    return _said(len(tried), len(train))


def try_template(config: Config, train: Sequence[Prompt], held_out: Sequence[Prompt]) -> str:
    """The same by the template's text alone, without the policy's tokenizer, where it is on this machine."""
    from cyclealign.models.policy_files import template_text

    template = template_text(config.policy)
    if template is None:
        return "chat template: not on this machine; a run tries every prompt before it pays for any"
    tried = _drawn(config, train)
    _check(template, tried, held_out)
    return _said(len(tried), len(train))


def _drawn(config: Config, train: Sequence[Prompt]) -> list[Prompt]:
    if len(train) <= TRIED:
        return list(train)
    draw = random.Random(derive_seed(config.seed, "render"))  # noqa: S311  seeded, to be repeated
    drawn = draw.sample(range(len(train)), TRIED)
    return [train[i] for i in sorted(drawn)]


def _said(tried: int, of: int) -> str:
    return f"chat template: {'all' if tried == of else f'{tried} drawn from {of}'} prompts can be rendered"
