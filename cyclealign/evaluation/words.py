"""The words of a text in any script, for every figure that counts them.

Letters, their marks and digits make words. Scripts that are written without spaces (Chinese, Japanese, Thai, Lao,
Khmer, Burmese) have one word a letter, with its marks: no dictionary, and the same figure on every machine. English
gives what it gave before: in ``words`` each punctuation mark is a word, in ``RougeWords`` there are none.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from typing import Any

# Han, kana, Bopomofo, Thai, Lao, Burmese, Khmer, Tai; Hangul is written with spaces.
_NO_SPACES = (
    "\u0e01-\u0e30\u0e32-\u0e33\u0e40-\u0e46\u0e81-\u0eb0\u0eb2-\u0eb3\u0ec0-\u0ec6\u1000-\u102a\u103f\u1050-\u1055"
    "\u1780-\u17b3\u1950-\u19c9\u3005-\u3007\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u3105-\u312f"
    "\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
_JOINERS = "\u200c\u200d"  # some scripts need them inside words


@lru_cache(maxsize=1)
def _patterns() -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Words with punctuation, and words alone. ``\\w`` lacks the marks of Indic and other scripts, which are letters'
    own: a Hindi word would fall into pieces."""
    marks = _ranges([c for c in range(0x300, 0x11000) if unicodedata.category(chr(c))[0] == "M"])
    after = f"{marks}{_JOINERS}"
    word = rf"[{_NO_SPACES}][{after}]*|(?![{_NO_SPACES}])\w(?:(?![{_NO_SPACES}])[\w{after}])*"
    return re.compile(rf"{word}|[^\w\s]"), re.compile(word)


def _ranges(codes: list[int]) -> str:
    """A character class of sorted code points."""
    parts: list[list[int]] = []
    for code in codes:
        if parts and parts[-1][1] == code - 1:
            parts[-1][1] = code
        else:
            parts.append([code, code])
    return "".join(f"{chr(a)}-{chr(b)}" for a, b in parts)


def words(text: str) -> list[str]:
    """Lower-cased words and punctuation marks, in order."""
    return _patterns()[0].findall(unicodedata.normalize("NFC", text).lower())


def without_spaces(text: str) -> bool:
    """Whether more than half of a text's words are letters of scripts that are written without spaces."""
    found = _patterns()[1].findall(text)
    alone = re.compile(f"[{_NO_SPACES}]")
    return sum(bool(alone.match(word)) for word in found) > len(found) / 2


class RougeWords:
    """A tokenizer for rouge-score: its own tokens where a text is ASCII, words of their script elsewhere.

    rouge-score's tokenizer keeps a to z and digits alone, so that two equal Hindi texts have nothing in common. A text
    without a word is compared by its characters.
    """

    def __init__(self, own: Any) -> None:
        """``own``: rouge-score's tokenizer, for ASCII."""
        self._own = own

    def tokenize(self, text: str) -> list[str]:
        normal = unicodedata.normalize("NFKC", text).lower()
        found: list[str] = []
        for word in _patterns()[1].findall(normal):
            found += self._own.tokenize(word) if word.isascii() else [word]
        return found or [c for c in normal if not c.isspace()]
