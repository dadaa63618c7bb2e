"""A model that cannot be loaded is one readable line, whatever is wrong with its directory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cyclealign.types import UserError

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
