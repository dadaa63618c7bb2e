"""Every message that a user can meet, read from the calls that raise it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2] / "cyclealign"
ERRORS = ("UserError", "RunStopped", "BudgetExhausted", "BudgetSpent", "OddRow", "LedgerUnavailable")
# Of these a ValueError is a mistake in the config: it becomes the line of a UserError.
SCHEMAS = ("config/", "losses/", "distill/config.py", "_config.py")
HOLE = "…"


@dataclass(frozen=True)
class Message:
    """``text``: with ``…`` for what differs from case to case. ``module``: path below the package."""

    text: str
    module: str
    kind: str


def messages() -> Iterator[Message]:
    """All of them, by module and line; words that a function returns for an error count where it is raised."""
    trees = {p.relative_to(PACKAGE).as_posix(): ast.parse(p.read_text("utf-8")) for p in sorted(PACKAGE.rglob("*.py"))}
    said = {f.name: f for tree in trees.values() for f in ast.walk(tree) if isinstance(f, ast.FunctionDef)}
    for module, tree in trees.items():
        for kind, words in _raised(module, tree):
            for node in _spoken(words, said):
                text = template(node)
                if len(text.replace(HOLE, "").strip(" :;,.()'")) > 3:
                    yield Message(text, module, kind)


def _raised(module: str, tree: ast.Module) -> Iterator[tuple[str, ast.expr]]:
    """Calls that make an error for users, and their first argument."""
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Name(id=kind), args=[words, *_]):
                if kind in ERRORS or (kind == "ValueError" and any(part in module for part in SCHEMAS)):
                    yield kind, words


def _spoken(words: ast.expr, said: dict[str, ast.FunctionDef]) -> Iterator[ast.expr]:
    match words:
        case ast.Call(func=ast.Name(id=name)) if name in said:
            yield from (n.value for n in ast.walk(said[name]) if isinstance(n, ast.Return) and n.value is not None)
        case _:
            yield words


def strings() -> Iterator[str]:
    """Every string of the package, for words that are no error's."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant | ast.JoinedStr):
                yield template(node)


def template(node: ast.expr) -> str:
    """The words of a string, f-string or sum of them, in their order."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(HOLE if isinstance(p, ast.FormattedValue) else template(p) for p in parts)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return template(left) + template(right)
        case _:
            return HOLE
