"""The frame of every page: head, style, security policy, sections."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from pathlib import Path

from cyclealign.reporting.markup import Html, tag

CSS = Path(__file__).with_name("page.css")
POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"

Part = tuple[str, str, Html | None]
"""A section: its title, its id and its body."""


def page(
    heading: str, title: str, top: Iterable[Html], sections: Iterable[Part], rules: str = "", script: str = ""
) -> str:
    """A self-contained page; sections without a body are left out. ``rules``: style besides the common one. ``script``:
    of ours, the only one that the page's policy lets run."""
    parts = [(name, key, body) for name, key, body in sections if body]
    links = [tag("a", name, href=f"#{key}") for name, key, _ in parts]
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_policy(script)),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", title),
        tag("style", Html(CSS.read_text(encoding="utf-8") + rules)),
    )
    body = tag(
        "body",
        tag("header", tag("h1", heading), *top, tag("nav", *links)),
        tag("main", *(tag("section", tag("h2", name), body, id=key) for name, key, body in parts)),
        tag("script", Html(script)) if script else None,
    )
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


def _policy(script: str) -> str:
    """Names the script by its digest: what else came onto the page as one would not run."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return f"{POLICY}; script-src 'sha256-{digest}'" if script else POLICY
