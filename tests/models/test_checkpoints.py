"""A Trainer's checkpoint taken apart and carried over: files alone, no model."""

from __future__ import annotations

from pathlib import Path

import pytest

from cyclealign.models.checkpoints import carry_over, publish, put_in_place, written_aside

ADAPTER = {"adapter_config.json", "adapter_model.safetensors"}
WHOLE = {"config.json", "generation_config.json", "model-00001-of-00002.safetensors", "model.safetensors.index.json"}
STATE = {"optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"}
LEFT_OUT = {"README.md", "training_args.bin"}


class Words:
    """A tokenizer as far as a checkpoint needs one."""

    def save_pretrained(self, folder: Path) -> None:
        (folder / "tokenizer.json").write_text("words")


def finished(out: Path, weights: set[str]) -> Path:
    """What the Trainer leaves of one fit; each file holds its own name."""
    folder = out / ".fit" / "checkpoint-3"
    folder.mkdir(parents=True)
    for name in weights | STATE | LEFT_OUT:
        (folder / name).write_text(name)
    return folder


def names(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir()}


@pytest.mark.parametrize(("weights", "place"), [(ADAPTER, "adapter"), (WHOLE, "model")])
def test_a_checkpoint_becomes_weights_and_state(weights: set[str], place: str, tmp_path: Path) -> None:
    folder = finished(tmp_path, weights)
    publish(folder, tmp_path, tokenizer=Words() if place == "model" else None)
    assert names(tmp_path / place) == weights | ({"tokenizer.json"} if place == "model" else set())
    assert names(tmp_path / "checkpoint") == STATE
    assert names(tmp_path) == {".fit", place, "checkpoint"}
    assert not folder.exists()
    assert all((tmp_path / place / n).read_text() == n for n in weights)


def test_what_a_killed_attempt_left_is_replaced(tmp_path: Path) -> None:
    for place in ("adapter", "checkpoint"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "stale.safetensors").write_text("of before")
    publish(finished(tmp_path, ADAPTER), tmp_path)
    assert names(tmp_path / "adapter") == ADAPTER
    assert names(tmp_path / "checkpoint") == STATE


def replaced(directory: Path, words: str, error: BaseException | None = None) -> None:
    with written_aside(directory) as aside:
        aside.mkdir()
        (aside / "weights").write_text(words)
        if error is not None:
            raise error


def test_of_what_fails_nothing_is_left_aside_and_what_was_there_stays(tmp_path: Path) -> None:
    replaced(tmp_path / "adapter", "whole")
    with pytest.raises(OSError, match="full"):
        replaced(tmp_path / "adapter", "half", OSError("the disk is full"))
    assert names(tmp_path) == {"adapter"}
    assert (tmp_path / "adapter" / "weights").read_text() == "whole"


def test_carried_over_are_copies_of_all_that_is_there(tmp_path: Path) -> None:
    start, out = tmp_path / "0", tmp_path / "1"
    publish(finished(start, ADAPTER), start)
    (start / "train_log.jsonl").write_text("its own")
    carry_over(start, out)
    carry_over(start, out)  # again, after a kill between copy and log
    assert names(out) == {"adapter", "checkpoint"}
    for part in ("adapter", "checkpoint"):
        assert {p.name: p.read_text() for p in (out / part).iterdir()} == {n: n for n in names(start / part)}


def test_a_directory_is_put_in_place_whole(tmp_path: Path) -> None:
    for name, text in (("aside", "new"), ("deep/place", "old")):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / text).write_text(text)
    put_in_place(tmp_path / "aside", tmp_path / "deep" / "place")
    assert names(tmp_path / "deep" / "place") == {"new"}
    assert not (tmp_path / "aside").exists()
