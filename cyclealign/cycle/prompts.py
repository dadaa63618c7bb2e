"""The training and held-out prompts of a run (`data` section)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cyclealign.types import Prompt, UserError

if TYPE_CHECKING:
    from cyclealign.config.schema import DataConfig
from cyclealign.files.prompts import load_prompts

# Most held-out prompts of an evaluation: enough for an interval of a few hundredths, and their replies are
# sampled after every interaction.
EVAL_LIMIT = 256


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
