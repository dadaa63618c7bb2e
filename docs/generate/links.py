"""Links of the Markdown pages: found, and followed out of ``docs/`` into the repository."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = "docs/"
BESIDE = "files/"  # where the site keeps what pages name outside docs/
_FENCE = re.compile(r"^(```+|~~~+).*?^\1\s*$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(?<!\\)(\]\()([^()\s]+)(\))")
_CODE = re.compile(r"`[^`\n]*`")


def links(text: str) -> Iterator[str]:
    """Targets of the links outside code that are no addresses of the web."""
    for _, target, _ in _LINK.findall(_CODE.sub("``", _FENCE.sub("", text))):
        if not re.match(r"[a-z]+:", target):
            yield target


def target_of(page: str, link: str) -> str:
    """The repository's path that a link of a page (by its own path) leads to, without the anchor."""
    path = link.partition("#")[0]
    return posixpath.normpath(posixpath.join(posixpath.dirname(page), path)) if path else page


def outside(pages: Mapping[str, str]) -> dict[str, Path]:
    """Files outside ``docs/`` that pages lead to, and those that these lead to if they are pages themselves."""
    found: dict[str, Path] = {}
    waiting = list(pages.items())
    while waiting:
        page, text = waiting.pop()
        for target in (target_of(page, link) for link in links(text)):
            path = ROOT / target
            if not target.startswith((DOCS, "..")) and target not in found and path.is_file():
                found[target] = path
                if path.suffix == ".md":
                    waiting.append((target, path.read_text(encoding="utf-8")))
    return found


def site_path(repository_path: str) -> str:
    """Where the site has a file of the repository."""
    inside = repository_path.startswith(DOCS)
    return repository_path.removeprefix(DOCS) if inside else f"{BESIDE}{repository_path}"


def repository_path(site: str) -> str:
    """The other way round."""
    return site.removeprefix(BESIDE) if site.startswith(BESIDE) else f"{DOCS}{site}"


def for_site(site: str, text: str) -> str:
    """A page's text with its links as they lead in the site."""
    page = repository_path(site)

    def lead(link: str) -> str:
        path, mark, anchor = link.partition("#")
        if not path or re.match(r"[a-z]+:", link):
            return link
        return posixpath.relpath(site_path(target_of(page, path)), posixpath.dirname(site) or ".") + mark + anchor

    return _outside_code(text, lambda part: _LINK.sub(lambda m: m[1] + lead(m[2]) + m[3], part))


def _outside_code(text: str, change: Callable[[str], str]) -> str:
    parts, at = [], 0
    for fence in _FENCE.finditer(text):
        parts += [change(text[at : fence.start()]), fence[0]]
        at = fence.end()
    return "".join([*parts, change(text[at:])])
