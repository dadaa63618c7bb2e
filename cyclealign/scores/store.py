"""Teacher scores, made once: one SQLite file, keyed by the ids of teacher, query and document.

Append-only: a score is never changed or removed (the file itself refuses), so whatever was written from it can be made
again. A killed run goes on where it stopped. Every teacher carries its provenance, every calibration its parameters.

WAL with ``synchronous=NORMAL``: a commit survives the death of the process at any moment.
"""

from __future__ import annotations

import json
import math
import sqlite3
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from cyclealign.scores.calibration import Calibration, Spread, fit
from cyclealign.scores.score_list import Item, ScoreList
from cyclealign.scores.sidecar import Gives
from cyclealign.types import Candidate, CandidateSet, Message, Prompt, UserError, canonical_json

APPLICATION, LAYOUT = 0x63615363, 1
_TABLES = """
CREATE TABLE texts (kind TEXT NOT NULL, id TEXT NOT NULL, text TEXT, PRIMARY KEY (kind, id)) STRICT, WITHOUT ROWID;
CREATE TABLE teachers (
  name TEXT PRIMARY KEY, gives TEXT NOT NULL, provenance TEXT NOT NULL, since REAL NOT NULL
) STRICT;
CREATE TABLE scores (
  teacher TEXT NOT NULL, query TEXT NOT NULL, document TEXT NOT NULL, score REAL NOT NULL,
  PRIMARY KEY (teacher, query, document)
) STRICT, WITHOUT ROWID;
CREATE TABLE calibrations (
  teacher TEXT NOT NULL, method TEXT NOT NULL, shift REAL NOT NULL, scale REAL NOT NULL, pairs INTEGER NOT NULL,
  PRIMARY KEY (teacher, method)
) STRICT;
"""
# What this process was asked for; a file of its own, since lists may be many. name: of a document in its set.
_WANTED = """
CREATE TEMP TABLE pairs (
  query TEXT NOT NULL, document TEXT NOT NULL, name TEXT NOT NULL, PRIMARY KEY (query, document)
) STRICT, WITHOUT ROWID;
"""
_APPEND_ONLY = "".join(
    f"CREATE TRIGGER {table}_{verb} BEFORE {verb} ON {table} BEGIN SELECT RAISE(ABORT, 'append-only'); END;\n"
    for table in ("scores", "teachers", "calibrations")
    for verb in ("UPDATE", "DELETE")
)
_UNSCORED = """
SELECT p.query, p.document FROM pairs AS p
WHERE NOT EXISTS (SELECT 1 FROM scores AS s WHERE s.teacher = ? AND s.query = p.query AND s.document = p.document)
ORDER BY p.query, p.document
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Teacher:
    """What scored. ``provenance``: what makes it the same teacher again (kind, model, fingerprint, settings)."""

    name: str
    gives: Gives
    provenance: Mapping[str, object] = field(default_factory=dict)


class ScoreStore:
    """One writing process. Raises UserError where the file is no score store."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = _open(path)
        except (sqlite3.Error, OSError) as error:
            raise UserError(f"score store {path}: cannot be opened as one: {error}") from error

    def close(self) -> None:
        self._db.close()

    def add_lists(self, lists: Iterable[ScoreList]) -> None:
        """Register what this process is to score; texts may come now or later, but never change.

        Raises:
            UserError: an id that had another text.
        """
        with self._db:
            for item in lists:
                self._add_text("query", item.query, item.place)
                if item.chat is not None:
                    self._add_text("chat", Item(item.query.id, canonical_json(item.chat)), item.place)
                names = item.names or [d.id for d in item.documents]
                for document, name in zip(item.documents, names, strict=True):
                    self._add_text("document", document, item.place)
                    self._db.execute("INSERT OR IGNORE INTO pairs VALUES (?, ?, ?)", (item.query.id, document.id, name))

    def add_texts(self, kind: Literal["query", "document"], texts: Iterable[tuple[str, str]], place: str) -> None:
        """Texts of ids that lists name; others are not kept."""
        with self._db:
            for key, text in texts:
                if self._text(kind, key) is not None:
                    self._add_text(kind, Item(key, text), place)

    def add_teacher(self, teacher: Teacher) -> None:
        """Raises UserError where the store knows another teacher by this name."""
        known = self.teachers().get(teacher.name)
        if known is None:
            with self._db:
                self._db.execute(
                    "INSERT INTO teachers VALUES (?, ?, ?, ?)",
                    (teacher.name, teacher.gives, canonical_json(dict(teacher.provenance)), time.time()),
                )
        elif canonical_json([known.gives, dict(known.provenance)]) != canonical_json(
            [teacher.gives, dict(teacher.provenance)]
        ):
            raise UserError(
                f"score store {self.path}: {teacher.name} was another teacher when it scored before"
                f" ({_difference(known, teacher)}); scores of both would mix: use another store"
            )

    def teachers(self) -> dict[str, Teacher]:
        """All that have scored, by name."""
        rows = self._db.execute("SELECT name, gives, provenance FROM teachers ORDER BY since, name")
        return {name: Teacher(name=name, gives=gives, provenance=json.loads(p)) for name, gives, p in rows}

    def unscored(self, teacher: str) -> list[tuple[str, list[str]]]:
        """(query id, document ids) of the registered lists that a teacher has not scored yet, by query id."""
        found: dict[str, list[str]] = {}
        for query, document in self._db.execute(_UNSCORED, (teacher,)):
            found.setdefault(query, []).append(document)
        return list(found.items())

    def text(self, kind: Literal["query", "document"], key: str) -> str:
        """UserError where the store has no text for an id."""
        found = self._text(kind, key)
        if found is None or found[0] is None:
            raise UserError(f"no text for the {kind} {key!r}; give --queries and --documents")
        return str(found[0])

    def chat(self, query: str) -> tuple[Message, ...]:
        """A query's messages, as its file had them; else its text as the one message of a user."""
        found = self._text("chat", query)
        if found is None or found[0] is None:
            return (Message(role="user", content=self.text("query", query)),)
        return tuple(json.loads(found[0]))

    def candidates(self, query: str, documents: Sequence[str]) -> CandidateSet:
        """A query with some of its registered documents, which keep the names that they have in their own set."""
        names = dict(self._db.execute("SELECT document, name FROM pairs WHERE query = ?", (query,)))
        found = tuple(Candidate(names[d], self.text("document", d)) for d in documents)
        return CandidateSet(Prompt(self.chat(query)), found)

    def queries(self) -> int:
        """How many queries are registered."""
        return int(self._db.execute("SELECT COUNT(DISTINCT query) FROM pairs").fetchone()[0])

    def told(self, item: ScoreList) -> ScoreList:
        """The list with every text that the store knows."""

        def known(kind: str, entry: Item) -> Item:
            found = self._text(kind, entry.id)
            return Item(entry.id, entry.text or (found[0] if found else None))

        documents = tuple(known("document", d) for d in item.documents)
        return replace(item, query=known("query", item.query), documents=documents)

    def put(self, teacher: str, scores: Iterable[tuple[str, str, float]]) -> None:
        """Add (query, document, score)s in one commit.

        Raises:
            UserError: not finite, or already there with another value.
        """
        with self._db:
            for query, document, score in scores:
                if not math.isfinite(score):
                    raise UserError(f"{teacher} gave the score {score} to document {document!r} for query {query!r}")
                key = (teacher, query, document)
                cursor = self._db.execute("INSERT OR IGNORE INTO scores VALUES (?, ?, ?, ?)", (*key, score))
                if cursor.rowcount == 0 and self.score(*key) != score:
                    raise UserError(
                        f"{teacher} already scored document {document!r} for query {query!r} as"
                        f" {self.score(*key)}, now {score}: the store keeps what it has"
                    )

    def score(self, teacher: str, query: str, document: str) -> float | None:
        """As the teacher gave it; None where it has not."""
        row = self._db.execute(
            "SELECT score FROM scores WHERE teacher = ? AND query = ? AND document = ?", (teacher, query, document)
        ).fetchone()
        return None if row is None else float(row[0])

    def ranked(self, teacher: str, query: str) -> bool:
        """Whether a teacher has scored anything for a query."""
        row = self._db.execute("SELECT 1 FROM scores WHERE teacher = ? AND query = ? LIMIT 1", (teacher, query))
        return row.fetchone() is not None

    def count(self, teacher: str) -> int:
        """How many pairs a teacher has scored."""
        return int(self._db.execute("SELECT COUNT(*) FROM scores WHERE teacher = ?", (teacher,)).fetchone()[0])

    def calibration(self, teacher: str, method: str) -> Calibration:
        """The stored calibration of a teacher; fitted on all its scores and stored, the first time.

        Raises:
            UserError: unknown method, or scores that are all equal.
        """
        row = self._db.execute(
            "SELECT shift, scale, pairs FROM calibrations WHERE teacher = ? AND method = ?", (teacher, method)
        ).fetchone()
        if row is not None:
            return Calibration(method=method, shift=row[0], scale=row[1], pairs=row[2])
        fitted = self._fitted(teacher, method)
        with self._db:
            self._db.execute(
                "INSERT INTO calibrations VALUES (?, ?, ?, ?, ?)",
                (teacher, method, fitted.shift, fitted.scale, fitted.pairs),
            )
        return fitted

    def _fitted(self, teacher: str, method: str) -> Calibration:
        low, high, mean, pairs = self._db.execute(
            "SELECT MIN(score), MAX(score), AVG(score), COUNT(*) FROM scores WHERE teacher = ?", (teacher,)
        ).fetchone()
        if not pairs:
            raise UserError(f"--calibrate {method}: {teacher} has no scores")
        # In two passes: the mean of squares would lose the digits of scores around 1e8.
        variance = self._db.execute(
            "SELECT AVG((score - ?) * (score - ?)) FROM scores WHERE teacher = ?", (mean, mean, teacher)
        ).fetchone()[0]
        return fit(method, Spread(low=low, high=high, mean=mean, deviation=math.sqrt(variance), pairs=pairs))

    def _text(self, kind: str, key: str) -> tuple[str | None] | None:
        row: tuple[str | None] | None = self._db.execute(
            "SELECT text FROM texts WHERE kind = ? AND id = ?", (kind, key)
        ).fetchone()
        return row

    def _add_text(self, kind: str, item: Item, place: str) -> None:
        known = self._text(kind, item.id)
        if known is None:
            self._db.execute("INSERT INTO texts VALUES (?, ?, ?)", (kind, item.id, item.text))
        elif known[0] is None and item.text is not None:
            self._db.execute("UPDATE texts SET text = ? WHERE kind = ? AND id = ?", (item.text, kind, item.id))
        elif item.text is not None and known[0] != item.text:
            raise UserError(f"{place}: {kind} {item.id!r} had another text before: {(known[0] or '')[:40]!r}")


def _difference(known: Teacher, now: Teacher) -> str:
    if known.gives != now.gives:
        return f"gave {known.gives}, now {now.gives}"
    keys = [k for k in {**known.provenance, **now.provenance} if known.provenance.get(k) != now.provenance.get(k)]
    return "; ".join(f"{k}: {known.provenance.get(k)!r}, now {now.provenance.get(k)!r}" for k in keys)


def _open(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path)
    try:
        db.executescript("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;")
        found = tuple(db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version"))
        if found == (0, 0) and not db.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchone():
            stamp = f"PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {LAYOUT};"
            db.executescript(f"BEGIN; {_TABLES} {_APPEND_ONLY} {stamp} COMMIT;")
        elif found != (APPLICATION, LAYOUT):
            raise UserError(f"score store {path}: expected layout {LAYOUT} of a score store, got another database")
        db.executescript(_WANTED)
    except BaseException:
        db.close()
        raise
    return db
