"""YAML as people mean it: numbers like ``1e-5`` are numbers, ``no`` and dates are text, a key stands once.

PyYAML reads YAML 1.1, where ``1e-5`` is text, ``no`` is false and a key given twice silently wins. The scalars
here are those of the YAML 1.2 core schema.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import yaml

from cyclealign.files.foreign_json import MAX_DEPTH, MAX_DIGITS
from cyclealign.types import UserError

MAX_REPEATED = 10_000  # values that aliases may stand for

_FLOAT = re.compile(r"^[-+]?(?:(?:\.[0-9]+|[0-9]+\.[0-9]*)(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+|\.inf|\.nan)$")
_SCALARS = (
    ("tag:yaml.org,2002:null", re.compile(r"^(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""]),
    ("tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")),
    ("tag:yaml.org,2002:int", re.compile(r"^[-+]?[0-9]+$"), list("-+0123456789")),
    ("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789")),
    ("tag:yaml.org,2002:merge", re.compile(r"^<<$"), ["<"]),
)
_INT, _REAL = "tag:yaml.org,2002:int", "tag:yaml.org,2002:float"
_LOOKS = {tag: pattern for tag, pattern, _ in _SCALARS if not tag.endswith("merge")}
_LOOKS[_REAL] = re.compile(f"{_FLOAT.pattern}|{_LOOKS[_INT].pattern}")  # "!!float 1" is one
# What PyYAML would make of these is nothing that JSON has.
_NOT_READ = tuple(f"tag:yaml.org,2002:{name}" for name in ("timestamp", "binary", "omap", "pairs", "set"))


class _Loader(yaml.SafeLoader):
    """SafeLoader with the scalars above; refuses a key given twice, and what is nested too deep before its time, which
    grows with the square of the depth, is spent."""

    yaml_implicit_resolvers = {}  # noqa: RUF012 - PyYAML's own way
    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.depth > MAX_DEPTH:
            problem = f"nested more than {MAX_DEPTH} deep"
            raise yaml.composer.ComposerError(None, None, problem, self.peek_event().start_mark)  # type: ignore[no-untyped-call]
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        if isinstance(node, yaml.MappingNode):
            seen: set[str] = set()
            for key, _ in node.value:
                if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                    continue
                if key.value in seen:
                    problem = f"key {key.value!r} is given twice"
                    raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


class _Dumper(yaml.SafeDumper):
    """SafeDumper that also quotes text that only the loader above takes for a number."""

    yaml_implicit_resolvers = {k: list(v) for k, v in yaml.SafeDumper.yaml_implicit_resolvers.items()}  # noqa: RUF012


def _scalar(loader: yaml.SafeLoader, node: yaml.Node) -> Any:
    """The value of a scalar; of one that a tag (``!!bool``) calls something that it does not look like, an error."""
    problem = None
    if node.tag in _NOT_READ:
        problem = f"values tagged !!{node.tag.rpartition(':')[2]} are not read"
    elif not isinstance(node, yaml.ScalarNode) or not _LOOKS[node.tag].match(node.value):
        problem = f"this is no {node.tag.rpartition(':')[2]}"
    elif len(node.value) > MAX_DIGITS:
        problem = f"a number of {len(node.value)} digits; at most {MAX_DIGITS} are read"
    if problem is not None:
        raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
    # PyYAML would read 010 as eight.
    return int(node.value) if node.tag == _INT else yaml.SafeLoader.yaml_constructors[node.tag](loader, node)


for _tag, _pattern, _first in _SCALARS:
    _Loader.add_implicit_resolver(_tag, _pattern, _first)
for _tag in (*_LOOKS, *_NOT_READ):
    _Loader.add_constructor(_tag, _scalar)
_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))


def read_yaml(text: str, source: str) -> Any:
    """The value of a YAML text.

    Raises:
        UserError: not YAML, or a key given twice; names ``source:line``.
    """
    with _loading(text, source) as loader:
        root = loader.get_single_node()
        if root is None:
            return None
        _check_aliases(root, source)
        return loader.construct_document(root)


def read_nodes(text: str, source: str) -> yaml.Node | None:
    """The nodes of a YAML text, which know their lines; None of one that holds nothing. Raises as ``read_yaml``."""
    with _loading(text, source) as loader:
        return loader.get_single_node()


@contextmanager
def _loading(text: str, source: str) -> Iterator[_Loader]:
    try:
        loader = _Loader(text)  # a SafeLoader
    except yaml.reader.ReaderError as error:
        raise UserError(f"{source}: not valid YAML: {str(error).splitlines()[0]}") from error
    try:
        yield loader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{source}:{mark.line + 1}" if mark else source
        raise UserError(f"{where}: not valid YAML: {_one_line(error)}") from error
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"{source}: not valid YAML: {str(error).splitlines()[0]}") from error
    finally:
        loader.dispose()


def _check_aliases(root: yaml.Node, source: str) -> None:
    """Refuse aliases that repeat more than MAX_REPEATED values in all, or that hold themselves: nine lines of ten
    aliases stand for a billion values."""
    sizes: dict[int, int] = {}
    own = 0
    waiting: list[tuple[yaml.Node, bool]] = [(root, False)]
    while waiting:
        node, below_known = waiting.pop()
        below = _below(node)
        if below_known:
            if any(sizes[id(child)] == 0 for child in below):
                line = node.start_mark.line + 1
                raise UserError(f"{source}:{line}: not valid YAML: an alias stands for a value that holds it")
            sizes[id(node)] = 1 + sum(sizes[id(child)] for child in below)
        elif id(node) not in sizes:
            own += 1
            sizes[id(node)] = 0  # while it is open: an alias to it holds itself
            waiting += [(node, True), *((child, False) for child in below)]
        if sizes[id(node)] > own + MAX_REPEATED:
            line = node.start_mark.line + 1
            raise UserError(f"{source}:{line}: not valid YAML: aliases repeat more than {MAX_REPEATED:,} values")


def _below(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def write_yaml(value: Any) -> str:
    """YAML that ``read_yaml`` (and any other reader) reads back to the same value; keys keep their order."""
    return str(yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=False, width=110))


def _one_line(error: yaml.MarkedYAMLError) -> str:
    parts = [p for p in (error.context, error.problem) if p]
    return ", ".join(" ".join(p.split()) for p in parts)
