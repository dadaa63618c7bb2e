"""``demos edit``: a set as YAML in the user's editor, checked when it comes back; nothing typed is ever lost."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import yaml

from cyclealign.curation.sets import DemonstrationSet, open_set, writable
from cyclealign.files.foreign import read_text
from cyclealign.files.strict_yaml import read_yaml
from cyclealign.judge.demonstration_files import from_record, save_demonstrations, to_record
from cyclealign.types import Demonstration, UserError

_HEADER = """\
# {name}, version {version}
# One entry a demonstration. order: numbers of the responses (from 0), best first. Save and close to check.
"""


# Keys; all else is quoted, so that no reader takes a text for a number.
_PLAIN = ("messages", "role", "content", "responses", "order", "source", "agreement", "note", "tags")

_OTHER_BREAKS = re.compile("[\r\x85\u2028\u2029]")  # YAML reads them as line feeds, in a block


class _Blocks(yaml.SafeDumper):
    """Texts of several lines as blocks, as a person would write them."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    block = "\n" in value and not _OTHER_BREAKS.search(value)
    style = "" if value in _PLAIN else "|" if block else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


def _list(dumper: yaml.SafeDumper, value: list[Any]) -> yaml.SequenceNode:
    """Numbers in one line."""
    in_line = all(isinstance(v, int) for v in value)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", value, flow_style=in_line)


_Blocks.add_representer(str, _text)
_Blocks.add_representer(list, _list)


def edit(found: DemonstrationSet) -> DemonstrationSet:
    """Open the set in ``$VISUAL`` or ``$EDITOR``; write it back if every entry is valid.

    What was typed lies in ``NAME.edit.yaml`` beside the set until then: an invalid text, and one whose set was
    changed meanwhile, stay there, and the next ``edit`` goes on from it.

    Raises UserError: no editor, the editor failed, or an entry is invalid (which one, and where the text is).
    """
    path = writable(found)
    draft = path.with_name(f"{path.name}.edit.yaml")
    header = _HEADER.format(name=path.name, version=found.version)
    if not draft.exists():
        draft.write_text(header + as_yaml(found.demonstrations), encoding="utf-8")
    elif not read_text(draft).startswith(header.splitlines()[0]):
        raise UserError(f"{draft}: left from another version of {path.name}; take over what you need and delete it")
    _open_editor(draft)
    kept = f"your text is kept in {draft}: edit again to go on with it, or delete it"
    try:
        new = from_yaml(read_text(draft), str(draft))
    except UserError as error:
        raise UserError(f"{error}; {path.name} is as it was, {kept}") from error
    if open_set(found.name).demonstrations != found.demonstrations:
        raise UserError(f"{path} was changed by somebody else meanwhile and is left alone; {kept}")
    if new != found.demonstrations:
        save_demonstrations(path, new)
    draft.unlink()
    return DemonstrationSet(found.name, new, path)


def as_yaml(demonstrations: tuple[Demonstration, ...]) -> str:
    """YAML that ``from_yaml`` gives back exactly."""
    records = [to_record(d) for d in demonstrations]
    return str(yaml.dump(records, Dumper=_Blocks, sort_keys=False, allow_unicode=True, width=100_000))


def from_yaml(text: str, source: str) -> tuple[Demonstration, ...]:
    """Raises UserError naming the entry (from 1) and the line where there is one."""
    records = read_yaml(text, source)
    if not isinstance(records, list) or not records:
        raise UserError(f"{source}: expected a list of demonstrations, one `- messages: ...` entry each")
    found = []
    for number, record in enumerate(records, start=1):
        try:
            found.append(from_record(record))
        except ValueError as error:
            raise UserError(f"{source}: entry {number}: {error}") from error
    if len({d.id for d in found}) < len(found):
        raise UserError(f"{source}: the same demonstration is there twice")
    return tuple(found)


def _open_editor(file: Path) -> None:
    command = os.environ.get("VISUAL") or os.environ.get("EDITOR") or ""
    if not command.strip():
        raise UserError("no editor: set $EDITOR (for example EDITOR=nano)")
    try:
        done = subprocess.run([*shlex.split(command), str(file)], check=False)  # noqa: S603  the user's own editor
    except (OSError, ValueError) as error:
        raise UserError(f"$EDITOR {command!r} cannot be started: {error}; the text is in {file}") from error
    if done.returncode != 0:
        raise UserError(f"$EDITOR {command!r} ended with code {done.returncode}; the text is in {file}")
