"""Score files of JSON objects and tables: BGE's, RankLLM's, sentence-transformers' n-tuples, PyLate's three tables."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cyclealign.files.dialogues import context_of, levels_of
from cyclealign.files.prompts import load_candidate_sets
from cyclealign.files.rows import rows
from cyclealign.scores.score_list import Item, ScoreList, number, string_list, text, tsv_rows
from cyclealign.types import Prompt, UserError, chat_as_text

DOCUMENT_TEXT = ("text", "contents", "content", "body", "segment", "passage")  # as collections name it
TEXT = (*DOCUMENT_TEXT, "document", "query", "question", "claim")


def read_bge(path: Path) -> Iterator[ScoreList]:
    """query, pos, neg; pos_scores and neg_scores where it is scored."""
    for place, row in rows(str(path)):
        sides = [string_list(row.get(side, []), place, side) for side in ("pos", "neg")]
        found = [row.get(f"{side}_scores") for side in ("pos", "neg")]
        scores = None
        if any(found):
            scores = tuple(
                s for n, side in enumerate(("pos", "neg")) for s in _side_scores(found[n], sides[n], place, side)
            )
        yield ScoreList(
            query=Item.of_text(text(row.get("query"), place, "query")),
            documents=tuple(Item.of_text(text(d, place, "pos/neg")) for side in sides for d in side),
            scores=scores,
            positives=len(sides[0]),
            place=place,
        )


def _side_scores(found: Any, documents: Sequence[Any], place: str, side: str) -> list[float]:
    """The scores of one side. Each side is counted: a score too many here must not make up for one lost there."""
    scores = [number(s, place) for s in string_list([] if found is None else found, place, f"{side}_scores")]
    if len(scores) != len(documents):
        raise UserError(
            f"{place}: {side}_scores: expected a score for each of {len(documents)} documents, got {len(scores)}"
        )
    return scores


def read_rankllm(path: Path) -> Iterator[ScoreList]:
    """query {text, qid} and candidates [{docid, score, doc}].

    After re-ranking the scores stand by position, they are ranks in disguise: only the order is read.
    """
    for place, row in rows(str(path)):
        query, candidates = row.get("query"), row.get("candidates")
        if not isinstance(query, dict) or not isinstance(candidates, list):
            raise UserError(f"{place}: expected query {{text, qid}} and candidates, got {', '.join(row)}")
        documents = []
        for candidate in candidates:
            if not isinstance(candidate, dict) or candidate.get("docid") is None:
                raise UserError(f"{place}: candidates: expected objects with docid")
            documents.append(Item(str(candidate["docid"]), _document_text(candidate.get("doc"), place)))
        _check_once([d.id for d in documents], place, "candidates")
        yield ScoreList(
            query=_query(query, place),
            documents=tuple(documents),
            scores=tuple(float(n) for n in range(len(documents) - 1, -1, -1)),
            place=place,
        )


def read_lighton(path: Path) -> Iterator[ScoreList]:
    """A directory with tables train (query_id, document_ids, scores), queries and documents (id and text)."""
    texts = {name: texts_by_id(_table(path, name)) for name in ("queries", "documents")}
    for place, row in rows(str(_table(path, "train"))):
        ids = [str(i) for i in string_list(row.get("document_ids"), place, "document_ids")]
        scores = row.get("scores")
        query = str(row.get("query_id"))
        _check_once(ids, place, "document_ids")
        missing = [i for i in ids if i not in texts["documents"]] or ([] if query in texts["queries"] else [query])
        if missing:
            raise UserError(f"{place}: {missing[0]} is in none of the tables")
        yield ScoreList(
            query=Item(query, texts["queries"][query]),
            documents=tuple(Item(i, texts["documents"][i]) for i in ids),
            scores=None if scores is None else tuple(number(s, place) for s in string_list(scores, place, "scores")),
            place=place,
        )


def read_sets(path: Path) -> Iterator[ScoreList]:
    """Candidate sets as ``cyclealign rank`` takes them: the prompt's id is the query's."""
    for item in load_candidate_sets(path):
        yield ScoreList(
            query=Item(item.prompt.id, chat_as_text(item.prompt.messages)),
            documents=tuple(Item.of_text(c.text) for c in item.candidates),
            place=f"{path} ({item.prompt.id})",
            chat=item.prompt.messages,
            names=item.ids,
        )


def read_dialogues(path: Path) -> Iterator[ScoreList]:
    """Contexts with one ``response`` or with levels of them, as ``cyclealign.files.dialogues`` reads them; unscored.

    The query's id is that of the context as a prompt.
    """
    for place, row in rows(str(path)):
        prompt = Prompt(context_of(row, place))
        texts = [row["response"]] if "response" in row else [t for level in levels_of(row, place) for t in level]
        documents = tuple(Item.of_text(text(t, place, "response")) for t in texts)
        query = Item(prompt.id, chat_as_text(prompt.messages))
        yield ScoreList(query=query, documents=documents, place=place, chat=prompt.messages)


def read_texts(path: Path) -> Iterator[tuple[str, str]]:
    """(id, text) of a collection or of queries: tab-separated, JSONL or Parquet.

    The id is the column ``_id`` or ``id``, else the first that ends in ``_id``. The text is the column ``text``, else
    the one of ``TEXT``, else the one other that holds text; a title is put before it.

    Raises:
        UserError: names the line and its columns, where the id is missing or the text cannot be told.
    """
    if ".tsv" in path.suffixes:
        yield from ((fields[0], fields[1]) for _, fields in tsv_rows(path, (2,)))
        return
    for place, row in rows(str(path)):
        # An id that is null names nothing: "None" would be one id for all such rows.
        ids = ("_id", "id", *(c for c in row if c.endswith("_id")))  # source_id beside an id is no id of the text
        key = next((c for c in ids if row.get(c) is not None), None)
        body = _text_column({c: v for c, v in row.items() if c not in (*ids, "title")})
        if key is None or body is None:
            raise UserError(
                f"{place}: expected an id and a text, of several one named {', '.join(TEXT[:-1])} or {TEXT[-1]};"
                f" got the columns {', '.join(row)}"
            )
        title = row.get("title")
        yield str(row[key]), f"{title}. {row[body]}" if title else row[body]


def texts_by_id(path: Path) -> dict[str, str]:
    """The same as one mapping. UserError where an id has two texts."""
    found: dict[str, str] = {}
    for key, body in read_texts(path):
        if found.setdefault(key, body) != body:
            raise UserError(f"{path}: the id {key[:40]!r} has two texts, {found[key][:40]!r} and {body[:40]!r}")
    return found


def bge_lines(lists: Iterable[ScoreList]) -> Iterator[str]:
    """One JSON object a list."""
    for item in lists:
        texts, scores, cut = _texts(item), list(item.scores or ()), item.positives
        row = {"query": texts[0], "pos": texts[1 : cut + 1], "neg": texts[cut + 1 :]}
        yield _json({**row, "pos_scores": scores[:cut], "neg_scores": scores[cut:]})


def ntuple_lines(lists: Iterable[ScoreList]) -> Iterator[str]:
    """query, documents, scores: the labelled-list form, which may be ragged."""
    for item in lists:
        query, *documents = _texts(item)
        yield _json({"query": query, "documents": documents, "scores": list(item.scores or ())})


def rankllm_lines(lists: Iterable[ScoreList]) -> Iterator[str]:
    """query and candidates, best first."""
    for item in lists:
        scored = sorted(zip(item.scores or (), item.documents, strict=True), key=lambda pair: -pair[0])
        candidates = [{"docid": d.id, "score": s, "doc": {"text": d.text}} for s, d in scored]
        yield _json({"query": {"text": item.query.text, "qid": item.query.id}, "candidates": candidates})


def write_lighton(path: Path, lists: Iterable[ScoreList]) -> None:
    """The three tables as JSONL in a new directory."""
    path.mkdir(parents=True)
    seen: set[tuple[str, str]] = set()
    with (
        (path / "train.jsonl").open("w", encoding="utf-8") as train,
        (path / "queries.jsonl").open("w", encoding="utf-8") as queries,
        (path / "documents.jsonl").open("w", encoding="utf-8") as documents,
    ):
        for item in lists:
            _texts(item)
            ids = [d.id for d in item.documents]
            train.write(_json({"query_id": item.query.id, "document_ids": ids, "scores": list(item.scores or ())}))
            for file, kind, entry in (
                (queries, "query", item.query),
                *((documents, "document", d) for d in item.documents),
            ):
                if (kind, entry.id) not in seen:
                    seen.add((kind, entry.id))
                    file.write(_json({f"{kind}_id": entry.id, "text": entry.text}))


def _texts(item: ScoreList) -> list[str]:
    found = [i.text for i in (item.query, *item.documents) if i.text is not None]
    if len(found) != 1 + len(item.documents):
        raise UserError(
            f"{item.place}: a text is missing; give --queries and --documents, or write ids: margin_mse, trec"
        )
    return found


def _json(row: Mapping[str, object]) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def _check_once(ids: Sequence[str], place: str, column: str) -> None:
    """UserError where a list names a document twice: it would have two places in one order."""
    if len(set(ids)) < len(ids):
        twice = next(i for n, i in enumerate(ids) if i in ids[:n])
        raise UserError(f"{place}: {column}: document {twice[:40]!r} stands twice; a list names it once")


def _text_column(row: Mapping[str, Any]) -> str | None:
    """None where there is no text, or several that could be meant."""
    # A named column that is null in this row is a text that is missing: another one must not stand in for it.
    named = [c for c in TEXT if c in row and (row[c] is None or isinstance(row[c], str))]
    found = ["text"] if "text" in named else named or [c for c in row if isinstance(row[c], str)]
    return found[0] if len(found) == 1 and row[found[0]] is not None else None


def _query(query: Mapping[str, Any], place: str) -> Item:
    """RankLLM's query; its id is its text's where it has none."""
    said = query.get("text")
    if query.get("qid") not in (None, ""):
        return Item(str(query["qid"]), None if said is None else text(said, place, "query: text"))
    return Item.of_text(text(said, place, "query: text"))


def _document_text(doc: Any, place: str) -> str | None:
    if isinstance(doc, str) or doc is None:
        return doc
    if not isinstance(doc, dict):
        raise UserError(f"{place}: candidates: doc: expected text or an object with one, got {type(doc).__name__}")
    return next((doc[key] for key in DOCUMENT_TEXT if isinstance(doc.get(key), str)), None)


def _table(path: Path, name: str) -> Path:
    found = [p for p in sorted(path.glob(f"{name}*")) if p.name.endswith((".jsonl", ".jsonl.gz", ".parquet", ".tsv"))]
    if len(found) != 1:
        raise UserError(f"{path}: expected one table {name} (.jsonl, .parquet or .tsv), found {len(found)}")
    return found[0]
