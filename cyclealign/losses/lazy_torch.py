"""torch at first use: what a loss's settings are is asked by commands that never train, and torch takes seconds."""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:

    class _Torch:
        """The module, imported when a name of it is first asked for."""

        def __getattr__(self, name: str) -> Any:
            value = getattr(importlib.import_module("torch"), name)
            setattr(self, name, value)
            return value

    class _IsTensor(type):
        def __instancecheck__(cls, value: Any) -> bool:
            module = sys.modules.get("torch")  # without it there is no tensor
            return module is not None and isinstance(value, module.Tensor)

    class Tensor(metaclass=_IsTensor):
        """For annotations, which jaxtyping reads when a class is made: its instances are torch's tensors."""

    torch = _Torch()

__all__ = ["Tensor", "torch"]
