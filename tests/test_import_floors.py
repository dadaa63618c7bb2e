"""The house's floors: imports go down or stay on the floor, there is no circle, heavy packages have one owner each.

Reads the source by ``ast``: imports inside functions and under TYPE_CHECKING count like all others.
"""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent / "cyclealign"

# A package stands for all of its modules.
FLOORS: dict[int, set[str]] = {
    1: {
        *("types", "losses", "logprobs", "lm_head", "prefix_cache", "ledger", "resources", "strict_yaml", "chance"),
        *("atomic", "endpoints", "extras", "intervals", "model_loading"),
    },
    2: {
        *("agreement", "pruning", "rank_template", "replies", "prompting", "demonstration_files", "demonstrations"),
        *("config", "config_errors", "config_loading", "training_keys", "training_setup"),
    },
    3: {
        *(
            "processes",
            "records",
            "data",
            "dialogues",
            "collator",
            "generation",
            "rankers",
            "policy",
            "chat_template",
            "layouts",
            "scoring",
            "scorers",
        ),
        *("score_formats", "score_calibration", "score_store", "score_mix", "teachers"),
        *("checkpoints", "saved_models", "environment", "policy_scorer", "embedding_teacher", "pair_models"),
        *("classifiers", "image_encoder"),
    },
    4: {
        *("trainer", "learning_state", "trainable", "warm_start", "run_dir", "team", "hosts", "evaluating"),
        *("interaction", "cycle", "cascade_fits", "building", "distill", "tracking", "run_metrics"),
    },
    5: {
        *("report", "reporting", "status", "progress", "summary", "dry_run", "rank_file", "model_card", "export"),
        *("doctor", "cli", "curation", "cli_demos", "cli_demos_measure", "cli_prompts", "__main__"),
        *("evaluation", "cli_eval", "comparison"),
        *("score_plan", "score_job", "cli_score", "cli_distill"),
    },
}
# The public face: ``Cycle.from_config`` builds a cycle of the parts that ``building`` knows. Inside the function.
UPWARD = {("cycle", "building")}
# Who may import what; a run that does not use it does not load it.
OWNERS = {
    "openai": {"rankers.black_box", "rankers.paid_calls", "generation.openai_server"},
    "vllm": {"generation.vllm", "generation.vllm_worker"},
    "trl": {"warm_start"},
    "sentence_transformers": {
        "scorers",
        "demonstrations",
        "rankers.reward_model",
        "rankers.encoders",
        "distill.adapters",
        "distill.students",
        "distill.effectiveness",
        "pair_models.base",
        "pair_models.loading",
        "distill.coherence_model",
        "distill.quantidce",
        "embedding_teacher",
        "distill.leaf_models",
        "distill.leaf_retention",
        "distill.leaf_training",
        "distill.cprd",
        "distill.idcm_model",
        "image_encoder",
    },
}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {module_name(p): ast.parse(p.read_text(encoding="utf-8")) for p in sorted(ROOT.rglob("*.py"))}
NAMES = set(SOURCES) - {""}


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


GRAPH = {name: own(imported(SOURCES[name])) - {name} for name in NAMES}
# The package itself only maps public names to modules, at first use.
FLOOR = {module: floor for floor, modules in FLOORS.items() for module in modules}


def floor(module: str) -> int:
    return FLOOR.get(module.partition(".")[0], 0)


def test_every_module_has_a_floor() -> None:
    assert {n.partition(".")[0] for n in NAMES} <= set(FLOOR), "give the new module a floor"


def test_imports_go_down() -> None:
    upward = {(module, other) for module in NAMES for other in GRAPH[module] if floor(other) > floor(module)} - UPWARD
    assert not upward


def test_there_is_no_circle() -> None:
    graph = {m: {o for o in others if (m, o) not in UPWARD} for m, others in GRAPH.items()}
    try:
        tuple(graphlib.TopologicalSorter(graph).static_order())
    except graphlib.CycleError as error:
        pytest.fail(f"circle: {' -> '.join(error.args[1])}")


def test_the_allowed_way_up_is_inside_a_function() -> None:
    for module, other in UPWARD:
        assert other in GRAPH[module], "no longer needed: take it out of UPWARD"
        assert other not in own(at_import_time(SOURCES[module]))


@pytest.mark.parametrize("package", sorted(OWNERS))
def test_heavy_packages_have_owners(package: str) -> None:
    users = {m for m in NAMES if any(n.partition(".")[0] == package for n in imported(SOURCES[m]))}
    assert users <= OWNERS[package]


@pytest.mark.parametrize("module", sorted(m for m in NAMES if floor(m) >= 4))
def test_the_loop_and_the_faces_do_not_load_heavy_packages(module: str) -> None:
    """Nothing that importing this module imports in turn brings one in."""
    reached, left = {module}, [module]
    while left:
        for other in own(at_import_time(SOURCES[left.pop()])) - reached:
            reached.add(other)
            left.append(other)
    for other in reached:
        assert not {n.partition(".")[0] for n in at_import_time(SOURCES[other])} & set(OWNERS), other


def test_the_first_floor_and_the_loop_know_no_model() -> None:
    """types and agreement are standard library; the loop runs without torch being asked for anything."""
    for module in ("types", "agreement", "chance"):
        outside = {n.partition(".")[0] for n in imported(SOURCES[module])} - {"cyclealign"}
        assert outside <= set(sys.stdlib_module_names), module
    for module in ("cycle", "interaction", "team", "run_dir"):
        heavy = {n.partition(".")[0] for n in imported(SOURCES[module])} & {"torch", "transformers", "peft", "datasets"}
        assert not heavy, module


def test_help_needs_nothing_heavy() -> None:
    code = (
        "import sys, cyclealign.cli as c; c.main(['--help']);"
        "print('LOADED', sorted({m.partition('.')[0] for m in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = done.stdout.partition("LOADED")[2]
    for package in ("torch", "transformers", "pydantic", "numpy", "openai", "datasets", "yaml"):
        assert f"'{package}'" not in loaded
