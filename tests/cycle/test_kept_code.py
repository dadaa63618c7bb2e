"""A run's own Python: its copy is what runs, where this user has run it; a run from elsewhere runs nothing."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from fakes import Fuse, Killed, config_in, make_cycle
from finished_run import finished_run

from cyclealign.cli.main import main
from cyclealign.config.black_box import BlackBoxConfig
from cyclealign.config.loading import dump_config, load_config
from cyclealign.cycle import starting
from cyclealign.cycle.kept_code import as_kept, hand_on_loss, with_kept_loss
from cyclealign.files.jsonl import read_jsonl
from cyclealign.files.records import read_record, write_record
from cyclealign.files.run_dir import RunDir
from cyclealign.files.run_state import CodeUsed, Versions
from cyclealign.rankers.by_name import open_ranker, open_scorer, ranker_spec, spec_of
from cyclealign.rankers.own_code import read_code
from cyclealign.rankers.own_function import OwnFunction
from cyclealign.types import UserError

FUNCTIONS = "def judge(messages, replies):\n    return [float(len(r)) for r in replies]\n\nother = judge\n"


def forget() -> None:
    """As another process would begin: nothing of the user's own is loaded."""
    for name in [n for n in sys.modules if n.startswith("cyclealign_own_")]:
        del sys.modules[name]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A user of its own, and a new run or a resume that ends where the parts would be made: with its code opened."""

    def opened(_: object, run: RunDir) -> RunDir:
        run.unlock()
        loaded = load_config(run.config)
        if loaded.black_box.judge == "python":
            open_ranker(as_kept(spec_of(loaded.black_box), run, "ranker"), lambda: pytest.fail("no ledger"))
        if loaded.cycle.scorer is not None:
            scorer = ranker_spec(loaded.cycle.scorer, flag="cycle.scorer", need="scores")
            open_scorer(as_kept(scorer, run, "scorer"))
        with_kept_loss(loaded, run)
        return run

    monkeypatch.setattr(starting, "_unlocked_on_failure", opened)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    yield
    forget()


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "imported"


def source(marker: Path) -> str:
    return f"with open({str(marker)!r}, 'a') as file:\n    file.write('x')\n\n{FUNCTIONS}"


def new_run(tmp_path: Path, *more: str) -> RunDir:
    box = ["black_box.backend=python", "black_box.path=mine.py:judge", "loss.name=rrhf"]
    words = [f"output_dir={tmp_path}", "name=r", "cycle.scorer=overlap", *box, *more]
    run = starting.new_cycle(load_config("quickstart", words))
    assert isinstance(run, RunDir)
    return run


def foreign(tmp_path: Path, marker: Path, monkeypatch: pytest.MonkeyPatch, *more: str) -> RunDir:
    """A run that another user has begun, and that has come here."""
    (tmp_path / "mine.py").write_text(source(marker))
    run = new_run(tmp_path, *more)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another"))
    forget()
    marker.unlink()
    return run


def refused(run: RunDir, marker: Path, message: str, **trust: bool) -> None:
    with pytest.raises(UserError, match=message):
        starting.resumed_cycle(run.path, **trust)
    assert not marker.exists()


def test_a_new_run_keeps_a_copy_and_goes_on_with_it(tmp_path: Path, marker: Path) -> None:
    (tmp_path / "mine.py").write_text(source(marker))
    run = new_run(tmp_path)
    assert marker.read_text() == "x"  # once, though it was opened twice
    code = read_code("mine.py:judge", "x")
    assert (run.prompts / "ranker.py").read_bytes() == code.source
    used = read_record(Versions, run.prompts / "versions.json")
    assert (used.ranker, used.scorer) == (CodeUsed(source="mine.py:judge", sha256=code.digest), None)
    (tmp_path / "mine.py").unlink()
    starting.resumed_cycle(run.path)


def test_a_mistake_in_the_file_is_found_before_a_directory_is_made(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def judge(:\n")
    with pytest.raises(UserError, match=r"black_box\.path: mine\.py, line 1: SyntaxError"):
        new_run(tmp_path)
    assert not (tmp_path / "r").exists()


def test_nothing_of_a_run_from_elsewhere_is_run_without_trust(
    tmp_path: Path, marker: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = foreign(tmp_path, marker, monkeypatch)
    refused(run, marker, r"ranker\.py: the run would run this Python \(judge, .*--trust-code")
    refused(run, marker, "--trust-code", trust_host=True)
    assert main(["resume", str(run.path)]) == 2
    assert "--trust-code" in capsys.readouterr().err
    assert not marker.exists()
    starting.resumed_cycle(run.path, trust_code=True)
    assert marker.read_text() == "x"
    forget()
    starting.resumed_cycle(run.path)  # this user has run it now
    assert marker.read_text() == "xx"


def swap_copy(run: RunDir, evil: Path) -> None:
    (run.prompts / "ranker.py").write_bytes(evil.read_bytes())


def swap_copy_and_record(run: RunDir, evil: Path) -> None:
    swap_copy(run, evil)
    versions = run.prompts / "versions.json"
    used = read_record(Versions, versions)
    assert used.ranker is not None
    found = replace(used.ranker, sha256=read_code(f"{evil}:judge", "x").digest)
    write_record(versions, replace(used, ranker=found))


def lose_record(run: RunDir, evil: Path) -> None:
    swap_copy(run, evil)
    (run.prompts / "versions.json").unlink()


def link(run: RunDir, evil: Path) -> None:
    (run.prompts / "ranker.py").unlink()
    (run.prompts / "ranker.py").symlink_to(evil)


def lose_copy(run: RunDir, _: Path) -> None:
    (run.prompts / "ranker.py").unlink()


def edit(text: str, evil: str) -> Callable[[RunDir, Path], None]:
    def edited(run: RunDir, _: Path) -> None:
        run.config.write_text(run.config.read_text().replace(text, evil))

    return edited


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (swap_copy, "is not what the run began with"),
        (swap_copy_and_record, "--trust-code"),
        (lose_record, "--trust-code"),
        (link, "is not what the run began with"),
        (lose_copy, "no file"),
        (edit("mine.py:judge", "evil.py:judge"), r"was edited: resume cannot change black_box\.path"),
        (edit("mine.py:judge", "../r/../evil.py:judge"), r"was edited: resume cannot change black_box\.path"),
        (edit("mine.py:judge", "mine.py:other"), r"was edited: resume cannot change black_box\.path"),
        (edit("scorer: overlap", "scorer: python:evil.py:judge"), r"resume cannot change cycle\.scorer"),
    ],
)
def test_what_was_trusted_once_is_no_trust_in_what_comes_in_its_place(
    tmp_path: Path,
    marker: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[RunDir, Path], None],
    message: str,
) -> None:
    run = foreign(tmp_path, marker, monkeypatch)
    starting.resumed_cycle(run.path, trust_code=True)
    marker.unlink()
    forget()
    evil = tmp_path / "evil.py"
    evil.write_text(f"# evil\n{source(marker)}")
    change(run, evil)
    refused(run, marker, message)


@pytest.mark.parametrize("place", ["mine.py:other", "../x/../evil.py:judge"])
def test_a_run_that_began_elsewhere_with_another_name_needs_its_own_trust(
    tmp_path: Path, marker: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """Config and marker both rewritten: the copy alone is run, and of it only the function that was trusted."""
    run = foreign(tmp_path, marker, monkeypatch)
    starting.resumed_cycle(run.path, trust_code=True)
    marker.unlink()
    forget()
    (tmp_path / "evil.py").write_text(f"# evil\n{source(marker)}")
    changed = dump_config(load_config(run.config, [f"black_box.path={place}"]))
    run.config.write_text(changed)
    write_record(run.began_file, replace(run.began(), config=changed))
    if place.endswith(":other"):
        refused(run, marker, r"\(other, .*--trust-code")
    else:
        starting.resumed_cycle(run.path)  # of the same name, so the trusted copy
        assert (run.prompts / "ranker.py").read_text() == source(marker)
        assert marker.read_text() == "x"


def test_a_scorer_is_held_to_the_same(tmp_path: Path, marker: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    more = ("black_box={backend: local}", "cycle.scorer=python:mine.py:judge")
    run = foreign(tmp_path, marker, monkeypatch, *more)
    used = read_record(Versions, run.prompts / "versions.json")
    assert used.ranker is None
    assert used.scorer is not None
    refused(run, marker, r"scorer\.py: .*--trust-code")
    starting.resumed_cycle(run.path, trust_code=True)
    assert marker.read_text() == "x"


LOSS = "def fall(student, teacher):\n    return -(student * teacher).sum()\n"


def test_a_loss_is_held_to_the_same(tmp_path: Path, marker: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.FUNCTIONS", LOSS)
    more = ("black_box={backend: local}", "loss={name: python, function: mine.py:fall}")
    run = foreign(tmp_path, marker, monkeypatch, *more)
    used = read_record(Versions, run.prompts / "versions.json")
    assert used.loss == CodeUsed(source="mine.py:fall", sha256=read_code("mine.py:fall", "x").digest)
    (tmp_path / "mine.py").unlink()
    refused(run, marker, r"loss\.py: .*--trust-code")
    starting.resumed_cycle(run.path, trust_code=True)
    assert marker.read_text() == "x"
    inner = RunDir(tmp_path / "inner")
    inner.prompts.mkdir(parents=True)
    config = load_config(run.config)
    hand_on_loss(config, run, inner)  # to the run over lists that a cycle begins with
    assert with_kept_loss(config, inner).loss != config.loss
    assert (inner.prompts / "loss.py").read_bytes() == (run.prompts / "loss.py").read_bytes()
    assert read_record(Versions, inner.prompts / "versions.json") == Versions(loss=used.loss)
    forget()
    marker.unlink()
    (run.prompts / "loss.py").write_text(f"# evil\n{source(marker)}")
    refused(run, marker, r"loss\.py: is not what the run began with")


def test_whoever_only_looks_runs_nothing(
    tmp_path: Path, marker: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = finished_run(tmp_path)
    evil = run.prompts / "ranker.py"
    evil.write_text(source(marker))
    config = load_config(run.config)
    box = BlackBoxConfig(backend="python", path=Path(f"{evil}:judge"))
    scored = config.cycle.model_copy(update={"scorer": f"python:{evil}:other"})
    run.config.write_text(dump_config(config.model_copy(update={"black_box": box, "cycle": scored})))
    again = tmp_path / "again"
    again.symlink_to(run.path)
    monkeypatch.chdir(run.prompts)
    for words in (
        ["status", str(run.path)],
        ["report", str(run.path)],
        ["report", str(run.path), str(run.path), "--out", str(tmp_path / "both.html")],
        ["export", str(run.path), "--pairs", "best_worst", "--out", str(tmp_path / "out")],
        ["eval", "compare", str(run.path), str(again), "--out", str(tmp_path / "compare.json")],
        ["judge", str(run.config), "--out", str(tmp_path / "judge.json")],
        ["run", str(run.config), "--dry-run"],
    ):
        code = main(words)
        said = capsys.readouterr()
        assert "Traceback" not in said.err, said.err
        assert code == 0 or words[0] in ("judge", "eval", "run") or "both.html" in words[-1], said.err
        assert not marker.exists(), words
    assert main(["judge", str(run.config), "--out", str(tmp_path / "judge.json")]) == 2
    assert "Python that you have not run before" in capsys.readouterr().err


def test_a_set_that_is_on_record_is_not_asked_again(tmp_path: Path) -> None:
    """Neither a ranked one nor one that the function could not rank; one call a list, over kills."""
    asked = tmp_path / "asked"
    (tmp_path / "mine.py").write_text(
        f"def judge(messages, replies):\n    with open({str(asked)!r}, 'a') as f:\n"
        "        f.write(messages[-1]['content'] + '|'.join(replies) + '\\n')\n"
        "    if '3' in messages[-1]['content']:\n        raise ValueError('no')\n"
        "    return [int(r, 16) for r in replies]\n"
    )
    config = config_in(tmp_path / "runs", black_box={"max_unranked": 1.0}, cycle={"max_interactions": 1})
    box = OwnFunction(read_code(f"{tmp_path}/mine.py:judge", "x"), "x")
    for steps in (3, 7, 11, None):
        cycle = make_cycle(config, fuse=Fuse(steps), eval_prompts=0)
        cycle.parts = replace(cycle.parts, black_box=box)
        if steps is None:
            run = cycle.run()
        else:
            with pytest.raises(Killed):
                cycle.run()
    verdicts = [r for file in sorted(run.glob("interactions/*/black_box.jsonl")) for r in read_jsonl(file)]
    assert len(verdicts) == 10
    lines = asked.read_text().splitlines()
    assert len(lines) == len(set(lines)) == 10
