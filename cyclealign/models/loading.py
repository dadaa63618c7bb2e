"""Loading models: one readable line where one cannot be, whatever is wrong with its directory; and their dropout."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from cyclealign.types import UserError

if TYPE_CHECKING:
    from torch import nn

# Beside OSError: wrong names and contents (ValueError), weights that do not fit (RuntimeError), and JSON files of
# another form than expected (the others).
FAILURES = (OSError, ValueError, RuntimeError, LookupError, TypeError, AttributeError)


def loaded(load: Callable[[], Any], problem: str) -> Any:
    """What ``load`` gives.

    Raises:
        UserError: ``problem`` with the reason, where files are missing, broken or of another kind.
    """
    from safetensors import SafetensorError  # an Exception of its own: truncated weights

    try:
        return load()
    except (*FAILURES, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{problem}: {reason}") from error


def set_dropout(model: nn.Module, rate: float) -> None:
    """Set every dropout: modules, and the rates that attention layers keep as plain numbers."""
    from torch import nn

    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = rate
        for name, value in vars(module).items():
            if "dropout" in name and isinstance(value, float):
                setattr(module, name, rate)
