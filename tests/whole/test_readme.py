"""The README's tree is the house: every folder named, each with the line that its ``__init__`` says of itself."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TREE = (ROOT / "README.md").read_text(encoding="utf-8").partition("## What is where")[2].split("```")[1]
ROWS = dict(re.findall(r"^( {0,2}\S+)(?: {2,})(\S.*)$", TREE, flags=re.MULTILINE))


def line_of(folder: Path) -> str:
    """The first sentence of a folder's docstring, as it stands in a list."""
    text = ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))) or ""
    line = text.split("\n\n")[0].replace("\n", " ").rstrip(".")
    return line[:1].lower() + line[1:]


def test_the_tree_names_every_folder_and_says_its_line() -> None:
    folders = {f"  {p.parent.name}/": line_of(p.parent) for p in (ROOT / "cyclealign").glob("*/__init__.py")}
    assert {name: text for name, text in ROWS.items() if name in folders} == folders


def test_every_entry_of_the_tree_is_there() -> None:
    for name in ROWS:
        assert ((ROOT / "cyclealign" if name.startswith("  ") else ROOT) / name.strip()).exists(), name
    tracked = {f"{p.name}/" for p in ROOT.iterdir() if p.is_dir() and not p.name.startswith((".", "_"))}
    assert tracked - set(ROWS) <= {"models/", "runs/", "build/", "dist/"}
