"""What a record names is on the disk before the record is: the order of the system's calls."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from fakes import config_in, make_cycle

from cyclealign.files.atomic import flush, flush_tree, write_atomic
from cyclealign.models.checkpoints import put_in_place

Events = list[tuple[str, Path]]


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> Events:
    """Flushes and renames in order, each with the path that it is of."""
    found: Events = []
    flushed, replaced, renamed = os.fsync, os.replace, os.rename

    def sync(handle: int) -> None:
        found.append(("flush", Path(os.readlink(f"/proc/self/fd/{handle}"))))
        flushed(handle)

    def noted(call: Callable[..., None]) -> Callable[..., None]:
        def work(source: str, target: str, **options: int) -> None:
            found.append(("rename", Path(target)))
            call(source, target, **options)

        return work

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "replace", noted(replaced))
    monkeypatch.setattr(os, "rename", noted(renamed))
    return found


def test_a_record_is_on_the_disk_with_its_name(tmp_path: Path, events: Events) -> None:
    write_atomic(tmp_path / "a.json", "{}")
    aside = events[0][1]
    assert aside.name.startswith(".a.json.")
    assert events == [("flush", aside), ("rename", tmp_path / "a.json"), ("flush", tmp_path)]
    events.clear()
    write_atomic(tmp_path / "b.json", "{}", durable=False)
    assert events == [("rename", tmp_path / "b.json")]


def test_a_tree_is_flushed_from_its_leaves(tmp_path: Path, events: Events) -> None:
    tree = tmp_path / "tree"
    (tree / "below").mkdir(parents=True)
    for name in ("b", "a", "below/c"):
        (tree / name).write_text("x")
    flush_tree(tree)
    assert [p for _, p in events] == [tree / "below/c", tree / "below", tree / "a", tree / "b", tree, tmp_path]


def test_weights_are_on_the_disk_before_they_have_their_name(tmp_path: Path, events: Events) -> None:
    aside, place = tmp_path / ".weights", tmp_path / "run" / "adapter"
    aside.mkdir()
    (aside / "adapter_model.safetensors").write_bytes(b"w")
    put_in_place(aside, place)
    names = [(what, str(p.relative_to(tmp_path))) for what, p in events]
    assert names == [
        ("flush", ".weights/adapter_model.safetensors"),
        ("flush", ".weights"),
        ("flush", "."),
        ("rename", "run/adapter"),
        ("flush", "run"),
    ]


def test_what_a_run_kept_is_on_the_disk_before_its_record(tmp_path: Path, events: Events) -> None:
    config = config_in(tmp_path)
    make_cycle(config).run()
    best = config.run_dir / "best"
    files = sorted(p for p in best.rglob("*") if p.is_file() and p.name != "kept.json")
    assert files
    at = events.index(("rename", best / "kept.json"))
    last = {path: n for n, (what, path) in enumerate(events[:at]) if what == "flush"}
    after = events[at + 1 :]
    order = [last[p] for p in (*files, files[0].parent, best, config.run_dir)]
    assert order[-3:] == sorted(order[-3:])
    assert max(order[:-3]) < order[-3]
    assert after[0] == ("flush", best)


@pytest.mark.parametrize(("code", "raises"), [(errno.EINVAL, False), (errno.EIO, True)])
def test_a_file_system_without_a_flush_of_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, raises: bool
) -> None:
    def fails(_: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fails)
    if raises:
        with pytest.raises(OSError, match="Input/output"):
            flush(tmp_path)
    else:
        flush(tmp_path)
    (tmp_path / "f").write_text("x")
    with pytest.raises(OSError, match=os.strerror(code)):
        flush(tmp_path / "f")
