"""Which interaction a run keeps as its product: the names of the rules, and their words for people."""

from __future__ import annotations

from typing import Literal

KeepRule = Literal["best", "within_limits", "last"]
Keep = Literal["auto", "best", "within_limits", "last"]


def keep_rule(keep: Keep, witness: str | None) -> KeepRule:
    """The rule that ``drift.keep`` stands for in a run with this witness, or none."""
    if keep != "auto":
        return keep
    return "best" if witness is not None else "within_limits"


def keep_text(keep: Keep, witness: str | None) -> str:
    """``within_limits (auto, without a witness): the latest interaction within the drift limits``."""
    rule = keep_rule(keep, witness)
    why = f" (auto, {'with' if witness is not None else 'without'} a witness)" if keep == "auto" else ""
    words = {
        "best": f"the interaction that {witness} scores highest on the choosing half, within the drift limits",
        "within_limits": "the latest interaction within the drift limits",
        "last": "the last interaction",
    }
    return f"{rule}{why}: {words[rule]}"
