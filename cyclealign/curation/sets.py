"""Sets of demonstrations on disk: named, read, changed, and versioned by their content."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from cyclealign.config.schema import DemonstrationsConfig
from cyclealign.files.packaged import resource
from cyclealign.files.run_dir import RunDir
from cyclealign.judge.demonstration_files import BUILTIN, content_version, load_demonstrations, save_demonstrations
from cyclealign.judge.demonstrations import DemonstrationPool
from cyclealign.judge.template import load_template
from cyclealign.types import Demonstration, UserError


@dataclass(frozen=True)
class DemonstrationSet:
    """A file's demonstrations in its order. ``name``: as the user wrote it; ``path``: None for what is not theirs."""

    name: str
    demonstrations: tuple[Demonstration, ...]
    path: Path | None

    @cached_property
    def version(self) -> str:
        """Content hash; the same as ``DemonstrationPool.version`` of a run that shows exactly these."""
        return content_version(self.demonstrations)


def open_set(name: str) -> DemonstrationSet:
    """A set by name: ``builtin:rank``, a JSONL file, or a run directory (its static and latest dynamic ones).

    Raises UserError: nothing there, or a bad record; names file and line.
    """
    if name.startswith("builtin:"):
        if name not in BUILTIN:
            raise UserError(f"no set {name}; packaged: {', '.join(BUILTIN)}")
        return DemonstrationSet(name, load_demonstrations(resource("prompts", BUILTIN[name])), None)
    path = Path(name).expanduser()
    if path.is_dir():
        return DemonstrationSet(name, (*run_static(path), *run_dynamic(path)), None)
    if not path.exists():
        raise UserError(f"{path}: no such set; expected a JSONL file, {', '.join(BUILTIN)}, or a run directory")
    return DemonstrationSet(name, load_demonstrations(path), path)


def run_static(run: Path) -> tuple[Demonstration, ...]:
    """The static demonstrations that a run uses. UserError where the directory holds no run."""
    file = RunDir(run).prompts / "demonstrations.jsonl"
    if not file.exists():
        raise UserError(f"{run}: not a run directory (no prompts/demonstrations.jsonl in it)")
    return load_demonstrations(file)


def run_dynamic(run: Path) -> tuple[Demonstration, ...]:
    """The dynamic demonstrations of a run's latest pool; none before its first interaction ended."""
    saved = [i.demonstrations for i in RunDir(run).interactions() if i.demonstrations.exists()]
    return tuple(d for d in load_demonstrations(saved[-1]) if d.source != "static") if saved else ()


def run_config(run: Path) -> DemonstrationsConfig:
    """How a run shows its demonstrations."""
    from cyclealign.config.loading import load_config

    return load_config(RunDir(run).config).demonstrations


def pool_of(found: DemonstrationSet, dynamic: str | None, *, token_budget: int, template: str) -> DemonstrationPool:
    """The set as a run would show it; a run directory brings its own template and way of showing.

    ``dynamic``: a saved pool or a run whose dynamic demonstrations take the place of the set's own.
    """
    config = DemonstrationsConfig(token_budget=token_budget)
    words = load_template(template)
    if Path(found.name).is_dir():
        config, words = run_config(Path(found.name)), load_template(str(Path(found.name) / "prompts/template.yaml"))
    held = found.demonstrations
    if dynamic:
        others = open_set(dynamic).demonstrations
        held = (*(d for d in held if d.source == "static"), *(d for d in others if d.source != "static"))
    pool = DemonstrationPool.start(config, static=[d for d in held if d.source == "static"], template=words)
    return replace(pool, dynamic=tuple(d for d in held if d.source != "static"))


def writable(found: DemonstrationSet) -> Path:
    """The file to change. UserError for packaged sets and runs."""
    if found.path is None:
        raise UserError(
            f"{found.name}: not a file of yours; copy it first: cyclealign demos export {found.name} MY.jsonl"
        )
    return found.path


def chosen(found: DemonstrationSet, prefixes: Sequence[str]) -> tuple[Demonstration, ...]:
    """The demonstrations whose ids begin so, one for each prefix. UserError for none or several."""
    picked = []
    for prefix in prefixes:
        matching = [d for d in found.demonstrations if d.id.startswith(prefix)]
        if len({d.id for d in matching}) != 1:
            problem = "no demonstration" if not matching else f"{len(matching)} demonstrations"
            raise UserError(f"{found.name}: {problem} with the id {prefix}; ids: cyclealign demos show {found.name}")
        picked.append(matching[0])
    return tuple(picked)


def add(found: DemonstrationSet, more: Sequence[Demonstration]) -> DemonstrationSet:
    """``found`` with ``more`` at its end, on disk too. UserError where one is there already."""
    have = {d.id for d in found.demonstrations}
    for demo in more:
        if demo.id in have:
            raise UserError(f"{found.name}: {demo.id} is in the set already")
        have.add(demo.id)
    return _saved(found, lambda demos: (*demos, *more))


def remove(found: DemonstrationSet, prefixes: Sequence[str]) -> DemonstrationSet:
    """``found`` without the demonstrations whose ids begin so, on disk too."""
    gone = {d.id for d in chosen(found, prefixes)}
    return _saved(found, lambda demos: tuple(d for d in demos if d.id not in gone))


def _saved(
    found: DemonstrationSet, change: Callable[[tuple[Demonstration, ...]], tuple[Demonstration, ...]]
) -> DemonstrationSet:
    path = writable(found)
    new = DemonstrationSet(found.name, change(found.demonstrations), path)
    save_demonstrations(path, new.demonstrations)
    return new


def free(path: Path, *, force: bool) -> Path:
    """The path, where it may be written. UserError where something is there (unless ``force``)."""
    if path.exists() and (path.is_dir() or not force):
        raise UserError(f"{path}: exists; choose another name or give --force")
    return path


def new_file(path: Path, demonstrations: Sequence[Demonstration], *, force: bool) -> DemonstrationSet:
    """Write a set to a new file. UserError where the file is there (unless ``force``) or nothing is to be written."""
    if not demonstrations:
        raise UserError(f"{path}: nothing to write: no demonstration is left")
    save_demonstrations(free(path, force=force), demonstrations)
    return DemonstrationSet(str(path), tuple(demonstrations), path)
