"""What this user has agreed to, outside of any run directory: a file for each kind of thing."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from cyclealign.files.jsonl import read_json, write_json


class Agreed:
    """Names that the user has agreed to, each under a subject: keys by host, functions by the code that has them.

    ``$XDG_STATE_HOME/cyclealign/NAME``. UserError from all methods where the file cannot be read.
    """

    def __init__(self, name: str) -> None:
        state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
        self._file = Path(state) / "cyclealign" / name

    def names(self, subject: str) -> Iterable[str]:
        found = self._all().get(subject, [])
        return found if isinstance(found, list) else []

    def add(self, subject: str, name: str) -> None:
        known = {s: names for s, names in self._all().items() if isinstance(names, list)}
        if name not in known.get(subject, []):
            write_json(self._file, known | {subject: sorted([*known.get(subject, []), name])})

    def _all(self) -> dict[str, object]:
        return read_json(self._file, remedy="remove it") if self._file.exists() else {}
