"""A trainer of transformers that is interrupted at a step, as by ^C."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback


def stopped_at(step: int, made: Callable[..., Any]) -> Callable[..., Any]:
    """``made``, whose trainer raises KeyboardInterrupt when it begins the step after ``step`` others."""

    class Stop(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, _: object, state: Any, *__: object, **___: object) -> None:
            if state.global_step == step:
                raise KeyboardInterrupt

    def stopped(*arguments: Any) -> Any:
        trainer = made(*arguments)
        trainer.add_callback(Stop())
        return trainer

    return stopped
