"""A power cut that took the end of ``candidates.jsonl``, and left the verdicts on it."""

from __future__ import annotations

from pathlib import Path

import pytest
from fakes import Fuse, config_in, make_cycle

from cyclealign.files.run_records import read_rankings, read_sets, read_verdicts
from cyclealign.types import UserError


def cut(path: Path, lines: int) -> None:
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:lines]))


@pytest.mark.parametrize("left", [0, 3])
def test_sets_that_were_lost_before_a_later_stage_are_generated_again(tmp_path: Path, left: int) -> None:
    whole = make_cycle(config_in(tmp_path / "whole"))
    whole.run()
    torn = make_cycle(config_in(tmp_path / "torn"))
    torn.run()
    files = torn.run_dir.interaction(5)
    for later in (files.white_box, files.agreement, files.summary, files.train_log):
        later.unlink()
    cut(files.candidates, left)
    again = make_cycle(config_in(tmp_path / "torn"), fuse=Fuse(None))
    again.run()
    expected = whole.run_dir.interaction(5)
    assert dict(read_sets(files.candidates)) == dict(read_sets(expected.candidates))
    assert dict(read_verdicts(files.black_box)) == dict(read_verdicts(expected.black_box))
    assert files.agreement.read_text() == expected.agreement.read_text()


def test_a_set_that_later_stages_have_used_is_asked_for_by_name(tmp_path: Path) -> None:
    cycle = make_cycle(config_in(tmp_path))
    cycle.run()
    files = cycle.run_dir.interaction(0)
    lost = list(read_sets(files.candidates))[-1]
    cut(files.candidates, len(read_sets(files.candidates)) - 1)
    with pytest.raises(UserError, match=rf"candidates\.jsonl: has no line for the prompt {lost}"):
        read_sets(files.candidates)[lost]
    with pytest.raises(UserError, match="has no line for the prompt nobody"):
        read_rankings(files.black_box)["nobody"]
