"""What a new run writes down before anything heavy is imported or paid for."""

from __future__ import annotations

from pathlib import Path

import pytest

from cyclealign.config.loading import dump_config, load_config
from cyclealign.config.schema import Config
from cyclealign.cycle import starting
from cyclealign.cycle.trusted_hosts import remember_host
from cyclealign.files.records import read_record
from cyclealign.files.run_dir import RunDir
from cyclealign.files.run_state import StaticUsed, TemplateUsed, Versions
from cyclealign.judge.demonstration_files import content_version, load_demonstrations
from cyclealign.judge.template import load_template
from cyclealign.types import UserError


def test_a_run_records_which_demonstrations_and_template_it_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same hash as the pool's own, so that runs and measurements of one set can be found by it."""

    def begun(_: Config, run: RunDir) -> RunDir:
        run.unlock()
        return run

    monkeypatch.setattr(starting, "_unlocked_on_failure", begun)
    run = starting.new_cycle(load_config("quickstart", [f"output_dir={tmp_path}"]))
    assert isinstance(run, RunDir)
    found = load_demonstrations(run.prompts / "demonstrations.jsonl")
    assert read_record(Versions, run.prompts / "versions.json") == Versions(
        demonstrations=StaticUsed(source="builtin:rank", version=content_version(found), count=len(found)),
        template=TemplateUsed(source="rank", version=load_template("rank").version),
    )


def test_where_prompts_cannot_wait_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"prompts cannot be written aside in .*/file: Not a directory"):
        starting.new_cycle(load_config("quickstart", [f"output_dir={tmp_path / 'file' / 'runs'}"]))
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("name", ["template.yaml", "demonstrations.jsonl"])
def test_other_words_than_a_run_began_with_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Edited or cut between two launches, they would mix verdicts on two prompts in silence."""
    monkeypatch.setattr(starting, "_unlocked_on_failure", lambda _, run: run.unlock())
    starting.new_cycle(load_config("quickstart", [f"output_dir={tmp_path}", "name=r"]))
    run = RunDir(tmp_path / "r")
    starting.resumed_cycle(run.path)
    file = run.prompts / name
    lines = file.read_text().splitlines(keepends=True)
    changed = [line.replace("careful", "quick") for line in lines] if name == "template.yaml" else lines[:-1]
    file.write_text("".join(changed))
    assert changed != lines
    with pytest.raises(UserError, match=rf"{name}: is not what the run began with"):
        starting.resumed_cycle(run.path)


def test_a_step_takes_as_many_lists_on_another_number_of_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunDir(tmp_path / "r")
    own = [f"output_dir={tmp_path}", "name=r", "training.per_device_train_batch_size=3"]
    run.create(dump_config(load_config("quickstart", own)), processes=2)
    run.unlock()
    monkeypatch.setattr(starting, "_unlocked_on_failure", lambda _, run: run.unlock())
    with pytest.raises(UserError, match=r"takes 6 lists.*begun by 2 processes.*start 2, or .*product is 6$"):
        starting.resumed_cycle(run.path)
    monkeypatch.setenv("WORLD_SIZE", "2")
    starting.resumed_cycle(run.path)
    monkeypatch.delenv("WORLD_SIZE")
    starting.resumed_cycle(run.path, ["training.gradient_accumulation_steps=2"])
    starting.resumed_cycle(run.path)  # as the run now has it


def test_a_run_from_elsewhere_sends_no_key_to_hosts_that_it_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither to its judge nor to its generation servers, until the user says so or has done so before."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("VLLM_API_KEY", "secret")
    server = "generator={backend: server, endpoints: ['https://gpu.example.org/v1'], candidates: 4}"
    judge = "black_box={backend: openai, model: m, base_url: 'https://api.example.org/v1'}"
    run = RunDir(tmp_path / "r")
    run.create(dump_config(load_config("quickstart", [f"output_dir={tmp_path}", "name=r", server, judge])))
    run.unlock()
    monkeypatch.setattr(starting, "_unlocked_on_failure", lambda _, run: run.unlock())
    with pytest.raises(UserError, match=r"OPENAI_API_KEY to api\.example\.org.*--trust-host"):
        starting.resumed_cycle(run.path)
    remember_host("https://api.example.org/v1", "OPENAI_API_KEY")
    with pytest.raises(UserError, match=r"VLLM_API_KEY to gpu\.example\.org.*--trust-host"):
        starting.resumed_cycle(run.path)
    starting.resumed_cycle(run.path, trust_host=True)
    starting.resumed_cycle(run.path)
    monkeypatch.delenv("VLLM_API_KEY")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another"))
    remember_host("https://api.example.org/v1", "OPENAI_API_KEY")
    starting.resumed_cycle(run.path)  # no key to send to the servers


@pytest.mark.parametrize("content", ["", "{", "[1]", "\0\0", "[" * 100_000])
def test_a_torn_list_of_hosts_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    file = tmp_path / "cyclealign" / "hosts.json"
    file.parent.mkdir()
    file.write_text(content)
    with pytest.raises(UserError, match=r"hosts\.json: .*remove it"):
        remember_host("https://api.example.org/v1", "OPENAI_API_KEY")
    assert file.read_text() == content
