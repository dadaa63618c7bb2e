"""A file is there whole, or as it was."""

from __future__ import annotations

from pathlib import Path

import pytest

from cyclealign.files.atomic import write_atomic


@pytest.mark.parametrize("durable", [True, False])
def test_text_is_written_as_it_stands_and_nothing_is_left_aside(tmp_path: Path, durable: bool) -> None:
    path = tmp_path / "new" / "file.txt"
    for text in ("one\r\ntwo\n", "três  \n"):
        write_atomic(path, text, durable=durable)
        assert path.read_bytes() == text.encode()
    assert [p.name for p in path.parent.iterdir()] == ["file.txt"]


def test_text_that_cannot_be_written_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    write_atomic(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomic(path, "new \ud800")
    assert path.read_text() == "old"
