"""Ranking templates: YAML in, a checked and frozen ``RankTemplate`` out.

Everything that can be wrong with a template is found at load, before anything is paid for: unknown, missing
or repeated keys, unknown or missing placeholders, data that stands outside a fence.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from functools import cache, cached_property
from pathlib import Path

import yaml

from cyclealign.files.atomic import write_atomic
from cyclealign.files.foreign import read_text
from cyclealign.files.packaged import resource, resource_dir
from cyclealign.files.strict_yaml import read_nodes
from cyclealign.types import Prompt, UserError, sha256_hex

# Field -> (placeholders that it must have, placeholders that it may have).
PLACEHOLDERS: Mapping[str, tuple[frozenset[str], frozenset[str]]] = {
    "name": (frozenset(), frozenset()),
    "system": (frozenset(), frozenset()),
    "instruction": (frozenset({"answer"}), frozenset({"rubric"})),
    "turn": (frozenset({"role", "text"}), frozenset()),
    "candidate": (frozenset({"number", "text"}), frozenset()),
    "demonstration": (frozenset({"conversation", "candidates"}), frozenset({"k"})),
    "item": (frozenset({"conversation", "candidates"}), frozenset({"k", "answer", "rubric", "reference"})),
    "answer_structured": (frozenset({"example"}), frozenset()),
    "answer_text": (frozenset({"example"}), frozenset()),
    "rubric": (frozenset({"text"}), frozenset()),
    "reference": (frozenset({"text"}), frozenset()),
}
FENCED = ("turn", "candidate", "rubric", "reference")  # the fields that bring in text which others wrote
OPTIONAL = ("rubric", "reference")

_PLACEHOLDER = re.compile(r"\{\{(\w+)\}\}|\{(\w+)\}")
_BREAKS = re.compile("[\r\x85\u2028\u2029]")
_TAG = re.compile(r"</?([A-Za-z][\w-]*)")
_FENCE = re.compile(r"<([A-Za-z][\w-]*)(?:\s[^<>]*)?>\s*\{text\}\s*</\1>")


@dataclass(frozen=True)
class RankTemplate:
    """The words around the data of a ranking call.

    system: the system message, without placeholders; empty: no system message, and the instruction opens the
    first user turn instead. instruction: what to do; ``{answer}`` becomes ``answer_structured`` or
    ``answer_text``, in which ``{example}`` is an answer in the exact form that the parser reads.
    demonstration, item: a user turn, with ``{conversation}`` (the turns, each in ``turn``) and
    ``{candidates}`` (each in ``candidate``). rubric, reference: around the text that a judge is to go by, and around a
    reply that is known to be good; they stand where ``{rubric}`` is in the instruction (for all prompts) or the item
    (of its prompt), and ``{reference}`` in the item; a line that is nothing else goes where there is none.
    ``{{word}}`` gives a literal ``{word}``.
    """

    name: str
    system: str
    instruction: str
    turn: str
    candidate: str
    demonstration: str
    item: str
    answer_structured: str
    answer_text: str
    rubric: str = ""
    reference: str = ""

    @cached_property
    def version(self) -> str:
        """16 hex digits of the hash of all fields: what a run or a measurement records that it used."""
        return sha256_hex([getattr(self, field.name) for field in fields(self)])[:16]

    @cached_property
    def tags(self) -> tuple[str, ...]:
        """Names of all tags that the template uses: the fence markers that data must not be able to write."""
        texts = (getattr(self, field.name) for field in fields(self))
        return tuple(sorted({tag.lower() for text in texts for tag in _TAG.findall(text)}))


def fill(text: str, values: Mapping[str, str]) -> str:
    """Substitute placeholders in one pass: what a value brings in is never scanned again.

    Raises KeyError for a placeholder without a value (load checks make that a fault of the program).
    """
    return _PLACEHOLDER.sub(lambda m: f"{{{m[1]}}}" if m[1] else values[m[2]], text)


def fill_blocks(text: str, values: Mapping[str, str]) -> str:
    """``fill``, but a line that is nothing but a placeholder of an empty value goes."""
    return fill(_without_lines(text, tuple(name for name, value in values.items() if not value)), values)


@cache
def _without_lines(text: str, names: tuple[str, ...]) -> str:
    for name in names:
        text = re.sub(rf"^[ \t]*\{{{name}\}}[ \t]*(?:\n|\Z)", "", text, flags=re.MULTILINE)
    return text


@cache
def has_place(text: str, name: str) -> bool:
    """Whether a field has a placeholder of this name."""
    return any(m[2] == name for m in _PLACEHOLDER.finditer(text))


def check_places(template: RankTemplate, prompts: Iterable[Prompt], rubric: str = "") -> None:
    """UserError where a rubric of all prompts, or a prompt's own rubric or reference, has no place in the template."""
    if rubric and not has_place(template.instruction, "rubric"):
        raise UserError(f"black_box.rubric: {_no_place(template, 'rubric', 'instruction')}")
    lacking = [name for name in OPTIONAL if not has_place(template.item, name)]
    for prompt in prompts if lacking else ():
        for name in lacking:
            if getattr(prompt, name) is not None:
                way = f"{_no_place(template, name, 'item')}, or drop the column {name} of the data"
                raise UserError(f"prompt {prompt.id}: its {name}: {way}")


def _no_place(template: RankTemplate, name: str, field: str) -> str:
    return f"template {template.name} has no place for it; write {{{name}}} in its {field}"


def load_template(name_or_path: str) -> RankTemplate:
    """A packaged template by name (``rank``, ``rank_terse``), else a YAML file by path.

    Raises UserError naming the file, and the key and line where there is one.
    """
    path = find_template(name_or_path)
    try:
        text = read_text(path)
    except UserError as error:
        raise UserError(f"template {error}") from error
    values, lines = _parse(path, text)
    for key, value in values.items():
        _check_field(f"template {path}:{lines[key]}: {key}", key, value)
    template = RankTemplate(**values)
    for name in OPTIONAL:
        placed = has_place(template.item, name) or has_place(template.instruction, name)
        if placed and name not in values:
            raise UserError(f'template {path}: {{{name}}} needs the key {name}, such as "<{name}>{{text}}</{name}>"')
        if name in values and not placed:
            raise UserError(f"template {path}:{lines[name]}: {name}: has no place; write {{{name}}} in item")
    return template


def with_instruction(template: RankTemplate, instruction: str) -> RankTemplate:
    """The template with another instruction. UserError where none with it could be loaded."""
    text = instruction.strip("\n")
    _check_field("instruction", "instruction", text)
    return replace(template, instruction=text)


def save_template(path: Path, template: RankTemplate, about: Iterable[str] = ()) -> None:
    """Write a template that ``load_template`` gives back exactly; ``about``: comments at its head, a line each, which
    are no part of its version."""
    values = {field.name: getattr(template, field.name) for field in fields(template)}
    head = "".join(f"# {line}\n" for line in about)
    write_atomic(path, head + yaml.dump(values, Dumper=_Blocks, sort_keys=False, allow_unicode=True, width=1000))


class _Blocks(yaml.SafeDumper):
    """Writes texts of several lines as blocks, where YAML has them so."""


def _block(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    # What YAML, too, takes for an end of a line does not come back from a block.
    style = '"' if _BREAKS.search(text) else "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Blocks.add_representer(str, _block)


def find_template(name_or_path: str) -> Path:
    """The file of a template, packaged or the user's own. UserError where no packaged one has the name."""
    if "/" in name_or_path or name_or_path.endswith((".yaml", ".yml")):
        return Path(name_or_path).expanduser()
    path = resource("prompts", f"{name_or_path}.yaml")
    if not path.is_file():
        known = sorted(p.stem for p in resource_dir("prompts").glob("*.yaml"))
        raise UserError(
            f"template {name_or_path!r}: no packaged template has this name{_nearest(name_or_path, known)};"
            f" packaged: {', '.join(known)}; or give the path of a .yaml file"
        )
    return path


def _nearest(key: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(key, list(known), n=1, cutoff=0.5)
    return f" (did you mean {close[0]}?)" if close else ""


def _parse(path: Path, text: str) -> tuple[dict[str, str], dict[str, int]]:
    """Values and line numbers by key. Nodes are read, not values, because only nodes know their lines."""
    root = read_nodes(text, f"template {path}")
    if not isinstance(root, yaml.MappingNode):
        raise UserError(f"template {path}: expected a mapping with the keys {', '.join(PLACEHOLDERS)}")
    values: dict[str, str] = {}
    lines: dict[str, int] = {}
    for key_node, value_node in root.value:
        key, line = str(key_node.value), key_node.start_mark.line + 1
        where = f"template {path}:{line}: {key}"
        if key not in PLACEHOLDERS:
            raise UserError(f"{where}: unknown key{_nearest(key, PLACEHOLDERS)}; known: {', '.join(PLACEHOLDERS)}")
        if key in values:
            raise UserError(f"{where}: the key is there twice (first on line {lines[key]})")
        if not isinstance(value_node, yaml.ScalarNode) or value_node.tag != "tag:yaml.org,2002:str":
            raise UserError(f"{where}: expected text; put the value in quotes or in a block after `{key}: |`")
        # Block scalars end in a line feed that nobody means.
        values[key], lines[key] = value_node.value.strip("\n"), line
    needed = [key for key in PLACEHOLDERS if key not in OPTIONAL]
    missing = [key for key in needed if key not in values]
    if missing:
        way = '; write system: "" for a judge without a system message' if missing[0] == "system" else ""
        raise UserError(f"template {path}: missing key {missing[0]}; needed: {', '.join(needed)}{way}")
    return values, lines


def _check_field(where: str, key: str, value: str) -> None:
    required, optional = PLACEHOLDERS[key]
    allowed = sorted(required | optional)
    if not value.strip() and key != "system":
        raise UserError(f"{where}: is empty; expected text" + (f" with {_listed(allowed)}" if allowed else ""))
    found = {m[2] for m in _PLACEHOLDER.finditer(value) if m[2]}
    for name in sorted(found - required - optional):
        raise UserError(
            f"{where}: unknown placeholder {{{name}}}{_nearest(name, allowed)}; allowed here:"
            f" {_listed(allowed)}; write {{{{{name}}}}} for these characters themselves"
        )
    for name in sorted(required - found):
        raise UserError(f"{where}: missing placeholder {{{name}}}; needed here: {_listed(sorted(required))}")
    if key in FENCED and not len(_FENCE.findall(value)) == value.count("{text}") == 1:
        raise UserError(
            f"{where}: {{text}} must stand once, between a tag and its closing tag, such as"
            f" <{key}>{{text}}</{key}>, so that the text cannot be taken for an instruction or an answer"
        )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"{{{name}}}" for name in names) or "none"
