"""What a policy is on disk: its directory, and its chat template as text, rendered here as transformers does it.

No torch and no transformers: what this finds, a dry run finds at once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from jinja2 import Template, meta, nodes
from jinja2.exceptions import TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from cyclealign.config.schema import RENDERED
from cyclealign.files.foreign import read_text
from cyclealign.files.jsonl import read_json
from cyclealign.files.packaged import resource
from cyclealign.types import Message, UserError

if TYPE_CHECKING:
    from cyclealign.config.schema import PolicyConfig

BUILTIN = "builtin:"
SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


def resolve_model(name: str) -> str:
    """Directory of a ``builtin:`` model or of a local path; anything else is left to be a hub id.

    Raises:
        UserError: the builtin or the path does not exist.
    """
    if name.startswith(BUILTIN):
        path = resource("assets", name.removeprefix(BUILTIN).replace("-", "_"))
        if not (path / "config.json").is_file():
            raise UserError(f"policy.model: no packaged model {name!r} (looked in {path})")
        return str(path)
    if Path(name).is_dir():
        return str(Path(name).resolve())
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise UserError(f"policy.model: no directory {name!r}; give a model directory, a hub id, or builtin:tiny-chat")
    return name


def adapter_base(path: Path) -> str | None:
    """The model below the adapter in directory ``path``; None where it holds no adapter.

    Raises:
        UserError: its ``adapter_config.json`` cannot be read, or names none.
    """
    file = path / "adapter_config.json"
    if not file.is_file():
        return None
    named = read_json(file).get("base_model_name_or_path")
    if not isinstance(named, str):
        raise UserError(f"{file}: names no base model (base_model_name_or_path); put it back from a copy")
    return named


def chosen_template(name: str) -> str:
    """The Jinja chat template of ``policy.chat_template``: a path, or a packaged one (``builtin:human-assistant``,
    HH-RLHF's dialogue form). UserError where there is none."""
    file = Path(name)
    if name.startswith(BUILTIN):
        file = resource("configs", f"chat_templates/{name.removeprefix(BUILTIN).replace('-', '_')}.jinja")
    if not file.is_file():
        raise UserError(f"policy.chat_template: no file {name!r}; expected a Jinja chat template")
    return read_text(file)


def with_arguments(template: str, arguments: Mapping[str, Any]) -> str:
    """A chat template that takes these values for variables which whoever renders it leaves open.

    They stand in the template, since everybody renders that: this package, trl, a server of what is exported.

    Raises:
        UserError: the template reads no variable of a name.
    """
    if not arguments:
        return template
    read = _variables(template)
    for name in arguments:
        if name not in read:
            raise UserError(
                f"policy.chat_template_kwargs.{name}: the chat template reads no such variable; it reads"
                f" {', '.join(sorted(read)) or 'none'}"
            )
    # Jinja reads Python's literals of JSON's values.
    given = "".join(f"{{%- set {name} = {name}|default({value!r}) -%}}" for name, value in arguments.items())
    return given + template


def _variables(template: str) -> set[str]:
    """Variables that a template leaves to whoever renders it, but for those that every rendering has."""
    environment = TemplateText(template, {}).environment
    try:
        read = meta.find_undeclared_variables(environment.parse(template))
    except TemplateError as error:
        raise UserError(f"policy.chat_template: is no Jinja template: {error}") from error
    return read - {*RENDERED, *SPECIAL_TOKENS, *environment.globals}


class TemplateText:
    """A chat template by itself, rendered as transformers renders it. ``tokens``: special tokens by name; one that is
    not known is empty, so that what is refused here would be refused there."""

    def __init__(self, text: str, tokens: Mapping[str, str]) -> None:
        self._text = text
        self._tokens = dict.fromkeys(SPECIAL_TOKENS, "") | dict(tokens)
        self.environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
        )
        self.environment.filters["tojson"] = _tojson
        self.environment.globals["raise_exception"] = _refuse
        self.environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)

    def apply_chat_template(self, messages: Sequence[Message], *, tokenize: bool, add_generation_prompt: bool) -> str:
        """The chat as text, as a tokenizer's method of this name gives it. Raises TemplateError."""
        assert not tokenize
        return self._compiled.render(
            messages=messages, tools=None, documents=None, add_generation_prompt=add_generation_prompt, **self._tokens
        )

    @cached_property
    def _compiled(self) -> Template:
        """Once, for all prompts: it takes fifty times as long as to render one."""
        return self.environment.from_string(self._text)


def template_text(policy: PolicyConfig) -> TemplateText | None:
    """The policy's chat template without its tokenizer; None where neither ``policy.chat_template`` nor a file of the
    model on this machine has it.

    Raises:
        UserError: no such model, or no such template.
    """
    settings = _json(policy.model, "tokenizer_config.json")
    named = {**_json(policy.model, "special_tokens_map.json"), **settings}
    tokens = {n: t for n in SPECIAL_TOKENS if (t := _content(named.get(n))) is not None}
    text: object
    if policy.chat_template is not None:
        return TemplateText(with_arguments(chosen_template(policy.chat_template), policy.chat_template_kwargs), tokens)
    file = _file(policy.model, "chat_template.jinja")
    text = settings.get("chat_template") if file is None else read_text(file)
    if isinstance(text, list):  # several, by name
        text = next((t.get("template") for t in text if isinstance(t, dict) and t.get("name") == "default"), None)
    return TemplateText(with_arguments(text, policy.chat_template_kwargs), tokens) if isinstance(text, str) else None


def _file(model: str, name: str) -> Path | None:
    """A file of a model, in its directory or in the hub's cache."""
    folder = Path(resolve_model(model))
    if folder.is_dir():
        return folder / name if (folder / name).is_file() else None
    from huggingface_hub import try_to_load_from_cache

    with suppress(ValueError):  # no hub id
        found = try_to_load_from_cache(model, name)
        return Path(found) if isinstance(found, str) else None
    return None


def _json(model: str, name: str) -> Mapping[str, Any]:
    file = _file(model, name)
    with suppress(OSError, ValueError, RecursionError):  # it is the tokenizer's to say so
        found = json.loads(file.read_bytes()) if file is not None else None
        return found if isinstance(found, dict) else {}
    return {}


def _content(token: object) -> str | None:
    found = token.get("content") if isinstance(token, dict) else token
    return found if isinstance(found, str) else None


class _Generation(Extension):
    """``{% generation %}`` marks what an assistant says; the marked text is the same text."""

    tags = {"generation"}  # noqa: RUF012 (jinja's own)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _refuse(message: str) -> NoReturn:
    raise TemplateError(message)


def _tojson(value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, **_: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators)
