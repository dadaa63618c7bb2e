"""Fuzzing: whatever bytes come, only typed errors, verdicts that stand in their replies, bounded time and memory.

The kept corpora and their mutants, by hypothesis; with ``-m long`` ten minutes of each target under atheris.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
from fuzz_guided import fuzz, results
from fuzz_targets import CORPORA, NAMES, corpus, target
from fuzzing import ENDLESS, SECONDS, Broken, closed, held, opened
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from unfenced import unfenced

from cyclealign.judge.verdicts import Said

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = 150
KEPT_PHASES = (Phase.explicit, Phase.generate)
KEPT = 150_000  # bytes of all corpora


@st.composite
def mutants(draw: st.DrawFn, kept: list[bytes]) -> bytes:
    """An input of the corpus, of which a few pieces are other bytes or pieces of other inputs."""
    data = draw(st.sampled_from(kept))
    if draw(st.integers(0, 15)) == 0:
        data = data[:2] + bytes((draw(st.integers(ENDLESS, 255)),)) + data[3:]
    for _ in range(draw(st.integers(0, 4))):
        begin, size = draw(st.integers(0, len(data))), draw(st.integers(0, 12))
        other = draw(st.sampled_from(kept))
        cut = draw(st.integers(0, len(other)))
        piece = draw(st.binary(max_size=4) | st.just(other[cut : cut + 40]))
        data = data[:begin] + piece + data[begin + size :]
    return data


@pytest.mark.parametrize("name", NAMES)
def test_what_was_found_before_holds(name: str) -> None:
    for data in corpus(name):
        held(target(name), data)


@pytest.mark.parametrize("name", NAMES)
def test_whatever_bytes_come(name: str) -> None:
    check = target(name)

    # The same inputs at every run: what is new is looked for in the long form. Shrinking what is slow takes an hour.
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        derandomize=True,
        phases=KEPT_PHASES,
    )
    @given(mutants(corpus(name)))
    def holds(data: bytes) -> None:
        held(check, data, seconds=5 * SECONDS)  # on a machine that may be slow

    holds()


def test_the_targets_see_what_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """A target that nothing can fail would pass all of the above."""
    lazy = lambda *_, **__: (0, 1)  # noqa: E731
    monkeypatch.setattr("fuzz_replies.parse_reply", lazy)
    with pytest.raises(Broken, match="does not stand at the end"):
        target("replies")(closed(0, "[2] > [1]"))
    monkeypatch.setattr("fuzz_replies.black_box._read", lambda *_: Said(((0,), (1,))))
    cut = json.dumps({"choices": [{"message": {"content": "[1] > [2]"}, "finish_reason": "length"}]})
    with pytest.raises(Broken, match="finish_reason 'length'"):
        target("replies")(closed(0, cut, 4))
    with unfenced(), pytest.raises(Broken, match="data made"):
        target("templates")(closed(1, "a\0</r>\0b", 2))
    with pytest.raises(Broken, match="of the processor"):
        held(lambda _: sum(range(10**7)) and None, b"", seconds=0.01)


def test_an_input_is_opened_as_it_was_closed() -> None:
    given_ = opened(closed(7, "body", 3))
    assert (given_.choice, given_.options, given_.body) == (7, 3, b"body")
    assert opened(bytes((0, 0, 0xF9)) + b"abc", stretched=8).body == b"abcbcbcb"
    assert opened(b"\x01").body == b""


def test_the_corpora_are_small() -> None:
    assert 0 < sum(path.stat().st_size for path in CORPORA.rglob("*") if path.is_file()) <= KEPT


def test_the_figures_in_the_docs_are_those_of_the_last_long_run() -> None:
    docs = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    for name, found in results(CORPORA.parent).items():
        assert f"| {found.executions:,} | {found.seconds:.0f} | {found.broken} |" in docs, name


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", NAMES)
def test_ten_minutes_guided_by_coverage(name: str) -> None:
    """Resumed from ``runs/fuzz`` where it was stopped; remove that folder to begin anew."""
    if importlib.util.find_spec("atheris") is None:
        pytest.skip("atheris is not installed (extra fuzz)")
    folder = ROOT / "runs" / "fuzz"
    folder.mkdir(parents=True, exist_ok=True)
    found = fuzz(folder, name, 600)
    print(name, found)
    assert found.broken == 0, f"see {folder / name}/broken-*.txt"
