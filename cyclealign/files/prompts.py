"""Prompts, labelled pairs and candidate sets from the formats that people have.

``cyclealign.files.columns`` says which column is the prompt, ``cyclealign.files.labels`` which are replies and labels;
a demanded ``data.format`` only narrows what is accepted.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import replace
from pathlib import Path

from cyclealign.files.columns import Columns, asked, exchange, first_there, prompt_of
from cyclealign.files.foreign_json import json_rows
from cyclealign.files.labels import has_labels, labelled_row
from cyclealign.files.odd_rows import OddRow, Skipped
from cyclealign.files.packaged import resource
from cyclealign.files.rows import rows
from cyclealign.files.seen import Seen
from cyclealign.files.thinking import answered
from cyclealign.types import Candidate, CandidateSet, Prompt, UserError

OPENERS = ("builtin:openers-train", "builtin:openers-eval", "builtin:openers-report")


def load_prompts(
    spec: str, *, format: str = "auto", split: str = "train", limit: int | None = None, answers: str | None = None
) -> list[Prompt]:
    """The same as ``distinct_prompts``, all at once."""
    return list(distinct_prompts(spec, format=format, split=split, limit=limit, answers=answers))


def distinct_prompts(
    spec: str, *, format: str = "auto", split: str = "train", limit: int | None = None, answers: str | None = None
) -> Generator[Prompt]:
    """Distinct prompts in file order, at most ``limit``, one by one; whoever wants no more closes it.

    Rows that cannot be used are skipped and counted, as ``cyclealign.files.odd_rows`` says.

    Args:
        spec: path, directory, glob, hub id, or ``builtin:openers-train`` / ``-eval`` / ``-report``.
        format: ``auto``, ``hh_rlhf``, ``trl``, ``jsonl`` or ``parquet`` (files read as Parquet whatever their names).
        answers: a column that holds a reply of the black box's own, in some of the rows at least.

    Raises:
        UserError: nothing there, or rows that are no prompts; names file and line. No row with such a reply.
    """
    seen, skipped, found, answered = Seen(), Skipped(spec), 0, False

    def read(row: Columns, place: str) -> Prompt:
        return replace(parse_row(row, place, format), answer=_answer(row, answers, place))

    try:
        given = rows(_builtin(spec), split=split, parquet=format == "parquet")
        for place, prompt in skipped.usable(given, read):
            if not seen.add(prompt.id):
                skipped.repeated("repeat an earlier prompt", place)
                continue
            found, answered = found + 1, answered or prompt.answer is not None
            yield prompt
            if found == limit:
                break
    except GeneratorExit:
        skipped.say(found=found)
        raise
    skipped.say(found=found)
    if not found:
        raise UserError(f"data: {spec} holds no prompt{skipped.why}")
    if answers is not None and not answered:
        raise UserError(f"black_box.answers: no prompt of {spec} has a reply in a column {answers!r}")


def _answer(row: Columns, column: str | None, place: str) -> str | None:
    """The reply in a row's column; None where it has none, or says nothing."""
    value = None if column is None else row.get(column)
    if value is not None and not isinstance(value, str):
        raise OddRow(f"{place}: {column}: expected text, got {type(value).__name__}")
    return (value or "").strip() or None


def load_candidate_sets(path: str | Path) -> list[CandidateSet]:
    """Candidate sets from JSONL: ``prompt`` or ``messages``, and ``candidates`` or ``responses``.

    Candidates are texts (their ids are then "0", "1", …) or ``{"id": …, "text": …}``; thinking in a text is set aside.

    Raises:
        UserError: names file and line.
    """
    places: dict[str, str] = {}
    sets = []
    for place, found in candidate_sets(Path(path)):
        if found.prompt.id in places:
            raise UserError(f"{place}: same prompt as {places[found.prompt.id]}; put its candidates into one line")
        places[found.prompt.id] = place
        sets.append(found)
    if not sets:
        raise UserError(f"{path}: holds no candidate set")
    return sets


def candidate_sets(file: Path) -> Iterator[tuple[str, CandidateSet]]:
    """The same one by one, each with its place; a prompt may come again."""
    if not file.is_file():
        raise UserError(f"no file {file}; expected JSONL of candidate sets")
    for place, row in json_rows(file):
        yield place, CandidateSet(prompt_of(row, asked(row, place), place), _candidates(row, place))


def parse_row(row: Columns, place: str, format: str = "auto") -> Prompt:
    """The prompt of one row; its best and its worst reply, where it has labels, become ``chosen`` and ``rejected``.

    Raises:
        OddRow: no prompt, or not a row of the demanded format.
        UnusableRow: as ``labelled_row``.
    """
    _check_format(row, place, format)
    read = labelled_row(row, place) if has_labels(row) else None
    if read is None:
        return prompt_of(row, exchange(row, place)[0], place)
    return prompt_of(row, read.messages, place, read.extremes)


def _check_format(row: Columns, place: str, format: str) -> None:
    """Which columns a row has decides how it is read; a demanded format only narrows what is accepted."""
    if format in ("auto", "parquet"):
        return
    has = {k for k, v in row.items() if v is not None}
    pair = {"chosen", "rejected"} <= has
    if pair and isinstance(row["chosen"], str) and "prompt" not in has:
        formats = {"hh_rlhf"}
    elif pair:
        formats = {"trl"}
    else:
        formats = {"trl", "jsonl"} if "prompt" in has else {"jsonl"}
    if format not in formats:
        raise UserError(
            f"{place}: not a row of data.format {format}: its columns are those of {' or '.join(sorted(formats))}"
        )


def _builtin(spec: str) -> str:
    if not spec.startswith("builtin:"):
        return spec
    if spec not in OPENERS:
        raise UserError(f"data: no {spec}; there are {', '.join(OPENERS)}")
    return str(resource("assets", f"openers/{spec.rpartition('-')[2]}.jsonl"))


def _candidates(row: Columns, place: str) -> tuple[Candidate, ...]:
    name = first_there(row, ("candidates", "responses"))
    values = row[name] if name is not None else None
    if not isinstance(values, list) or not values:
        raise UserError(f"{place}: expected candidates (or responses): a list of texts or of {{id, text}}")
    found = []
    for number, value in enumerate(values):
        record = value if isinstance(value, dict) else {"text": value}
        identity, text = record.get("id"), record.get("text")
        identity = str(number) if identity is None else identity
        if not isinstance(text, str) or not isinstance(identity, str | int):
            raise UserError(f"{place}: candidate {number}: expected text or {{id, text}}")
        thinking = record.get("thinking")
        if thinking is not None and not isinstance(thinking, str):
            raise UserError(f"{place}: candidate {number}: thinking: expected text")
        found.append(answered(Candidate(str(identity), text, thinking=thinking)))
    if len({c.id for c in found}) < len(found):
        raise UserError(f"{place}: candidate ids are not distinct")
    return tuple(found)
