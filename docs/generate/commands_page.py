"""The reference of all commands, as Markdown from the command line itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

import typer
from config_page import cell

from cyclealign.cli.main import app

INTRODUCTION = """# Every command

`cyclealign COMMAND --help` says the same on the terminal. Exit codes: 0 done; 1 a run was stopped by one of its own
rules and can be resumed, or a fault of ours; 2 a mistake of the user's, in one readable line; 130 interrupted.

"""


def commands_page() -> str:
    """Markdown: a section a command, with its arguments and options."""
    return INTRODUCTION + "\n".join(part for path, command in commands() for part in _section(path, command)) + "\n"


def commands() -> Iterator[tuple[str, Any]]:
    """Every command by the words that call it, groups taken apart."""
    yield from _below("cyclealign", typer.main.get_command(app))


def _below(path: str, command: Any) -> Iterator[tuple[str, Any]]:
    inner = getattr(command, "commands", None)
    if inner is None:
        yield path, command
        return
    for name, below in inner.items():
        yield from _below(f"{path} {name}", below)


def _section(path: str, command: Any) -> Iterator[str]:
    shown = [p for p in command.params if p.name != "help"]
    usage = " ".join(_usage(p) for p in shown if p.metavar or not p.opts[0].startswith("-"))
    named = [p.opts[0] for p in shown if p.opts[0].startswith("-") and p.required]
    rest = "".join(f" {name} ..." for name in named) + (" [OPTIONS]" if any(_is_option(p) for p in shown) else "")
    yield f"## {path}\n\n```\n{path} {usage}{rest}\n```\n\n{cell(command.help or '')}\n"
    if shown:
        yield "| | | default | |\n|---|---|---|---|"
        yield "\n".join(f"| `{_name(p)}` | {_values(p)} | {_default(p)} | {cell(p.help or '')} |" for p in shown) + "\n"


def _is_option(parameter: Any) -> bool:
    return str(parameter.opts[0]).startswith("-") and not parameter.required


def _usage(parameter: Any) -> str:
    return str(parameter.metavar or parameter.name.upper())


def _name(parameter: Any) -> str:
    return str(parameter.opts[0]) if parameter.opts[0].startswith("-") else _usage(parameter)


def _values(parameter: Any) -> str:
    if getattr(parameter, "is_flag", False):
        return ""
    annotation = parameter.type_descriptor.annotation
    many = "several: " if get_origin(annotation) is list else ""
    of = get_args(annotation)[0] if many else annotation
    if get_origin(of) is Literal:
        return many + ", ".join(f"`{value}`" for value in get_args(of))
    return many + {"Path": "path", "int": "whole number", "float": "number"}.get(getattr(of, "__name__", ""), "text")


def _default(parameter: Any) -> str:
    if parameter.required:
        return "needed"
    value = parameter.default
    return "" if value in (None, False) or value == [] or callable(value) else f"`{value}`"
