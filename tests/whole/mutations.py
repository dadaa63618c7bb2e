"""Mutations of a Python file: one small change each, of the kinds that slip in by hand.

Left alone: docstrings, annotations, decorators, ``__all__``, what is shown to people (messages of errors and of the
log, prose), f-strings, assertions of types, and ``strict=``, which asserts what holds.
"""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

COMPARED: dict[type[ast.cmpop], tuple[str, ...]] = {
    ast.Lt: ("<=", ">="),
    ast.LtE: ("<", ">"),
    ast.Gt: (">=", "<="),
    ast.GtE: (">", "<"),
    ast.Eq: ("!=",),
    ast.NotEq: ("==",),
    ast.Is: ("is not",),
    ast.IsNot: ("is",),
    ast.In: ("not in",),
    ast.NotIn: ("in",),
}
COMPARISON = re.compile(r"<=|>=|==|!=|<|>|is\s+not\b|not\s+in\b|is\b|in\b")
ARITHMETIC: dict[type[ast.operator], tuple[str, str]] = {
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "/"),
    ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "*"),
    ast.Mod: ("%", "*"),
    ast.Pow: ("**", "*"),
    ast.LShift: ("<<", ">>"),
    ast.RShift: (">>", "<<"),
    ast.BitAnd: ("&", "|"),
    ast.BitOr: ("|", "&"),
    ast.BitXor: ("^", "&"),
}
SWAPPED = {"min": "max", "max": "min", "any": "all", "all": "any", "floor": "ceil", "ceil": "floor"}
SHOWN = re.compile(r"(Error|Unusable|Unavailable|Warning|warn|log\.\w+|add_note)$")
GENERIC = frozenset(("Literal", "Callable", "Sequence", "Mapping", "Iterator", "dict", "list", "tuple", "type"))
KEPT_KEYWORDS = frozenset(("strict", "encoding", "repr", "compare", "slots", "kw_only"))


@dataclass(frozen=True, slots=True)
class Mutation:
    """``old`` at byte ``start`` of a file becomes ``new``.

    file: from the root of the checkout. function: first and last line of the outermost function it stands in; None
    where it takes effect at import, or where what the function gives is kept (a cache).
    """

    file: str
    start: int
    old: str
    new: str
    kind: str
    line: int
    function: tuple[int, int] | None

    def applied(self, source: bytes) -> bytes:
        end = self.start + len(self.old.encode())
        if source[self.start : end] != self.old.encode():
            raise ValueError(f"{self.file}:{self.line}: expected {self.old!r}")
        return source[: self.start] + self.new.encode() + source[end:]

    @property
    def change(self) -> str:
        """Old and new without what they share, on one line."""
        old, new = " ".join(self.old.split()), " ".join(self.new.split())
        if self.kind != "argument dropped":
            return f"{old} -> {new}"
        old = re.sub(r"([(]) | (?=[)])|,(?= [)])", r"\1", old)
        same = next((i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), len(new))
        return f"without {old[same : len(old) - len(new) + same].strip(', ')}"

    def text(self, source: bytes) -> str:
        """The line that it stands in."""
        return source.decode().split("\n")[self.line - 1].strip()

    def shown(self, source: bytes) -> str:
        return f"{self.file}:{self.line}: {self.text(source)}: {self.change}"

    def key(self, source: bytes) -> str:
        """Names the mutant together with the source that it is of."""
        digest = hashlib.sha256(source).hexdigest()
        return hashlib.sha256(f"{self.file}\0{digest}\0{self.start}\0{self.old}\0{self.new}".encode()).hexdigest()[:16]


def mutations(root: Path, file: str) -> list[Mutation]:
    """All mutations of a file that compile to something else, each once."""
    found = _File(file, (root / file).read_bytes())
    return list(dict.fromkeys(m for m in found.all() if found.changes(m)))


class _File:
    def __init__(self, file: str, source: bytes) -> None:
        self.file = file
        self.source = source
        self.tree = ast.parse(source)
        self.dumped = ast.dump(self.tree)

    def changes(self, mutation: Mutation) -> bool:
        try:
            return ast.dump(ast.parse(mutation.applied(self.source))) != self.dumped
        except SyntaxError:
            return False

    def all(self) -> Iterator[Mutation]:
        for node in self.tree.body:
            yield from self._within(node, None)

    def _within(self, node: ast.AST, function: tuple[int, int] | None) -> Iterator[Mutation]:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            for default in (*node.args.defaults, *filter(None, node.args.kw_defaults)):
                yield from self._within(default, None)
            first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
            kept = any("cache" in ast.unparse(d) for d in node.decorator_list)
            inside = function or (None if kept else (first, node.end_lineno or first))
            for statement in node.body:
                yield from self._within(statement, inside)
            return
        if isinstance(node, ast.ClassDef):
            for statement in node.body:
                yield from self._within(statement, function)
            return
        if _left_alone(node):
            return
        for start, end, new, kind in self._changes(node):
            old = self.source[start:end].decode()
            yield Mutation(self.file, start, old, new, kind, self.source[:start].count(b"\n") + 1, function)
        for child in _children(node):
            yield from self._within(child, function)

    def _changes(self, node: ast.AST) -> Iterator[tuple[int, int, str, str]]:
        match node:
            case ast.Compare():
                yield from self._compared(node)
            case ast.BinOp(op=op) if type(op) in ARITHMETIC:
                yield from self._arithmetic(node)
            case ast.BoolOp():
                words = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
                for left, right in zip(node.values, node.values[1:], strict=False):
                    yield from self._between(left, right, re.compile(rf"\b{words[0]}\b"), (words[1],), "and/or")
            case ast.UnaryOp(operand=operand) if not isinstance(node.op, ast.UAdd):
                yield *self._span(node), self._whole(operand), "sign or not dropped"
            case ast.Constant():
                for new in _constants(node.value):
                    yield *self._span(node), new, "constant"
            case ast.IfExp(body=body, test=test, orelse=orelse):
                swapped = f"{self._whole(orelse)} if {self._whole(test)} else {self._whole(body)}"
                yield *self._span(node), f"({swapped})", "branches swapped"
            case ast.Call():
                yield from self._called(node)
            case ast.Slice(upper=ast.expr() as upper) if not isinstance(upper, ast.Constant):
                yield *self._span(upper), f"{self._whole(upper)} + 1", "slice"
            case ast.comprehension(ifs=[test, *_]) | ast.If(test=test) if not isinstance(test, ast.Compare):
                yield *self._span(test), f"not {self._whole(test)}", "condition turned"
            case _:
                yield from self._statement(node)

    def _statement(self, node: ast.AST) -> Iterator[tuple[int, int, str, str]]:
        match node:
            case ast.Return(value=ast.expr() as value) if not (isinstance(value, ast.Constant) and value.value is None):
                yield *self._span(value), "None", "returns None"
            case ast.Raise() | ast.Expr(value=ast.Call() | ast.Await()):
                yield *self._span(node), "pass", "statement dropped"
            case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
                yield *self._span(node), "pass", "statement dropped"
            case ast.Continue():
                yield *self._span(node), "break", "loop"
            case ast.Break():
                yield *self._span(node), "continue", "loop"
            case ast.AugAssign(op=op) if type(op) in ARITHMETIC:
                yield *self._span(node), "pass", "statement dropped"
                old, new = ARITHMETIC[type(op)]
                target, text = self._text(node.target), self._text(node)
                yield *self._span(node), target + text[len(target) :].replace(f"{old}=", f"{new}=", 1), "arithmetic"

    def _compared(self, node: ast.Compare) -> Iterator[tuple[int, int, str, str]]:
        for left, op, right in zip([node.left, *node.comparators], node.ops, node.comparators, strict=False):
            yield from self._between(left, right, COMPARISON, COMPARED[type(op)], "comparison")

    def _arithmetic(self, node: ast.BinOp) -> Iterator[tuple[int, int, str, str]]:
        sides = (node.left, node.right)
        if any(isinstance(s, ast.JoinedStr) or isinstance(getattr(s, "value", None), str) for s in sides):
            return  # texts know no other operator
        if isinstance(node.op, ast.BitOr) and all(isinstance(s, ast.Name | ast.BinOp) for s in sides):
            return  # a union of types
        old, new = ARITHMETIC[type(node.op)]
        yield from self._between(*sides, re.compile(re.escape(old)), (new,), "arithmetic")

    def _called(self, node: ast.Call) -> Iterator[tuple[int, int, str, str]]:
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name in SWAPPED:
            end = self._span(node.func)[1]
            yield end - len(name), end, SWAPPED[name], "function"
        for keyword in node.keywords:
            if keyword.arg and keyword.arg not in KEPT_KEYWORDS:
                rest = [self._text(a) for a in (*node.args, *node.keywords) if a is not keyword]
                yield *self._span(node), f"{self._text(node.func)}({', '.join(rest)})", "argument dropped"

    def _between(
        self, left: ast.expr, right: ast.expr, operator: re.Pattern[str], new: tuple[str, ...], kind: str
    ) -> Iterator[tuple[int, int, str, str]]:
        start, end = self._span(left)[1], self._span(right)[0]
        found = operator.search(self.source[start:end].decode())
        if found:
            for word in new:
                yield start + found.start(), start + found.end(), word, kind

    def _span(self, node: ast.AST) -> tuple[int, int]:
        ends = (node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset)  # type: ignore[attr-defined]
        start, end = (self._lines[line - 1] + column for line, column in ends)
        return start, end

    def _text(self, node: ast.AST) -> str:
        start, end = self._span(node)
        return self.source[start:end].decode()

    def _whole(self, node: ast.AST) -> str:
        """Text that stays one thing wherever it is put."""
        text = self._text(node)
        return text if isinstance(node, ast.Name | ast.Attribute | ast.Call | ast.Constant) else f"({text})"

    @cached_property
    def _lines(self) -> list[int]:
        """Byte at which each line begins."""
        starts = [0]
        for line in self.source.split(b"\n"):
            starts.append(starts[-1] + len(line) + 1)
        return starts


def _children(node: ast.AST) -> Iterator[ast.AST]:
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "type_comment", "ctx", "op", "ops"):
            continue
        yield from (v for v in (value if isinstance(value, list) else [value]) if isinstance(v, ast.AST))


def _left_alone(node: ast.AST) -> bool:
    match node:
        case ast.JoinedStr() | ast.Import() | ast.ImportFrom() | ast.Assert():
            return True
        case ast.Expr(value=ast.Constant()):
            return True
        case ast.Expr(value=ast.Call(func=func)):
            return SHOWN.search(ast.unparse(func)) is not None
        case ast.Assign(targets=[ast.Name(id="__all__" | "log")]):
            return True
        case ast.If(test=ast.Name(id="TYPE_CHECKING")):
            return True
        case ast.keyword(arg=name):
            return name in KEPT_KEYWORDS
        case ast.Call(func=func):
            return SHOWN.search(ast.unparse(func)) is not None
        case ast.Subscript(
            value=ast.Name(id="Literal" | "Callable" | "Sequence" | "Mapping" | "dict" | "list" | "tuple")
        ):
            return True
        case ast.Constant(value=str(text)):
            return " " in text.strip() or "\n" in text.strip()
    return False


def _constants(value: object) -> tuple[str, ...]:
    match value:
        case bool():
            return (str(not value),)
        case int():
            return (str(value + 1), str(value - 1))
        case float():
            return (repr(value + 1), repr(value / 2)) if value else ("1.0",)
        case str():
            return ('"x"',) if not value else ('""',)
    return ()
