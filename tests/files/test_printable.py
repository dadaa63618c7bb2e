"""Foreign text on its way to a terminal, a message or a file."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyclealign.files.printable import ForeignFormatter, keys_of, one_line, printable, readable_traceback, scrubbed

KEY = "sk-canary/0123456789+abc"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain\ttext\n", "plain\ttext\n"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07after", "after"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1bc\x1b(0reset", "reset"),
        ("a\x00b\x07c\x9bd\x7f", "a�b�c�d�"),
        ("right\u202eto\u2066left\u200b\ufeff", "righttoleft"),
        ("half\ud800", "half�"),
        ("line\u2028line\u0085", "line line�"),
        ("नमस्ते \u200d 👍🏽 é", "नमस्ते \u200d 👍🏽 é"),
    ],
)
def test_printable_by_value(text: str, shown: str) -> None:
    assert printable(text) == shown


@given(st.text(alphabet=st.characters(), max_size=60))
def test_nothing_that_acts_on_a_terminal_is_left(text: str) -> None:
    shown = printable(text)
    assert not any((ord(c) < 32 and c not in "\n\t") or 0x7F <= ord(c) < 0xA0 for c in shown)
    shown.encode()
    assert printable(shown) == shown


def test_a_line_is_cut_and_has_no_key_in_any_form(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANARY_API_KEY", KEY)
    escaped = KEY.replace("/", "\\/")
    line = one_line(f"a\nb {KEY} {escaped} {KEY[:9]}\u200b{KEY[9:]} \x1b[1m" + "x" * 400)
    assert line.startswith("a b [key] [key] [key] xxx")
    assert len(line) == 300
    assert line.endswith("…")


def test_only_what_is_long_enough_to_be_a_key_is_one() -> None:
    environment = {"OPENAI_API_KEY": "1", "B_API_KEY": "x" * 8, "HF_TOKEN": "y" * 20, "HOME": "/home/somebody"}
    assert keys_of(environment) == ("y" * 20, "x" * 8)
    assert scrubbed("ranking 1 > 2", keys_of(environment)) == "ranking 1 > 2"
    assert scrubbed("a" + "x" * 8 + "b", keys_of(environment)) == "a[key]b"


def test_logs_and_tracebacks_have_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANARY_API_KEY", KEY)
    try:
        raise RuntimeError(f"header: Bearer {KEY}\x1b[2J")
    except RuntimeError as raised:
        error = raised
    record = logging.LogRecord("x", logging.INFO, "f", 1, "sent %s", (f"Bearer {KEY}",), (type(error), error, None))
    for text in (ForeignFormatter("%(message)s").format(record), readable_traceback(error)):
        assert KEY not in text
        assert "\x1b" not in text
        assert "Bearer [key]" in text
