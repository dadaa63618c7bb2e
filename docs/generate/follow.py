"""Follow a page literally: its blocks in their order, files written and commands run in one shell.

    python docs/generate/follow.py docs/tutorial.md --in CHECKOUT [--venv VENV]

Without ``--venv`` the page's own installation (its ``bash`` blocks) is followed too.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path

from page_blocks import Block, blocks


def script(found: Sequence[Block], *, install: bool) -> str:
    """One shell script of all blocks; what a page shows as output is no part of it."""
    lines = ["set -eo pipefail", "trap 'kill $(jobs -p) 2>/dev/null || true' EXIT"]
    for block in found:
        if block.title:
            lines += [f"cat > {shlex.quote(block.title)} <<'END_OF_BLOCK'", block.text.rstrip("\n"), "END_OF_BLOCK"]
        elif block.language == "sh" or (block.language == "bash" and install):
            lines.append(block.text.rstrip("\n"))
    return "\n".join(lines) + "\n"


def follow(page: Path, checkout: Path, venv: Path | None) -> int:
    """Run it in the root of a checkout; returns the exit code."""
    path = os.environ["PATH"] if venv is None else f"{venv / 'bin'}{os.pathsep}{os.environ['PATH']}"
    whole = script(blocks(page), install=venv is None)
    return subprocess.run(["bash", "-c", whole], cwd=checkout, env=os.environ | {"PATH": path}).returncode


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("page", type=Path)
    parser.add_argument("--in", dest="checkout", type=Path, required=True)
    parser.add_argument("--venv", type=Path)
    given = parser.parse_args()
    raise SystemExit(follow(given.page, given.checkout, given.venv and given.venv.absolute()))
