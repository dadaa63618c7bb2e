"""What a run may write over: what a run began, and nothing else."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from finished_run import finished_run

from cyclealign.cli.main import main
from cyclealign.config.loading import dump_config, load_config
from cyclealign.cycle import starting
from cyclealign.cycle.export import Exports, export_run
from cyclealign.distill.config import DistillConfig
from cyclealign.files.began import MARKER, Began, began, lines_of
from cyclealign.files.locks import held
from cyclealign.files.records import read_record, write_record
from cyclealign.files.run_dir import RunDir
from cyclealign.types import Prompt, UserError

PROMPTS = [Prompt(({"role": "user", "content": t},)) for t in ("one", "two", "three")]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("name", ["start/thesis.txt", "prompts/p.txt", "config.yaml", "best/x", ".hidden"])
def test_a_directory_that_never_was_a_run_is_left_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    file = tmp_path / "mine" / name
    file.parent.mkdir(parents=True)
    file.write_text("years of work")
    before = contents(tmp_path)
    assert main(["run", "quickstart", f"output_dir={tmp_path}", "name=mine"]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert "is not empty" in lines[0]
    assert "no run of cyclealign began in it" in lines[0]
    assert contents(tmp_path) == before


def test_an_empty_directory_is_free(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.create("name: a\n", PROMPTS)
    run.unlock()
    assert [p.id for p in run.train_prompts()] == [p.id for p in PROMPTS]


def test_a_run_that_ended_at_its_start_begins_again_and_removes_only_what_it_wrote(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    run.create("name: a\n", PROMPTS)
    run.unlock()
    for name in ("notes.txt", "prompts/mine.txt", "interactions/plan.txt", "evaluations/0000/canary.json"):
        (run.path / name).parent.mkdir(parents=True, exist_ok=True)
        (run.path / name).write_text("kept")
    run.state_file.write_text("of the first launch")
    run.create("name: b\n", PROMPTS[:1])
    run.unlock()
    assert run.config.read_text() == "name: b\n"
    assert len(run.train_prompts()) == 1
    assert not run.state_file.exists()
    assert [n for n, c in contents(run.path).items() if c == b"kept"] == [
        *("evaluations/0000/canary.json", "interactions/plan.txt", "notes.txt", "prompts/mine.txt")
    ]


@pytest.mark.parametrize("name", ["interactions/0000/candidates.jsonl", "evaluations/0000/candidates.jsonl", "start/x"])
def test_a_run_with_work_is_to_be_resumed(tmp_path: Path, name: str) -> None:
    run = RunDir(tmp_path / "run")
    run.create("name: a\n", PROMPTS)
    run.unlock()
    (run.path / name).parent.mkdir(parents=True)
    (run.path / name).write_text("work")
    before = contents(run.path)
    with pytest.raises(UserError, match="cyclealign resume"):
        run.create("name: b\n")
    assert contents(run.path) == before


def test_two_launches_at_once(tmp_path: Path) -> None:
    first, second = RunDir(tmp_path / "run"), RunDir(tmp_path / "run")
    first.create("name: a\n", PROMPTS)
    with pytest.raises(UserError, match="in use by another process"):
        second.create("name: b\n")
    first.unlock()
    assert first.config.read_text() == "name: a\n"


def test_what_a_run_began_with_is_on_record(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    run.create("name: a\n", PROMPTS)
    run.unlock()
    text = (run.prompts / "train.jsonl").read_text()
    files = {"prompts/train.jsonl": lines_of(text.splitlines(keepends=True)), "prompts/eval.jsonl": lines_of(())}
    assert run.began() == Began(what="run", config="name: a\n", files=files)
    assert files["prompts/train.jsonl"].count == 3


@pytest.mark.parametrize("left", [0, 2, None])
def test_prompts_that_are_lost_or_torn_are_no_shorter_run(tmp_path: Path, left: int | None) -> None:
    run = begun(tmp_path)
    file = run.prompts / "train.jsonl"
    if left is None:
        file.unlink()
    else:
        file.write_text("".join(file.read_text().splitlines(keepends=True)[:left]))
    with pytest.raises(UserError, match=r"train\.jsonl: .*put it back from a copy"):
        starting.resumed_cycle(run.path)


def begun(folder: Path) -> RunDir:
    run = RunDir(folder / "run")
    run.create(dump_config(load_config("quickstart", [f"output_dir={folder}", "name=run"])), PROMPTS)
    run.unlock()
    return run


def test_a_config_that_was_edited_is_refused_with_the_difference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(starting, "_unlocked_on_failure", lambda _, run: run.unlock())
    run = begun(tmp_path)
    text = run.config.read_text()
    run.config.write_text(text.replace("seed: 42", "seed: 43"))
    with pytest.raises(UserError, match=r"config\.yaml was edited: resume cannot change seed \(from 42 to 43\)"):
        starting.resumed_cycle(run.path)
    run.config.write_text(text)
    starting.resumed_cycle(run.path, ["black_box.max_concurrency=3"])
    starting.resumed_cycle(run.path)  # what may change may also have changed before
    run.began_file.unlink()
    with pytest.raises(UserError, match=r"no began\.json"):
        starting.resumed_cycle(run.path)


def test_quickstart_passes_by_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "quickstart").mkdir()
    (tmp_path / "quickstart-2").write_text("a file")
    seen: list[str] = []
    monkeypatch.setattr("cyclealign.cli.main._execute", lambda _, path: seen.append(path.name))
    assert main(["quickstart", f"output_dir={tmp_path}"]) == 0
    assert seen == ["quickstart-3"]


@pytest.mark.parametrize("name", ["preferences.jsonl", "adapter/thesis.txt"])
def test_an_export_writes_over_exports_alone(tmp_path: Path, name: str) -> None:
    run, out = finished_run(tmp_path), tmp_path / "out"
    both = Exports(pairs="best_worst", adapter=True)
    first = export_run(run.path, both, out)
    assert export_run(run.path, both, out) == first
    assert read_record(Began, out / MARKER).wrote == ("preferences.jsonl", "adapter")
    other = tmp_path / "other" / name
    other.parent.mkdir(parents=True)
    other.write_text("mine")
    with pytest.raises(UserError, match="which no export wrote"):
        export_run(run.path, both, tmp_path / "other")
    assert other.read_text() == "mine"
    assert [p.name for p in other.parent.iterdir()] == [other.name] or name == "adapter/thesis.txt"


def test_a_distillation_leaves_other_directories_alone(tmp_path: Path) -> None:
    from cyclealign.distill.list_distiller import ListSummary
    from cyclealign.distill.run import claim

    config = DistillConfig(name="d", output_dir=tmp_path)
    config.run_dir.mkdir()
    (config.run_dir / "config.yaml").write_text("mine")
    with pytest.raises(UserError, match="no distillation of cyclealign began in it"):
        claim(ListSummary, config)
    assert contents(config.run_dir) == {"config.yaml": b"mine"}
    (config.run_dir / "config.yaml").unlink()
    assert claim(ListSummary, config) is None
    found = began(config.run_dir, "distillation")
    assert found is not None
    with pytest.raises(UserError, match="holds a distillation, expected a run"):
        began(config.run_dir, "run")


def test_two_distillations_at_once(tmp_path: Path) -> None:
    from cyclealign.distill.run import once
    from cyclealign.distill.summaries import ListSummary

    config = DistillConfig(name="d", output_dir=tmp_path)
    summary = ListSummary(lists=1, pairs=2, steps=3, first_loss=None, last_loss=None)

    def never() -> ListSummary:
        raise AssertionError("a second process trained")

    def train() -> ListSummary:
        with pytest.raises(UserError, match=r"/d is in use by another process$"):
            once(ListSummary, config, never, sentence_transformers=False)
        assert not (config.run_dir / "summary.json").exists()
        return summary

    assert once(ListSummary, config, train, sentence_transformers=False) == summary
    assert sorted(contents(config.run_dir)) == [MARKER, "config.yaml", "inputs.json", "summary.json"]
    assert once(ListSummary, config, never, sentence_transformers=False) == summary  # it has ended


def test_a_distillation_that_fails_gives_its_directory_back(tmp_path: Path) -> None:
    from cyclealign.distill.run import once
    from cyclealign.distill.summaries import ListSummary

    def fails() -> ListSummary:
        raise UserError("a model that cannot be loaded")

    config = DistillConfig(name="d", output_dir=tmp_path)
    for _ in range(2):
        with pytest.raises(UserError, match="cannot be loaded"):
            once(ListSummary, config, fails, sentence_transformers=False)
    config.run_dir.joinpath("x").mkdir()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    other = DistillConfig(name="mine", output_dir=tmp_path)
    with pytest.raises(UserError, match="nothing in it was touched"):
        once(ListSummary, other, fails, sentence_transformers=False)
    assert contents(other.run_dir) == {"thesis.txt": b"mine"}


def test_two_exports_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, out = finished_run(tmp_path), tmp_path / "out"
    capsys.readouterr()
    with held(out, "x"):
        assert main(["export", str(run.path), "--out", str(out)]) == 2
        assert capsys.readouterr().err == f"error: --out {out} is in use by another process\n"
        assert sorted(contents(out)) == [".lock"]
    assert not out.exists()
    assert main(["export", str(run.path), "--out", str(out)]) == 0
    assert not (out / ".lock").exists()
    write_record(run.began_file, Began(what="run"))
    before = contents(run.path)
    for owner in (run.path, claimed(tmp_path)):
        assert main(["export", str(run.path), "--pairs", "all", "--out", str(owner)]) == 2
        assert "expected a directory for exports" in capsys.readouterr().err
    assert contents(run.path) == before


def claimed(folder: Path) -> Path:
    from cyclealign.distill.list_distiller import ListSummary
    from cyclealign.distill.run import claim

    config = DistillConfig(name="student", output_dir=folder)
    claim(ListSummary, config)
    return config.run_dir


class Counted(Sequence[Prompt]):
    """Prompts made when they are asked for; ``most`` is how many were alive at once."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        if index >= self.count:
            raise IndexError(index)
        return Prompt(({"role": "user", "content": f"Question {index}: {'word ' * 100}"},))


def peak_of_a_run(path: Path, count: int) -> int:
    """Bytes that Python holds at most while a run directory is made, opened and walked in batches."""
    tracemalloc.start()
    try:
        run = RunDir(path)
        run.create("{}", Counted(count))
        run.unlock()
        run.began()
        prompts = run.train_prompts()
        assert len(prompts) == count
        for first in range(0, count, 100):
            batch = prompts[first : first + 100]
            assert batch[0].messages[0]["content"].startswith(f"Question {first}:")
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("count", [10_000, pytest.param(300_000, marks=pytest.mark.long)])
def test_prompts_in_a_run_directory_take_a_place_each_and_no_more(tmp_path: Path, count: int) -> None:
    """Eight bytes (and what an array keeps in reserve), where a prompt of these has 600 as text alone. The smaller run
    is large enough for as much garbage to wait for its collector as ever does: some 2,000 records."""
    small, large = peak_of_a_run(tmp_path / "small", 4_000), peak_of_a_run(tmp_path / "large", count)
    assert large - small < 20 * count + 200_000


def test_a_prompt_that_is_no_record_is_named(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    run.create("{}", PROMPTS)
    run.unlock()
    file = run.prompts / "train.jsonl"
    lines = file.read_text().splitlines()
    file.write_text("\n".join([lines[0], '{"prompt_id": 1}', lines[2]]) + "\n")
    assert run.train_prompts()[2] == PROMPTS[2]
    with pytest.raises(UserError, match=r"train\.jsonl:2: .*put the file back"):
        run.train_prompts()[1]
    assert list(RunDir(tmp_path / "none").train_prompts()) == []
