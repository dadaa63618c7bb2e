"""Records are appended whole or not at all, whatever the disk does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import IO

import pytest

from cyclealign.files.atomic import write_atomic
from cyclealign.files.jsonl import Appender, read_jsonl
from cyclealign.types import RunStopped, UserError

ROWS = [{"n": n, "text": "é" * n} for n in range(4)]
WHOLE = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()
LAST = WHOLE.rindex(b"\n", 0, -1) + 1


class Small:
    """A file that takes ``room`` bytes, by at most three a write, and then none: by the count, or by an error."""

    def __init__(self, file: IO[bytes], room: int, *, raises: bool) -> None:
        self.file, self.room, self.raises = file, room, raises

    def write(self, part: memoryview) -> int:
        taken = self.file.write(part[: min(3, self.room)]) if self.room else 0
        self.room -= taken
        if not taken and self.raises:
            raise OSError(28, "No space left on device")
        return taken

    def seek(self, *where: int) -> int:
        return self.file.seek(*where)

    def truncate(self, size: int) -> int:
        return self.file.truncate(size)

    def close(self) -> None:
        self.file.close()


@pytest.mark.parametrize("raises", [True, False])
@pytest.mark.parametrize("room", [0, 1, 7, 40])
def test_short_writes_are_finished_or_undone(tmp_path: Path, room: int, raises: bool) -> None:
    path = tmp_path / "r.jsonl"
    path.write_bytes(WHOLE[:LAST])
    with Appender(path) as file:
        real = file._file
        file._file = Small(real, room, raises=raises)  # type: ignore[assignment]
        if room < len(WHOLE) - LAST:
            with pytest.raises(RunStopped, match=r"r\.jsonl: cannot be written: No space left.*on record stays"):
                file.add(ROWS[-1])
            assert path.read_bytes() == WHOLE[:LAST]
            file._file = Small(real, 1000, raises=raises)  # type: ignore[assignment]
        file.add(ROWS[-1])
    assert path.read_bytes() == WHOLE


@pytest.mark.parametrize("end", range(LAST, len(WHOLE)))
@pytest.mark.parametrize("more", [b"", b"\n", b"\0\0\0", b"\xff\n"])
def test_a_damaged_last_line_is_dropped_and_written_over(tmp_path: Path, end: int, more: bytes) -> None:
    path = tmp_path / "r.jsonl"
    damaged = WHOLE[:end] + more
    path.write_bytes(damaged)
    whole = ROWS if damaged == WHOLE else ROWS[:3]
    if not (end == LAST and not more):
        assert list(read_jsonl(path)) == whole
    with Appender(path) as file:
        file.add({"next": 1})
    assert list(read_jsonl(path)) == [*whole, {"next": 1}]


def test_a_damaged_line_before_the_last_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_bytes(WHOLE[: LAST - 3] + WHOLE[LAST:] + WHOLE)
    with pytest.raises(UserError, match=r"r\.jsonl:3: not as cyclealign wrote it"):
        list(read_jsonl(path))


def test_what_cannot_be_written_whole_leaves_nothing_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "f.json"
    write_atomic(path, "old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomic(path, "new")
    assert [p.name for p in tmp_path.iterdir()] == ["f.json"]
    assert path.read_text() == "old"


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk: the record that does not fit is undone."""
    rows = [{"prompt": f"p {n}", "candidates": ["a" * n, "b", "c" * 2 * n]} for n in range(1, 60)]
    (tmp_path / "sets.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    program = (
        "import resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "from cyclealign.cli.main import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    command = ["rank", "sets.jsonl", "--ranker", "overlap", "--out", "out.jsonl"]
    # -B: Python 3.11 leaves half of a compiled module behind where there is no room for it.
    done = subprocess.run(
        [sys.executable, "-B", "-c", program, *command], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "out.jsonl: cannot be written: File too large; what is on record stays" in done.stderr
    assert "Traceback" not in done.stderr
    text = (tmp_path / "out.jsonl").read_text()
    assert text.endswith("\n")
    assert 0 < len(list(read_jsonl(tmp_path / "out.jsonl"))) < len(rows)
