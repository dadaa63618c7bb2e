"""The field's formats of teacher scores by name: readers, writers, detection.

| name | file |
|---|---|
| margin_mse | TSV: pos_score, neg_score, query id, positive's id, negative's id |
| margin_mse_text | the same with texts (matchmaker's distillation format) |
| triples | TSV: query, positive, negative, unscored |
| rerank | TSV: query id, document id, query, document, unscored (matchmaker's) |
| trec | a TREC run |
| bge | JSONL: query, pos, neg, pos_scores, neg_scores |
| rankllm | JSON(L): query, candidates; an order only |
| ntuples | JSONL or Parquet: query, documents, scores (sentence-transformers') |
| lighton | a directory: train, queries, documents (PyLate's) |
| sets | JSONL of candidate sets, unscored (``cyclealign rank``'s); queries keep their messages |
| dialogues | JSONL of contexts with a response or levels of them, unscored (``cyclealign.files.dialogues``); the same |
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from cyclealign.files.dialogues import RATINGS
from cyclealign.files.foreign import lines
from cyclealign.files.rows import rows
from cyclealign.files.trec import ranked
from cyclealign.scores import jsonl_formats as jsonl
from cyclealign.scores import tsv_formats as tsv
from cyclealign.scores.ntuples import read_ntuples
from cyclealign.scores.score_list import ScoreList
from cyclealign.scores.sidecar import Gives
from cyclealign.types import UserError

READERS: dict[str, Callable[[Path], Iterator[ScoreList]]] = {
    "margin_mse": tsv.read_margin_mse,
    "margin_mse_text": tsv.read_margin_mse_text,
    "triples": tsv.read_triples,
    "rerank": tsv.read_rerank,
    "trec": tsv.read_trec,
    "bge": jsonl.read_bge,
    "rankllm": jsonl.read_rankllm,
    "ntuples": read_ntuples,
    "lighton": jsonl.read_lighton,
    "sets": jsonl.read_sets,
    "dialogues": jsonl.read_dialogues,
}
_LINES: dict[str, Callable[[Iterable[ScoreList]], Iterator[str]]] = {
    "margin_mse": lambda lists: tsv.margin_mse_lines(lists, texts=False),
    "margin_mse_text": lambda lists: tsv.margin_mse_lines(lists, texts=True),
    "trec": tsv.trec_lines,
    "bge": jsonl.bge_lines,
    "rankllm": jsonl.rankllm_lines,
    "ntuples": jsonl.ntuple_lines,
}
WRITERS = (*_LINES, "lighton")
ORDER_ONLY = ("trec", "rankllm")  # formats that say no more than an order does


def detect(path: Path, *, ids: bool) -> str:
    """The format of a file from its first line; ``ids``: texts come from elsewhere.

    Raises:
        UserError: nothing there, or a file of no known kind.
    """
    if path.is_dir():
        return "lighton"
    if not path.exists():
        raise UserError(f"{path}: no such file")
    if path.name.removesuffix(".gz").endswith((".jsonl", ".json", ".parquet")):
        return _of_row(path)
    _, first = next(lines(path, texts=True), ("", ""))
    columns = first.split("\t")
    by_tabs = {4: "rerank", 5: "margin_mse" if ids else "margin_mse_text", 7: "margin_mse_text"}
    if len(columns) == 3 and not _is_number(columns[2]):
        return "triples"
    if len(columns) in by_tabs:
        return by_tabs[len(columns)]
    if len(first.split()) in (3, 6):
        return "trec"
    raise UserError(f"{path}: no known format; name it by --format ({', '.join(READERS)})")


def read_as(path: Path, format: str) -> Gives:
    """What the scores of a file are, where nothing beside it says so: RankLLM's and MS MARCO's are ranks, an order."""
    return "order" if format == "rankllm" or (format == "trec" and ranked(path)) else "magnitude"


def _is_number(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True


def _of_row(path: Path) -> str:
    _, row = next(rows(str(path)), ("", {}))
    if "pos" in row and "neg" in row:
        return "bge"
    if isinstance(row.get("query"), dict):
        return "rankllm"
    rated = "response" in row and bool({"messages", *RATINGS} & row.keys())
    if rated or "levels" in row or isinstance(row.get("context"), list):
        return "dialogues"
    return "sets" if {"candidates", "responses"} & row.keys() else "ntuples"


def write(format: str, path: Path, lists: Iterable[ScoreList]) -> None:
    """Write a score file whole or not at all.

    Raises:
        UserError: it is there already, or the format cannot hold a list.
    """
    if path.exists():
        raise UserError(f"{path}: is there already; remove it, or write elsewhere")
    aside = path.with_name(f".{path.name}.{os.getpid()}")  # no other process's, and nobody else's, to remove
    try:
        if format == "lighton":
            jsonl.write_lighton(aside, lists)
        else:
            with aside.open("w", encoding="utf-8", newline="") as file:
                file.writelines(_LINES[format](lists))
    except BaseException:
        shutil.rmtree(aside) if aside.is_dir() else aside.unlink(missing_ok=True)
        raise
    aside.rename(path)
