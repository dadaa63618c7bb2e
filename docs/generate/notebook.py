"""``docs/tutorial.ipynb`` from ``docs/tutorial.md``: prose as it is, files by %%writefile, commands by %%bash.

python docs/generate/notebook.py
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from links import ROOT
from page_blocks import Block, Prose, parts

PAGE = ROOT / "docs" / "tutorial.md"
NOTEBOOK = PAGE.with_suffix(".ipynb")


def notebook() -> str:
    """The notebook's JSON, without outputs."""
    cells = [cell | {"id": f"cell-{n}"} for n, cell in enumerate(_cells())]
    head = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    found = {"cells": cells, "metadata": head, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(found, indent=1, ensure_ascii=False) + "\n"


def _cells() -> Iterator[dict[str, Any]]:
    yield _code("%cd -q ..")  # Jupyter starts in the notebook's folder, the page in the checkout's root
    for part in parts(PAGE.read_text(encoding="utf-8")):
        match part:
            case Prose(text):
                yield {"cell_type": "markdown", "metadata": {}, "source": text}
            case Block("sh", "", text):
                yield _code(as_cell(text))
            case Block(language, "", text):  # what a command prints, an excerpt, the installation
                yield {"cell_type": "markdown", "metadata": {}, "source": f"```{language}\n{text}```"}
            case Block(_, title, text):
                yield _code(f"%%writefile {title}\n{text}")


def _code(source: str) -> dict[str, Any]:
    return {
        "cell_type": "code",
        "execution_count": None,
        "metadata": {},
        "outputs": [],
        "source": source.rstrip("\n"),
    }


def as_cell(commands: str) -> str:
    """Shell commands as a cell; what only sets variables holds for the cells after it."""
    lines = commands.strip().splitlines()
    if any(line.startswith(("cd ", "export ")) for line in lines):
        held = ((r"^export (\w+)=", r"%env \1="), (r"^cd ", "%cd -q "), (r"^(?!%)", "!"))
        return "\n".join(_replaced(line, held) for line in lines)
    return ("%%bash --bg\n" if any(" & " in line for line in lines) else "%%bash\nset -e\n") + commands


def _replaced(line: str, rules: Sequence[tuple[str, str]]) -> str:
    for pattern, by in rules:
        line = re.sub(pattern, by, line)
    return line


if __name__ == "__main__":
    NOTEBOOK.write_text(notebook(), encoding="utf-8")
    print(NOTEBOOK)
