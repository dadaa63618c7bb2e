"""``export --push`` against a hub on loopback: what gets there, what does not, and what it says where it fails."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from finished_run import finished_run
from hub_server import TOKEN, HubServer, Repo, failure, hub_server
from loopback import Fault

from cyclealign.cli.main import main
from cyclealign.files.records import read_record, write_record
from cyclealign.files.run_dir import RunDir
from cyclealign.files.run_state import Kept

Captured = pytest.CaptureFixture[str]
MINE = "me/mine"
# The library's own, of its HTTP library.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    return finished_run(tmp_path_factory.mktemp("push"))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with hub_server(monkeypatch) as server:
        yield server


def export(run: RunDir, out: Path, *more: str) -> int:
    return main(["export", str(run.path), "--out", str(out), "--push", MINE, *more])


def lying(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_merged_copy_is_what_the_hub_has(run: RunDir, hub: HubServer, tmp_path: Path, capsys: Captured) -> None:
    """Of an export that wrote pairs too, where an export of an earlier time had left something."""
    out = tmp_path / "out"
    assert main(["export", str(run.path), "--out", str(out), "--adapter", "--merged"]) == 0
    (out / "merged" / "model-00001-of-00002.safetensors").write_bytes(b"of an earlier time")
    assert export(run, out, "--merged", "--pairs", "all", "--private") == 0
    got = hub.repos[MINE].files
    assert got == lying(out / "merged") | {".gitattributes": got[".gitattributes"]}
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md"} <= got.keys()
    assert "model-00001-of-00002.safetensors" not in got
    assert hub.repos[MINE].private
    assert capsys.readouterr().out.splitlines()[-1] == str(out / "merged")
    asked = sorted(file["path"] for r in hub.seen if "preupload" in r.line for file in json.loads(r.data)["files"])
    assert asked == sorted(lying(out / "merged"))


@pytest.fixture
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is merged is not what these tests are about."""
    monkeypatch.setattr(
        "cyclealign.cycle.export.write_merged",
        lambda _, run, target: shutil.copytree(run.path.parent / "policy", target, dirs_exist_ok=True),
    )


@pytest.mark.usefixtures("cheap")
def test_the_second_push_removes_what_would_be_loaded_in_its_stead(run: RunDir, hub: HubServer, tmp_path: Path) -> None:
    old = {"model-00001-of-00002.safetensors": b"", "adapter_config.json": b"", "adapter/README.md": b"", "NOTES": b"n"}
    hub.repos[MINE] = Repo(files=old, tags=("region:us", "cyclealign"))
    assert export(run, tmp_path / "out", "--merged") == 0
    assert hub.repos[MINE].files == lying(tmp_path / "out" / "merged") | {"NOTES": b"n"}


@pytest.mark.usefixtures("cheap")
def test_the_token_goes_to_the_hub_alone_and_only_as_one(run: RunDir, hub: HubServer, tmp_path: Path) -> None:
    assert export(run, tmp_path / "out", "--merged") == 0
    for request in hub.seen:
        others = {k: v for k, v in request.headers.items() if k != "authorization"}
        assert TOKEN not in f"{request.line}{others}"
        assert TOKEN.encode() not in request.data
        assert ("authorization" in request.headers) != request.line.startswith("PUT")  # large files have addresses
    assert not [name for name, data in lying(tmp_path).items() if TOKEN.encode() in data]


def with_base_on_the_hub(folder: Path) -> RunDir:
    """A run on a model that others have too."""
    run = finished_run(folder)
    named = (run.config, run.best / "adapter" / "adapter_config.json", run.kept_file)
    for file in named:
        file.write_text(file.read_text().replace(str(folder / "policy"), "owner/base"))
    assert read_record(Kept, run.kept_file).start_model == "owner/base"
    return run


def test_an_adapter_is_loaded_as_its_card_says(hub: HubServer, tmp_path: Path) -> None:
    run = with_base_on_the_hub(tmp_path)
    assert export(run, tmp_path / "out") == 0  # with pairs, which stay
    got = hub.repos[MINE].files
    assert got == lying(tmp_path / "out" / "adapter") | {".gitattributes": got[".gitattributes"]}
    _, header, text = got["README.md"].decode().split("---\n", 2)
    assert yaml.safe_load(header)["base_model"] == "owner/base"
    assert str(tmp_path) not in text
    [code] = re.findall(r"```python\n(.*?)```", text, re.S)
    for file in (tmp_path / "out" / "adapter").glob("adapter_config.json"):
        file.write_text(file.read_text().replace("owner/base", str(tmp_path / "policy")))
    made: dict[str, object] = {}
    exec(code.replace(MINE, str(tmp_path / "out" / "adapter")), made)
    assert type(made["model"]).__name__ == "PeftModelForCausalLM"


@pytest.mark.usefixtures("cheap")
def test_both_forms_the_merged_one_at_the_root(hub: HubServer, tmp_path: Path) -> None:
    run = with_base_on_the_hub(tmp_path)
    assert export(run, tmp_path / "out", "--adapter", "--merged") == 0
    got = hub.repos[MINE].files
    expected = lying(tmp_path / "out" / "merged")
    expected |= {f"adapter/{name}": data for name, data in lying(tmp_path / "out" / "adapter").items()}
    assert got == expected | {".gitattributes": got[".gitattributes"]}
    assert f'from_pretrained("{MINE}", subfolder="adapter")' in got["adapter/README.md"].decode()
    assert f'pipeline("text-generation", "{MINE}")' in got["README.md"].decode()


def test_a_whole_model_is_pushed_once(hub: HubServer, tmp_path: Path) -> None:
    run = finished_run(tmp_path)
    shutil.rmtree(run.best / "adapter")
    shutil.copytree(tmp_path / "policy", run.best / "model")
    write_record(run.kept_file, Kept(trained=2, of=2, why="w", stopped=None, start_model="m"))
    assert export(run, tmp_path / "out", "--adapter", "--merged") == 0
    got = hub.repos[MINE].files
    assert got == lying(tmp_path / "out" / "merged") | {".gitattributes": got[".gitattributes"]}


@pytest.mark.parametrize(
    ("repo", "more", "line"),
    [
        ("a b", ["--merged"], "--push a b: is no name of a repository: Repo id must use alphanumeric"),
        ("mine", ["--merged"], "--push mine: expected OWNER/NAME"),
        (MINE, ["--pairs", "all"], "--pairs alone writes no model; add --adapter or --merged"),
        (MINE, [], "the adapter is one of policy, a directory of this machine"),
    ],
)
def test_what_cannot_be_pushed_is_not_begun(
    run: RunDir, hub: HubServer, tmp_path: Path, capsys: Captured, repo: str, more: list[str], line: str
) -> None:
    assert main(["export", str(run.path), "--out", str(tmp_path / "out"), "--push", repo, *more]) == 2
    assert line in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert hub.seen == []


def test_nobody_logged_in_or_offline(
    run: RunDir, hub: HubServer, tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    assert export(run, tmp_path / "out", "--merged") == 2
    assert "nobody is logged in to the hub; run `hf auth login`, or set HF_TOKEN\n" in capsys.readouterr().err
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert export(run, tmp_path / "out", "--merged") == 2
    assert "HF_HUB_OFFLINE (or TRANSFORMERS_OFFLINE) is set; unset it to publish\n" in capsys.readouterr().err
    assert main(["export", str(run.path), "--private"]) == 2
    assert "--private: is for --push OWNER/NAME" in capsys.readouterr().err
    assert hub.seen == []


@pytest.mark.usefixtures("cheap")
def test_what_others_put_there_stays(run: RunDir, hub: HubServer, tmp_path: Path, capsys: Captured) -> None:
    hub.repos[MINE] = theirs = Repo(files={"README.md": b"mine", "config.json": b"{}"}, tags=("region:us",))
    assert export(run, tmp_path / "out", "--merged") == 2
    assert f"--push {MINE}: holds README.md, which no export wrote; choose another NAME\n" in capsys.readouterr().err
    assert theirs.files == {"README.md": b"mine", "config.json": b"{}"}
    theirs.tags = ("cyclealign",)
    assert export(run, tmp_path / "out", "--merged", "--private") == 2
    assert "is public; make it private on the hub, or leave --private out\n" in capsys.readouterr().err
    assert theirs.files == {"README.md": b"mine", "config.json": b"{}"}


ECHO = f"token {TOKEN} is odd\nand \x1b[31mred"


@pytest.mark.parametrize(
    ("part", "fault", "line"),
    [
        ("repos/create", failure(401, "Invalid"), "log in with `hf auth login`, or set HF_TOKEN to one that is valid"),
        ("repos/create", failure(403, "no rights"), "this token may not write there"),
        ("repos/create", failure(404, "no such owner"), "no such repository or owner, or hides it from this token"),
        ("repos/create", Fault(drop=True), "no usable answer of http://127.0.0.1"),
        ("repos/create", Fault(body="<html>"), "no usable answer of http://127.0.0.1"),
        ("preupload", failure(403, "no rights"), "this token may not write there"),
        ("large/", failure(403, "no rights"), "this token may not write there"),
        ("commit/main", failure(409, "busy"), "somebody else writes to it right now; start the command again"),
        ("commit/main", failure(413, ECHO), "start the command again later, or see what the hub says (HTTP 413: token"),
    ],
)
@pytest.mark.usefixtures("cheap")
def test_what_the_hub_refuses_is_one_line(
    run: RunDir, hub: HubServer, tmp_path: Path, capsys: Captured, part: str, fault: Fault, line: str
) -> None:
    hub.failing = {part: fault} | ({"GET /api/models": failure(404, "x")} if part == "repos/create" else {})
    assert export(run, tmp_path / "out", "--merged") == 2
    said = capsys.readouterr().err
    [told] = [one for one in said.splitlines() if one.startswith("error: ")]
    assert told.startswith(f"error: --push {MINE}: ")
    assert line in told
    assert TOKEN not in said
    assert "\x1b" not in told
    assert json.loads((tmp_path / "out" / "merged" / "config.json").read_text())  # what was written stays
