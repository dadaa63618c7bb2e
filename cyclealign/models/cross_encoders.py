"""Making pair models, and loading saved ones as the cross-encoders that they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cyclealign.types import UserError

OURS = ("cyclealign.models.prettr.PreTTR", "cyclealign.models.tk.TK")


def load_cross_encoder(path: str, **options: Any) -> Any:
    """A ``CrossEncoder``, also one that is a PreTTR or TK in a local directory.

    sentence-transformers asks for ``trust_remote_code`` before it imports a class from outside of itself; it is given
    where all such classes are ours, and nowhere else.
    """
    from sentence_transformers import CrossEncoder

    return CrossEncoder(path, **options, **({"trust_remote_code": True} if _is_ours(Path(path)) else {}))


def _is_ours(folder: Path) -> bool:
    file = folder / "modules.json"
    if not file.is_file():
        return False
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        modules = [str(module["type"]) for module in found] if isinstance(found, list) else []
    except (OSError, ValueError, RecursionError, TypeError, KeyError):
        modules = []
    if not modules:
        raise UserError(f"{file}: expected a list of modules, each with its type; put it back from a copy")
    foreign = [name for name in modules if not _known(name)]
    return bool(foreign) and all(name in OURS for name in foreign)


def _known(name: str) -> bool:
    return name.startswith("sentence_transformers.")
