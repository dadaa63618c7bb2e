"""The training and held-out prompts of a run (`data` section)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cyclealign.files.prompts import load_prompts
from cyclealign.types import Prompt, UserError, derive_seed

if TYPE_CHECKING:
    from cyclealign.config.schema import Config, DataConfig


# Most held-out prompts of an evaluation: enough for an interval of a few hundredths, and their replies are
# sampled after every interaction.
EVAL_LIMIT = 256
# Most prompts that are rendered where nothing is begun; a run renders all of its own.
TRIED = 10_000


def run_prompts(data: DataConfig) -> tuple[list[Prompt], list[Prompt]]:
    """Training prompts, and at most EVAL_LIMIT held-out ones that are not among them.

    Raises:
        UserError: as ``load_prompts``; or none of the eval prompts is new.
    """
    train = load_prompts(data.prompts, format=data.format, split=data.split, limit=data.limit)
    if data.eval_prompts is None:
        return train, []
    ids = {p.id for p in train}
    limit = EVAL_LIMIT + len(ids)
    found = load_prompts(data.eval_prompts, format=data.format, split=data.split, limit=limit)
    held_out = [p for p in found if p.id not in ids][:EVAL_LIMIT]
    if not held_out:
        raise UserError(f"data.eval_prompts: every prompt of {data.eval_prompts} is a training prompt; name other data")
    return train, held_out


def check_rendered(config: Config, train: Sequence[Prompt], held_out: Sequence[Prompt]) -> None:
    """Every prompt in the policy's chat template, before anything is paid for. UserError naming the prompt."""
    from cyclealign.models.chat_template import check_prompts
    from cyclealign.models.policy import load_tokenizer

    tokenizer = load_tokenizer(config.policy)
    check_prompts(tokenizer, train, "data.prompts")
    check_prompts(tokenizer, held_out, "data.eval_prompts")


def try_prompts(config: Config, train: Sequence[Prompt], held_out: Sequence[Prompt]) -> str:
    """The same without a run, of at most ``TRIED`` training prompts; returns a line that says of how many."""
    tried = list(train)
    if len(tried) > TRIED:
        drawn = random.Random(derive_seed(config.seed, "render")).sample(range(len(tried)), TRIED)
        tried = [train[i] for i in sorted(drawn)]
    check_rendered(config, tried, held_out)
    of = "all" if len(tried) == len(train) else f"{len(tried)} drawn from {len(train)}"
    return f"chat template: {of} prompts can be rendered"
