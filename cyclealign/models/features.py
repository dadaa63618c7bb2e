"""What sentence-transformers passes between its modules: tensors, and words of its own, by name."""

from __future__ import annotations

from typing import Any

Features = dict[str, Any]
