"""What answers at once: the help, and every command that reads, shows or asks an API, none of which loads torch.

Each command is run for real, in a process of its own, on files that it really reads.
"""

from __future__ import annotations

import ast
import json
import os
import re
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes import config_in, make_cycle
from loopback import Loopback

from cyclealign.config.loading import dump_config
from cyclealign.files.atomic import write_atomic

ROOT = Path(__file__).resolve().parents[2]
HELP_SECONDS = 0.5
FIRST_CALL_SECONDS = 2.0
COMMANDS = (
    ("status", "run"),
    ("report", "run"),
    ("report", "run", "other"),
    ("demos", "show", "builtin:rank"),
    ("demos", "diff", "builtin:rank", "run/interactions/0000/demonstrations.jsonl"),
    ("demos", "lint", "builtin:rank"),
    ("prompts", "lint", "rank"),
    ("prompts", "render", "rank"),
    ("rank", "sets.jsonl", "--ranker", "openai:judge", "base_url={url}", "--out", "ranked.jsonl"),
    ("eval", "ranker", "pairs.jsonl", "--ranker", "openai:judge", "base_url={url}", "--out", "ranker.json"),
    ("eval", "winrate", "a.jsonl", "b.jsonl", "--ranker", "openai:judge", "base_url={url}", "--out", "winrate.json"),
    ("judge", "judge", "base_url={url}", "--limit", "4", "--out", "judges.json"),
    ("judge", "judge", "base_url={url}", "--limit", "4", "--dry-run"),
    ("demos", "export", "builtin:rank", "shown.jsonl"),
    ("run", "quickstart", "--dry-run", "training.learning_rate=1e-5"),
    ("run", "paid.yaml", "--dry-run"),
)
HEAVY = ("torch", "transformers", "sentence_transformers", "datasets", "accelerate", "peft", "trl")
ONE = """
import json, sys
from cyclealign.cli.main import main
code = main(sys.argv[1:])
loaded = sorted({m.partition(".")[0] for m in sys.modules} & set(%r))
print("LOADED", json.dumps([code, loaded]))
"""
PAID = """\
name: paid
data: {prompts: builtin:openers-train}
black_box: {backend: openai, model: judge, price: {input: 1, output: 2}, budget_usd: 1}
training: {per_device_train_batch_size: 2, lr_scheduler_type: cosine, report_to: none}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two finished runs of stand-ins, and a file of each kind."""
    home = tmp_path_factory.mktemp("files")
    for name in ("run", "other"):
        config = config_in(home).model_copy(update={"name": name})
        make_cycle(config).run()
        write_atomic(config.run_dir / "config.yaml", dump_config(config))
    questions = [f"What is {n} and {n}?" for n in range(6)]
    rows = {
        "sets": [{"prompt": q, "candidates": [q[::-1], q]} for q in questions],
        "pairs": [{"prompt": q, "chosen": q + " Yes.", "rejected": "No."} for q in questions],
        "a": [{"prompt": q, "response": "A long answer."} for q in questions],
        "b": [{"prompt": q, "response": "No."} for q in questions],
    }
    for name, found in rows.items():
        (home / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found))
    (home / "paid.yaml").write_text(PAID)
    return home


@pytest.fixture(scope="module")
def judge() -> Iterator[str]:
    with Loopback() as server:
        yield server.url


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_command_that_needs_no_torch_loads_none(command: tuple[str, ...], folder: Path, judge: str) -> None:
    words = [word.format(url=judge) for word in command]
    done = subprocess.run(
        [sys.executable, "-c", ONE % (HEAVY,), *words],
        cwd=folder, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert "LOADED" in done.stdout, done.stderr
    assert json.loads(done.stdout.partition("LOADED")[2]) == [0, []], done.stderr


@pytest.mark.long
def test_rank_asks_its_judge_at_once(folder: Path) -> None:
    """Within two seconds of its start, the start of Python included; best of three, in wall time where there is no
    other work."""
    waits = []
    for attempt in range(3):
        with Loopback() as server:
            words = ("rank", "sets.jsonl", "--ranker", "openai:judge", f"base_url={server.url}")
            began = time.monotonic()
            subprocess.run(
                [sys.executable, "-m", "cyclealign", *words, "--out", f"first{attempt}.jsonl"],
                cwd=folder, capture_output=True, check=True, timeout=120,
            )  # fmt: skip
        waits.append(server.times[0] - began)
    print(f"rank: first call after {min(waits):.2f} s")
    assert min(waits) < FIRST_CALL_SECONDS or os.getloadavg()[0] > 1


# The help of a program with one command: what Python, typer and rich take before there is anything of ours.
EMPTY_HELP = """
import typer
app = typer.Typer(rich_markup_mode="rich")
app.command()(lambda: None)
app(args=["--help"], standalone_mode=False)
"""


def test_help_answers_at_once() -> None:
    """Under half a second, of which a third at most is ours. Best of several starts, in processor time.

    Beside other work (the suite runs two processes) the processor itself is slower: there only our part is held.
    """

    def seconds(*arguments: str) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *arguments], capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime

    pairs = [(seconds("-c", EMPTY_HELP), seconds("-m", "cyclealign", "--help")) for _ in range(12)]
    empty, best = (min(values) for values in zip(*pairs, strict=True))
    print(f"--help: {best:.2f} s, of an empty program {empty:.2f} s")
    assert best - empty < HELP_SECONDS / 3
    assert best < HELP_SECONDS or os.getloadavg()[0] > 1


def imports_in(page: Path) -> Iterator[str]:
    """The import lines of ours in a page's code blocks and inline code, as statements."""
    text = page.read_text(encoding="utf-8")
    for block in re.findall(r"```[a-z]*\n(.*?)```", text, re.DOTALL):
        lines = re.findall(r"^[ >$]*((?:from|import) cyclealign\b[^\n(]*(?:\([^)]*\))?)", block, re.MULTILINE)
        yield from (line.split("  #")[0].strip() for line in lines)
    yield from re.findall(r"`(from cyclealign[\w.]* import [\w, ]+)`", text)


PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
IMPORTS = sorted({(p.name, line) for p in PAGES for line in imports_in(p)})


def test_pages_have_imports_to_check() -> None:
    assert len(IMPORTS) >= 3
    assert any(page == "README.md" for page, _ in IMPORTS)


@pytest.mark.parametrize(("page", "line"), IMPORTS)
def test_what_a_page_imports_is_there(page: str, line: str) -> None:  # noqa: ARG001
    ast.parse(line)
    exec(line, {})
