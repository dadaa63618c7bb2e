"""A teacher's vectors on disk, by task and text: each is computed once, however often a run is stopped."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from cyclealign.types import UserError, sha256_hex

Task = Literal["query", "document"]
TASKS: tuple[Task, ...] = ("query", "document")
CHUNK = 256  # texts between two commits
PROBE = "The quick brown fox jumps over the lazy dog."


class TeacherVectors:
    """The cache of one teacher.

    teacher: a SentenceTransformer; its own prompts of queries and documents are put before the texts.

    Raises:
        UserError: the file is no such cache, or holds the vectors of another teacher.
    """

    def __init__(self, path: Path, teacher: Any) -> None:
        self.teacher = teacher
        path.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(path)
        try:
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("CREATE TABLE IF NOT EXISTS vectors (key TEXT PRIMARY KEY, vector BLOB NOT NULL)")
            self._same_teacher(path)
        except sqlite3.DatabaseError as error:
            self._db.close()
            raise UserError(
                f"{path}: expected a file of teacher's vectors: {error}; remove it or name another"
            ) from error
        except UserError:
            self._db.close()
            raise

    def close(self) -> None:
        self._db.close()

    def vectors(self, texts: Sequence[str], task: Task) -> Float[ndarray, "N D"]:
        """One float32 row for each text, as the teacher gives it; what is not on disk yet is computed."""
        # The length at which the teacher cuts changes its vectors, and so do its prompts.
        how = [task, self.teacher.max_seq_length, self.teacher.default_prompt_name, self.teacher.prompts]
        keys = [sha256_hex([*how, text]) for text in texts]
        missing = {key: text for key, text in zip(keys, texts, strict=True) if self._read(key) is None}
        for portion in _portions(list(missing.items())):
            rows = self._encode([text for _, text in portion], task)
            with self._db:
                self._db.executemany(
                    "INSERT OR IGNORE INTO vectors VALUES (?, ?)",
                    [(key, row.tobytes()) for (key, _), row in zip(portion, rows, strict=True)],
                )
        found = [self._read(key) for key in keys]
        return np.stack([row for row in found if row is not None])

    def _read(self, key: str) -> Float[ndarray, " D"] | None:
        row = self._db.execute("SELECT vector FROM vectors WHERE key = ?", (key,)).fetchone()
        return None if row is None else np.frombuffer(row[0], dtype=np.float32)

    def _encode(self, texts: Sequence[str], task: Task) -> Float[ndarray, "N D"]:
        encode = self.teacher.encode_query if task == "query" else self.teacher.encode_document
        return np.asarray(encode(list(texts), show_progress_bar=False), dtype=np.float32)

    def _same_teacher(self, path: Path) -> None:
        """A name can stand for other weights later: one text is encoded again and compared."""
        key = sha256_hex(["probe", PROBE])
        known, now = self._read(key), self._encode([PROBE], "document")[0]
        if known is None:
            with self._db:
                self._db.execute("INSERT INTO vectors VALUES (?, ?)", (key, now.tobytes()))
        elif known.shape != now.shape or float(known @ now) < 0.999 * np.linalg.norm(known) * np.linalg.norm(now):
            raise UserError(f"{path}: holds another teacher's vectors; name another file in teacher.vectors")


def _portions(items: Sequence[tuple[str, str]]) -> Iterator[Sequence[tuple[str, str]]]:
    """By length, the longest first, so that little is padded (and a lack of memory shows at once)."""
    items = sorted(items, key=lambda item: -len(item[1]))
    for first in range(0, len(items), CHUNK):
        yield items[first : first + CHUNK]
