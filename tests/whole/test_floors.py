"""The house: every file in a folder, imports only down, no circle between files; heavy packages have few owners.

Reads the source by ``ast``: imports inside functions and under TYPE_CHECKING count like all others. As a program it
prints the figures: ``python tests/whole/test_floors.py``.
"""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2] / "cyclealign"

# From the roof to the ground: what stands in a row may import from the rows below it and from itself, never from its
# neighbours in the row.
FLOORS = (
    ("__main__",),
    ("cli",),
    ("curation",),
    ("reporting", "cycle", "distill"),
    ("evaluation", "scores", "training"),
    ("rankers",),
    ("judge", "generation"),
    ("models",),
    ("config",),
    ("files",),
    ("losses", "types"),
)
HEIGHT = {name: -row for row, names in enumerate(FLOORS) for name in names}
# Who may import what; a run that does not use it does not load it.
OWNERS = {
    "openai": {"judge.client", "generation.endpoint"},
    "httpx2": {"judge.client", "judge.bodies", "judge.transport"},
    "aiohttp": {"judge.client", "judge.transport"},
    "yarl": {"judge.transport"},
    "genai_prices": {"judge.prices"},
    "gepa": {"curation.instruction_search"},
    "vllm": {"generation.vllm", "generation.vllm_worker"},
    "trl": {"training.warm_start"},
    "sentence_transformers": {
        "rankers.witnesses",
        "judge.demonstrations",
        "rankers.reward_model",
        "rankers.encoders",
        "distill.adapters",
        "distill.students",
        "distill.effectiveness",
        "models.pair_model",
        "models.cross_encoders",
        "distill.coherence_model",
        "distill.quantidce",
        "training.embedding_teacher",
        "distill.leaf_models",
        "distill.leaf_retention",
        "distill.leaf_training",
        "distill.cprd",
        "distill.idcm_model",
        "models.image_encoder",
    },
}
# The loop, a run's records and the agreement of rankings are read, typed and tested without a model.
NO_MODEL = ("cycle.loop", "cycle.interaction", "cycle.agreeing", "cycle.team", "files.", "types")
STANDARD_LIBRARY = ("rankers.agreement", "rankers.chance", "types")


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(p): p for p in sorted(ROOT.rglob("*.py"))}
NAMES = set(FILES) - {""}


@cache
def source(module: str) -> ast.Module:
    return ast.parse(FILES[module].read_text(encoding="utf-8"))


def imported(tree: ast.AST) -> Iterator[str]:
    """Full names of everything that is imported anywhere in a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def at_import_time(tree: ast.Module) -> Iterator[str]:
    """Of those, what runs when the module is imported: outside functions and TYPE_CHECKING."""

    def walk(statements: list[ast.stmt]) -> Iterator[str]:
        for node in statements:
            if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
                yield from walk(node.orelse)
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            elif isinstance(node, ast.Import | ast.ImportFrom):
                yield from imported(node)
            else:
                inner = [s for s in ast.iter_child_nodes(node) if isinstance(s, ast.stmt)]
                yield from walk(inner)

    yield from walk(tree.body)


def own(names: Iterator[str]) -> set[str]:
    """Those of our own modules among them, without the package's name."""
    found = set()
    for name in names:
        head, _, rest = name.partition(".")
        while head == "cyclealign" and rest:
            if rest in NAMES:
                found.add(rest)
                break
            rest = rest.rpartition(".")[0]
    return found


def entry(module: str) -> str:
    """What stands at the package root: a folder, or a file."""
    return module.partition(".")[0]


@cache
def graph() -> dict[str, set[str]]:
    return {name: own(imported(source(name))) - {name} for name in NAMES}


@cache
def arrows() -> set[tuple[str, str]]:
    """The package's face only maps public names to modules, at first use: it is no floor."""
    return {(entry(m), entry(other)) for m in NAMES for other in graph()[m]} - {(e, e) for e in map(entry, NAMES)}


def circle(graph: dict[str, set[str]]) -> list[str]:
    """One circle of a graph, empty when there is none."""
    try:
        tuple(graphlib.TopologicalSorter(graph).static_order())
    except graphlib.CycleError as error:
        return list(error.args[1])
    return []


def folder_circle() -> list[str]:
    return circle({e: {low for high, low in arrows() if high == e} for e in map(entry, NAMES)})


def loose() -> list[str]:
    """Files at the package root but for its face and ``types.py``."""
    return sorted(p.name for p in ROOT.glob("*.py") if p.stem not in ("__init__", "__main__", "types"))


def entries() -> list[str]:
    """What a visitor sees at the package root; packaged data and the marker of typed packages are not code."""
    return sorted(e for e in {p.relative_to(ROOT).parts[0] for p in ROOT.rglob("*.py")} if e != "assets")


def figures() -> str:
    lines = (
        f"entries at the package root: {len(entries())} (at most 20)",
        f"imports between them: {len(arrows())} (at most 100)",
        f"circles: {bool(circle(graph())) + 0} between files, {bool(folder_circle()) + 0} between folders (0)",
        f"files outside a folder, beside types.py and the face: {len(loose())} (0)",
    )
    return "\n".join(lines)


def test_the_root_is_small_and_every_file_stands_in_a_folder() -> None:
    print(figures())
    assert loose() == []
    assert len(entries()) <= 20
    assert len(arrows()) <= 100
    assert {entry(m) for m in NAMES} == set(HEIGHT), "FLOORS names every entry and no other"
    assert all(len(p.relative_to(ROOT).parts) <= 2 for p in ROOT.rglob("*.py")), "folder/file, never deeper"


def test_imports_go_down() -> None:
    across = {(m, o) for m in NAMES for o in graph()[m] if entry(m) != entry(o)}
    upward = {(m, o) for m, o in across if HEIGHT[entry(o)] >= HEIGHT[entry(m)]}
    assert not upward


def test_there_is_no_circle() -> None:
    assert not circle(graph())
    assert not folder_circle()


@pytest.mark.parametrize("folder", sorted(p.parent.name for p in ROOT.glob("*/__init__.py")))
def test_a_folder_is_its_one_line(folder: str) -> None:
    tree = source(folder)
    assert ast.get_docstring(tree)
    if folder != "losses":
        assert len(tree.body) == 1, "code in an __init__ is loaded with every module of its folder"


@pytest.mark.parametrize("package", sorted(OWNERS))
def test_heavy_packages_have_owners(package: str) -> None:
    users = {m for m in NAMES if any(n.partition(".")[0] == package for n in imported(source(m)))}
    assert users <= OWNERS[package]


@pytest.mark.parametrize(
    "module", sorted(m for m in NAMES if entry(m) in ("cli", "curation", "cycle", "reporting", "evaluation", "scores"))
)
def test_the_loop_and_the_faces_do_not_load_heavy_packages(module: str) -> None:
    """Nothing that importing this module imports in turn brings one in."""
    reached, left = {module}, [module]
    while left:
        for other in own(at_import_time(source(left.pop()))) - reached:
            reached.add(other)
            left.append(other)
    for other in reached:
        assert not {n.partition(".")[0] for n in at_import_time(source(other))} & set(OWNERS), other


def test_the_ground_and_the_loop_know_no_model() -> None:
    for module in STANDARD_LIBRARY:
        outside = {n.partition(".")[0] for n in imported(source(module))} - {"cyclealign"}
        assert outside <= set(sys.stdlib_module_names), module
    for module in (m for m in NAMES if m.startswith(NO_MODEL)):
        heavy = {n.partition(".")[0] for n in at_import_time(source(module))}
        assert not heavy & {"torch", "transformers", "peft", "datasets"}, module


def test_file_formats_know_no_ranker() -> None:
    for module in ("scores.formats", "scores.jsonl_formats", "scores.tsv_formats", "scores.score_list"):
        assert not {m for m in own(imported(source(module))) if m.startswith(("rankers", "judge"))}, module


def test_help_needs_nothing_heavy() -> None:
    code = (
        "import sys, cyclealign.cli.main as c; c.main(['--help']);"
        "print('LOADED', sorted({m.partition('.')[0] for m in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = done.stdout.partition("LOADED")[2]
    for package in ("torch", "transformers", "pydantic", "numpy", "openai", "datasets", "yaml"):
        assert f"'{package}'" not in loaded


if __name__ == "__main__":
    print(figures())
