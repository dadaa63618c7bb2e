"""docs/tutorial.md followed: in short with the packaged model, and literally; its notebook is of it, and runs."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from follow import script
from links import ROOT
from notebook import NOTEBOOK, PAGE, notebook
from page_blocks import Block, Prose, blocks, parts

from cyclealign.cli.main import main

TEXT = PAGE.read_text(encoding="utf-8")
STATED = re.findall(r"^\| `(runs/bicycle/\S+)` \|", TEXT, re.M)
# A folder that `recipes/smollm2.py` wrote, for machines that cannot fetch the model.
MODEL = os.environ.get("CYCLEALIGN_SMOLLM2")
SMALLER = {
    "model: models/smollm2": "model: builtin:tiny-chat",
    "prompts: questions.jsonl": "limit: 4\n  prompts: questions.jsonl",
    "max_new_tokens: 64": "max_new_tokens: 8",
    "min_distinct2: 0.7": "keep: last",
    ":8399": ":{port}",
    '"127.0.0.1", 8399': '"127.0.0.1", {port}',
}


def test_the_parts_are_the_page() -> None:
    found = list(parts('# A\n\n```sh\nls\n```\n\nb\n\n```python title="x.py"\npass\n```\n'))
    assert found == [Prose("# A"), Block("sh", "", "ls\n"), Prose("b"), Block("python", "x.py", "pass\n")]
    assert TEXT.count("\n```") == 2 * len(blocks(PAGE))


def test_a_script_holds_files_and_commands_in_order(tmp_path: Path) -> None:
    told = [Block("bash", "", "false\n"), Block("text", "", "not run\n"), Block("sh", "", "cat a\n")]
    whole = script([Block("yaml", "a", "$HOME `x` 'y'\n"), *told], install=False)
    done = subprocess.run(["bash", "-c", whole], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "$HOME `x` 'y'\n")
    assert subprocess.run(["bash", "-c", script(told, install=True)], cwd=tmp_path, check=False).returncode == 1


def test_the_notebook_is_made_from_the_page() -> None:
    assert NOTEBOOK.read_text(encoding="utf-8") == notebook()
    cells = ["".join(cell["source"]) for cell in json.loads(notebook())["cells"] if cell["cell_type"] == "code"]
    assert "!mkdir -p runs/tutorial\n%cd -q runs/tutorial" in cells
    assert "%env OPENAI_API_KEY=stand-in" in cells
    assert any(cell.startswith("%%bash --bg\npython judge.py") for cell in cells)
    run = [block for block in blocks(PAGE) if block.title or block.language == "sh"]  # the rest is there to be read
    assert len(cells) == 1 + len(run)


@pytest.fixture
def judge_stopped() -> Iterator[list[subprocess.Popen[bytes]]]:
    running: list[subprocess.Popen[bytes]] = []
    yield running
    for process in running:
        process.kill()
        process.wait()


def test_the_tutorial_in_short(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    judge_stopped: list[subprocess.Popen[bytes]],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    for block in blocks(PAGE):
        if block.title:
            Path(block.title).write_text(smaller(block.text, port), encoding="utf-8")
        for line in block.text.splitlines() if block.language == "sh" else ():
            step(line, monkeypatch, judge_stopped)
    assert len(STATED) == 5
    assert [name for name in STATED if not Path(name).exists()] == []
    assert Path("doctor.txt").exists()


def smaller(text: str, port: int) -> str:
    for given, by in SMALLER.items():
        text = text.replace(given, by.format(port=port))
    return text


def step(line: str, monkeypatch: pytest.MonkeyPatch, running: list[subprocess.Popen[bytes]]) -> None:
    """One command of the page: ours in this process, others by a shell; the model is not fetched."""
    words = shlex.split(line)
    match words:
        case ["cd", folder]:
            monkeypatch.chdir(folder)
        case ["export", setting]:
            monkeypatch.setenv(*setting.split("=", 1))
        case ["cyclealign", *arguments]:
            own = arguments[: next((i for i, word in enumerate(arguments) if word in (">", "|")), len(arguments))]
            assert main(own) == 0, line
            if ">" in arguments:
                Path(arguments[-1]).touch()
        case ["python", "judge.py", *_]:
            running.append(subprocess.Popen([sys.executable, "judge.py"]))
        case ["python", *_] | ["kill", *_]:
            pass
        case _:
            subprocess.run(["bash", "-c", line], check=True)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_the_tutorial_literally(tmp_path: Path) -> None:
    checkout = clone(tmp_path)
    whole = script(blocks(PAGE), install=False).replace(*fetched())
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    assert subprocess.run(["bash", "-c", whole], cwd=checkout, env=environment).returncode == 0
    assert [name for name in STATED if not (checkout / "runs/tutorial" / name).exists()] == []


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient = pytest.importorskip("nbclient", reason="needs extra docs")
    nbformat = pytest.importorskip("nbformat", reason="needs extra docs")
    checkout = clone(tmp_path)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    found = nbformat.reads(notebook().replace(*fetched()), as_version=4)
    nbclient.NotebookClient(found, timeout=3600, resources={"metadata": {"path": str(checkout / "docs")}}).execute()
    assert [name for name in STATED if not (checkout / "runs/tutorial" / name).exists()] == []


def clone(folder: Path) -> Path:
    """What the tutorial takes from a checkout."""
    for name in ("docs", "recipes"):
        shutil.copytree(ROOT / name, folder / name)
    return folder


def fetched() -> tuple[str, str]:
    """The line that fetches the model, and one that takes it from ``CYCLEALIGN_SMOLLM2`` where that is set."""
    [line] = [b.text.strip() for b in blocks(PAGE) if "recipes/smollm2.py" in b.text]
    return line, f"mkdir -p models && ln -sfn {MODEL} models/smollm2" if MODEL else line
