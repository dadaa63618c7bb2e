"""Rows of data files and hub datasets, each with the place that errors name.

JSONL or one JSON array (compressed by gzip, too) and Parquet from a path, a glob or a directory; anything else is a hub
id, with a split of its own after ``@`` where wanted (``Anthropic/hh-rlhf@test``).
"""

from __future__ import annotations

import glob
from collections.abc import Iterator
from pathlib import Path

from cyclealign.files.foreign import is_parquet
from cyclealign.files.foreign_json import Row, json_rows
from cyclealign.types import UserError

BATCH = 1024  # rows of a Parquet file that are held at once
SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".parquet")


def data_files(spec: str) -> list[Path] | None:
    """The files that a path, directory or glob names, in order of name; None where ``spec`` can only be a hub id.

    Raises:
        UserError: it is a path or a pattern that names no file.
    """
    path = Path(spec).expanduser()
    if path.is_dir():
        found = [p for p in sorted(path.iterdir()) if p.name.endswith(SUFFIXES)]
        if not found:
            raise UserError(f"data: directory {spec} holds no {', '.join(SUFFIXES)} file")
        return found
    if path.exists():
        return [path]
    if glob.has_magic(spec):
        found = sorted(Path(p) for p in glob.glob(str(path), recursive=True) if Path(p).is_file())
        if not found:
            raise UserError(f"data: no file matches {spec}")
        return found
    if spec.startswith((".", "/", "~")) or spec.endswith((*SUFFIXES, ".gz", ".txt", ".csv")) or spec.count("/") > 1:
        raise UserError(f"data: no file {spec} (relative paths are relative to {Path.cwd()})")
    return None


def rows(spec: str, *, split: str = "train", parquet: bool = False) -> Iterator[Row]:
    """Rows of everything that ``spec`` names, as (place, row): ``file.jsonl:12``.

    Args:
        split: of a hub dataset.
        parquet: read files as Parquet whatever their names.

    Raises:
        UserError: a file cannot be read or decoded, or holds what is no JSON object; the place is named.
    """
    files = data_files(spec)
    if files is None:
        yield from _hub_rows(spec, split)
        return
    for path in files:
        named = parquet or path.name.endswith(".parquet")
        yield from _parquet_rows(path) if named or is_parquet(path) else json_rows(path)


def _parquet_rows(path: Path) -> Iterator[Row]:
    import pyarrow.parquet
    from pyarrow import ArrowException

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=BATCH):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}:row {number}", row
    except (OSError, ArrowException) as error:
        raise UserError(f"{path}: cannot be read as Parquet: {str(error).splitlines()[0]}") from error
    except (ValueError, OverflowError) as error:  # texts that are no UTF-8, dates that Python has not
        raise UserError(f"{path}: cannot be read in the {BATCH} rows after row {number}: {error}") from error


def _hub_rows(spec: str, split: str) -> Iterator[Row]:
    """Rows of a hub dataset; missing, gated, offline and a wrong split are all the user's to mend."""
    name, _, own_split = spec.partition("@")
    split = own_split or split
    import datasets
    from huggingface_hub.errors import HfHubHTTPError

    try:
        found = datasets.load_dataset(name, split=split)
    except (OSError, ValueError, RuntimeError, HfHubHTTPError, datasets.exceptions.DatasetsError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"data: {name!r} is no file here, and as a hub dataset (split {split}): {first}") from error
    for number, row in enumerate(found, start=1):
        yield f"{name}[{split}]:row {number}", dict(row)
