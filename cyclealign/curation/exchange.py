"""Sets of demonstrations from and to the formats that other tools have."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from cyclealign.curation.build import balanced, from_lists, from_pairs
from cyclealign.cycle.export import preference_rows
from cyclealign.files.atomic import write_atomic
from cyclealign.files.columns import first_there
from cyclealign.files.labelled import load_labelled
from cyclealign.files.labels import LISTS
from cyclealign.files.prompts import load_prompts
from cyclealign.files.rows import data_files, rows
from cyclealign.judge.demonstration_files import load_demonstrations
from cyclealign.types import Candidate, CandidateSet, Demonstration, Ranking, UserError


def imported(spec: str, *, limit: int, seed: int) -> list[Demonstration]:
    """Demonstrations from a demonstrations file (checked), or from labelled lists or pairs, the best reply's number
    balanced.

    Raises UserError where the data holds none of them.
    """
    _, first = next(rows(spec), ("", {}))
    files = data_files(spec)
    if "order" in first and files:
        return [d for file in files for d in load_demonstrations(file)][:limit]
    lists = first_there(first, LISTS) is not None
    found = (from_lists(load_labelled(spec)) if lists else from_pairs(load_prompts(spec)))[:limit]
    if not found:
        raise UserError(f"{spec}: holds neither demonstrations (messages, responses, order) nor labelled pairs")
    return balanced(found, seed=seed)


def write_preferences(path: Path, demos: Sequence[Demonstration]) -> int:
    """TRL's conversational preference rows, best over worst of each demonstration; returns how many."""
    found = []
    for demo in demos:
        candidates = tuple(Candidate(str(i), text) for i, text in enumerate(demo.responses))
        ranking = Ranking.from_order(demo.prompt.id, [str(i) for i in demo.order])
        found += list(preference_rows(CandidateSet(demo.prompt, candidates), ranking, "best_worst"))
    write_atomic(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found))
    return len(found)
