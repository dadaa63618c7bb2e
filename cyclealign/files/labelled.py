"""Labelled pairs and graded lists from the files that people have, as ``cyclealign.files.labels`` reads their rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from cyclealign.files.columns import Columns, prompt_of
from cyclealign.files.labels import labelled_row
from cyclealign.files.odd_rows import OddRow, Skipped, UnusableRow
from cyclealign.files.packaged import resource
from cyclealign.files.rows import rows
from cyclealign.types import CandidateSet, Ranking, UserError

JUDGE_LISTS = "builtin:judge-lists"  # the packaged lists by which a judge is measured


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledItem:
    """A candidate set and what people think of it. ``grades``: one for each candidate id, higher is better.

    ``gives``: whether the grades say by how much. ``place``: ``file:line``, for errors.
    """

    id: str
    subset: str
    set: CandidateSet
    grades: Mapping[str, float]
    gives: Literal["order", "magnitude"] = "order"
    place: str = ""

    @property
    def decided(self) -> bool:
        """Whether the labels prefer anything at all."""
        return len(set(self.grades.values())) > 1

    @property
    def gold(self) -> Ranking:
        return Ranking.from_scores(self.set.prompt.id, self.grades)


def load_labelled(spec: str, *, subset: str | None = None, limit: int | None = None) -> list[LabelledItem]:
    """Labelled items in file order, at most ``limit``; ``subset``: only those whose subset begins with it.

    ``spec``: path, glob, directory, hub id or ``builtin:judge-lists``. Rows that cannot be judged are skipped and
    counted, as ``cyclealign.files.odd_rows`` says.

    Raises:
        UserError: nothing there, or rows of no known format; names file and line.
    """
    return list(labelled_items(spec, split="test", subset=subset, limit=limit))


def labelled_items(
    spec: str, *, split: str, subset: str | None = None, limit: int | None = None
) -> Iterator[LabelledItem]:
    """The same one by one, as they are read; ``split``: of a hub dataset."""
    found, skipped = 0, Skipped(spec)

    def read(row: Columns, place: str) -> LabelledItem:
        return _item(row, place, str(found if row.get("id") is None else row["id"]), _subset(row))

    wanted = ((place, row) for place, row in rows(_file(spec), split=split) if _subset(row).startswith(subset or ""))
    for _, item in skipped.usable(wanted, read):
        found += 1
        yield item
        if found == limit:
            break
    skipped.say(found=found)
    if not found:
        of_subset = f" of subset {subset}" if subset else ""
        raise UserError(f"data: {spec} holds no labelled item{of_subset} that can be judged{skipped.why}")


def _subset(row: Columns) -> str:
    return str(next((row[k] for k in ("subset", "source") if row.get(k) not in (None, "")), "all"))


def _file(spec: str) -> str:
    if spec == JUDGE_LISTS:
        return str(resource("prompts", "judge_lists.jsonl"))
    if spec.startswith("builtin:"):
        raise UserError(f"data: expected {JUDGE_LISTS}, got {spec!r}")
    return spec


def _item(row: Columns, place: str, identity: str, subset: str) -> LabelledItem:
    """A row as an item; OddRow and UnusableRow where it is none, also where nobody could judge its replies."""
    read = labelled_row(row, place)
    if read is None:
        raise OddRow(
            f"{place}: expected labelled columns (chosen and rejected; output_1, output_2 and label; response1,"
            " response2 and annotators; instruction and completions; or candidates with grades); got"
            f" {', '.join(row) or 'none'}"
        )
    candidates = tuple(candidate for candidate, _ in read.replies)
    if len(candidates) < 2:
        raise UnusableRow("have fewer than two responses")
    if not all(c.text.strip() for c in candidates):
        raise UnusableRow("have an empty reply")
    if len({c.text for c in candidates}) < len(candidates):
        raise UnusableRow("have equal responses")
    prompt = prompt_of(row, read.messages, place)
    grades = {candidate.id: grade for candidate, grade in read.replies}
    item = CandidateSet(prompt, candidates)
    return LabelledItem(id=identity, subset=subset, set=item, grades=grades, gives=read.gives, place=place)


def by_subset(items: list[LabelledItem]) -> Iterator[tuple[str, list[LabelledItem]]]:
    """The items of each subset, in order of name; nothing where there is only one."""
    names = sorted({i.subset for i in items})
    if len(names) > 1:
        yield from ((name, [i for i in items if i.subset == name]) for name in names)
