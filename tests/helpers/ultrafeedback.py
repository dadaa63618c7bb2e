"""Rows as UltraFeedback has them, from real lists of eight replies that a judge scored."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from cyclealign.files.jsonl import write_jsonl

LONGEST = 360  # bytes: of what has no spaces 24 words may be thousands


def ultrafeedback_rows(shared_data: Path, words: int) -> Iterator[dict[str, Any]]:
    """The lists of alpacaeval_nc whose eight replies all have a score, and differ in their first ``words`` words; the
    first list of each prompt, as a cycle asks for no prompt twice, and none with a reply of more than LONGEST bytes."""
    seen: set[str] = set()
    with gzip.open(shared_data / "alpacaeval_nc" / "rankings.jsonl.gz", "rt", encoding="utf-8") as file:
        for row in map(json.loads, file):
            replies = [
                {"response": " ".join(c["output"].split()[:words]), "overall_score": c["pref_vs_gpt4turbo"]}
                for c in row["candidates"]
                if c["pref_vs_gpt4turbo"] is not None
            ]
            texts = {r["response"] for r in replies}
            short = all(len(text.encode()) <= LONGEST for text in texts)
            if short and row["instruction"] not in seen and len(texts - {""}) == 8:
                seen.add(row["instruction"])
                yield {"source": row["dataset"], "instruction": row["instruction"], "completions": replies}


def write_ultrafeedback(path: Path, shared_data: Path, count: int, *, words: int = 24) -> Path:
    rows = list(islice(ultrafeedback_rows(shared_data, words), count))
    assert len(rows) == count
    write_jsonl(path, rows)
    return path
