"""Text from outside on its way to a terminal, a message or a file: printable, short, and free of keys.

Whatever a server, a data file or a model wrote passes here before it is shown or recorded; what is read as a verdict or
sent as a prompt does not, because it must stay as it came.
"""

from __future__ import annotations

import logging
import os
import re
import traceback
import unicodedata
from collections.abc import Iterable, Mapping

SHOWN = 300  # characters of foreign text in one of our messages
READ = 1 << 16  # characters that are looked at for them
# A value this short is a placeholder such as "x" or "none"; to replace it would change words that have nothing to do
# with it. Every provider's keys are longer.
SHORTEST_KEY = 8
KEY_NAMES = ("_API_KEY", "_TOKEN", "_SECRET", "_PASSWORD", "_ORG_ID", "_PROJECT_ID")
_ANSI = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[\]PX^_].*?(?:\x07|\x1b\\|\Z)|\x1b[ -/]*[0-~]?", re.DOTALL)
_LONE = re.compile(r"[\ud800-\udfff]")
# Marks that change the direction or the look of their neighbours, or that nobody sees: format characters, but for the
# two joiners that some scripts are written with.
_KEPT = "\u200c\u200d"


def keys_of(environment: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """The secrets of this process: values of variables named like keys, long enough to be one; longest first."""
    found = os.environ if environment is None else environment
    # Every reply passes here, and the environment may have changed: names alone are looked at, values read of keys.
    values = {found.get(name, "").strip() for name in found if name.upper().endswith(KEY_NAMES)}
    return tuple(sorted((v for v in values if len(v) >= SHORTEST_KEY), key=len, reverse=True))


def scrubbed(text: str, keys: Iterable[str] | None = None) -> str:
    """The same text without a key in it (by default of ``keys_of``), as it is or as JSON or a URL would write it."""
    for key in keys_of() if keys is None else keys:
        for form in {key, key.replace("/", "\\/"), key.replace("+", "%2B").replace("/", "%2F")}:
            text = text.replace(form, "[key]")
    return text


def well_formed(text: str) -> str:
    """The same text as UTF-8 can hold it: half of a surrogate pair becomes U+FFFD."""
    return _LONE.sub("\N{REPLACEMENT CHARACTER}", text)


def printable(text: str) -> str:
    """The same text without what acts on a terminal: escape sequences, control characters, marks that turn text round.

    Line feeds and tabs stay. Escape sequences are dropped, other control characters become U+FFFD.
    """
    text = _ANSI.sub("", well_formed(text)).replace("\r\n", "\n")
    return "".join(_shown(c) for c in text)


def say(text: str) -> None:
    """Print text that names, files or models may have had a part in."""
    print(printable(scrubbed(text)))


def one_line(text: str, most: int = SHOWN) -> str:
    """Foreign text for a message of ours: one printable line of at most ``most`` characters, without a key."""
    keys = keys_of()
    # The key goes first: a cut, or a mark in its middle, must not hide it from the search.
    line = " ".join(printable(scrubbed(text, keys)[:READ]).split())
    line = scrubbed(line, keys)
    return line if len(line) <= most else line[: most - 1] + "…"


def _shown(character: str) -> str:
    if character in "\n\t" or character in _KEPT:
        return character
    category = unicodedata.category(character)
    if category in ("Cc", "Co", "Cn"):
        return "\N{REPLACEMENT CHARACTER}" if category == "Cc" else character
    return "" if category == "Cf" else " " if category in ("Zl", "Zp") else character


class ForeignFormatter(logging.Formatter):
    """Log lines, tracebacks included, as ``printable`` and ``scrubbed`` leave them."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(scrubbed(super().format(record)))


def readable_traceback(error: BaseException) -> str:
    """What Python prints of an error that nobody caught, without keys and without what acts on a terminal."""
    return printable(scrubbed("".join(traceback.format_exception(error))))
