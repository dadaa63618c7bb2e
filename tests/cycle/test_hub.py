"""``export --push`` against a hub on loopback: what gets there, what does not, and what it says where it fails."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from finished_run import finished_run
from hub_server import TOKEN, HubServer, Repo, failure, hub_server
from loopback import Fault

from cyclealign.cli.main import main
from cyclealign.cycle.export import Exports, export_run
from cyclealign.cycle.hub import HubRepo, check_repo, push
from cyclealign.files.records import read_record
from cyclealign.files.run_dir import RunDir
from cyclealign.files.run_state import Kept
from cyclealign.types import UserError

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


MERGED = Exports(merged=True)


def policy_of(run: RunDir) -> dict[str, Path]:
    return {"": run.path.parent / "policy"}


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
    token_stays(hub)
    assert not [name for name, data in lying(tmp_path).items() if TOKEN.encode() in data]


def test_the_second_push_removes_what_would_be_loaded_in_its_stead(run: RunDir, hub: HubServer) -> None:
    old = {"model-00001-of-00002.safetensors": b"", "adapter_config.json": b"", "adapter/README.md": b"", "NOTES": b"n"}
    hub.repos[MINE] = Repo(files=old, tags=("region:us", "cyclealign"))
    push(HubRepo(id=MINE), policy_of(run))
    assert hub.repos[MINE].files == lying(policy_of(run)[""]) | {"NOTES": b"n"}


def token_stays(hub: HubServer) -> None:
    """It goes to the hub alone, and only as one."""
    for request in hub.seen:
        others = {k: v for k, v in request.headers.items() if k != "authorization"}
        assert TOKEN not in f"{request.line}{others}"
        assert TOKEN.encode() not in request.data
        assert ("authorization" in request.headers) != request.line.startswith("PUT")  # large files have addresses


def copied(run: RunDir, folder: Path) -> RunDir:
    shutil.copytree(run.path, folder / "run")
    return RunDir(folder / "run")


def with_base_on_the_hub(run: RunDir, folder: Path) -> RunDir:
    """A run on a model that others have too."""
    found = copied(run, folder)
    for file in (found.config, found.best / "adapter" / "adapter_config.json", found.kept_file):
        file.write_text(file.read_text().replace(str(policy_of(run)[""]), "owner/base"))
    assert read_record(Kept, found.kept_file).start_model == "owner/base"
    return found


def test_an_adapter_is_loaded_as_its_card_says(run: RunDir, hub: HubServer, tmp_path: Path) -> None:
    assert export(with_base_on_the_hub(run, tmp_path), tmp_path / "out") == 0  # with pairs, which stay
    got = hub.repos[MINE].files
    assert got == lying(tmp_path / "out" / "adapter") | {".gitattributes": got[".gitattributes"]}
    _, header, text = got["README.md"].decode().split("---\n", 2)
    assert yaml.safe_load(header)["base_model"] == "owner/base"
    assert str(tmp_path) not in text
    [code] = re.findall(r"```python\n(.*?)```", text, re.S)
    for file in (tmp_path / "out" / "adapter").glob("adapter_config.json"):
        file.write_text(file.read_text().replace("owner/base", str(policy_of(run)[""])))
    made: dict[str, object] = {}
    exec(code.replace(MINE, str(tmp_path / "out" / "adapter")), made)
    assert type(made["model"]).__name__ == "PeftModelForCausalLM"


def test_an_adapter_of_a_directory_that_has_moved_is_still_nobody_else_s(
    run: RunDir, hub: HubServer, tmp_path: Path
) -> None:
    moved = copied(run, tmp_path)
    named = moved.best / "adapter" / "adapter_config.json"
    named.write_text(named.read_text().replace(str(policy_of(run)[""]), "/home/me/models/policy"))
    with pytest.raises(UserError, match="the adapter is one of policy, a directory of this machine"):
        export_run(moved.path, Exports(adapter=True, push=HubRepo(id=MINE)), tmp_path / "out")
    assert hub.seen == []


def test_both_forms_the_merged_one_at_the_root(
    run: RunDir, hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = policy_of(run)[""]
    monkeypatch.setattr("cyclealign.cycle.export.write_merged", lambda _, __, target: shutil.copytree(policy, target))
    wanted = Exports(adapter=True, merged=True, push=HubRepo(id=MINE))
    export_run(with_base_on_the_hub(run, tmp_path).path, wanted, tmp_path / "out")
    got = hub.repos[MINE].files
    expected = lying(tmp_path / "out" / "merged")
    expected |= {f"adapter/{name}": data for name, data in lying(tmp_path / "out" / "adapter").items()}
    assert got == expected | {".gitattributes": got[".gitattributes"]}
    assert f'from_pretrained("{MINE}", subfolder="adapter")' in got["adapter/README.md"].decode()
    assert f'pipeline("text-generation", "{MINE}")' in got["README.md"].decode()


def test_a_whole_model_is_pushed_once(run: RunDir, hub: HubServer, tmp_path: Path) -> None:
    whole = copied(run, tmp_path)
    shutil.rmtree(whole.best / "adapter")
    shutil.copytree(policy_of(run)[""], whole.best / "model")
    export_run(whole.path, Exports(adapter=True, merged=True, push=HubRepo(id=MINE)), tmp_path / "out")
    got = hub.repos[MINE].files
    assert got == lying(tmp_path / "out" / "merged") | {".gitattributes": got[".gitattributes"]}


@pytest.mark.parametrize(
    ("repo", "wanted", "line"),
    [
        ("a b", MERGED, "--push a b: is no name of a repository: Repo id must use alphanumeric"),
        ("mine", MERGED, "--push mine: expected OWNER/NAME"),
        (MINE, Exports(pairs="all"), "--pairs alone writes no model; add --adapter or --merged"),
        (MINE, Exports(adapter=True), "the adapter is one of policy, a directory of this machine"),
    ],
)
def test_what_cannot_be_pushed_is_not_begun(
    run: RunDir, hub: HubServer, tmp_path: Path, repo: str, wanted: Exports, line: str
) -> None:
    with pytest.raises(UserError, match=re.escape(line)):
        export_run(run.path, replace(wanted, push=HubRepo(id=repo)), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert hub.seen == []


def test_nobody_logged_in_or_offline(
    run: RunDir, hub: HubServer, tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(UserError, match=r"nobody is logged in to the hub; run `hf auth login`, or set HF_TOKEN$"):
        check_repo(HubRepo(id=MINE))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"HF_HUB_OFFLINE \(or TRANSFORMERS_OFFLINE\) is set; unset it to publish$"):
        check_repo(HubRepo(id=MINE))
    assert main(["export", str(run.path), "--private"]) == 2
    assert "--private: is for --push OWNER/NAME" in capsys.readouterr().err
    assert hub.seen == []


def test_what_others_put_there_stays(run: RunDir, hub: HubServer) -> None:
    hub.repos[MINE] = theirs = Repo(files={"README.md": b"mine", "config.json": b"{}"}, tags=("region:us",))
    with pytest.raises(UserError, match=f"--push {MINE}: holds README.md, which no export wrote; choose another NAME$"):
        push(HubRepo(id=MINE), policy_of(run))
    theirs.tags = ("cyclealign",)
    with pytest.raises(UserError, match=r"is public; make it private on the hub, or leave --private out$"):
        push(HubRepo(id=MINE, private=True), policy_of(run))
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
        ("commit/main", failure(413, ECHO), "later, or see what the hub says (HTTP 413: token [key] is odd and red)"),
    ],
)
def test_what_the_hub_refuses_is_one_line(
    run: RunDir,
    hub: HubServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    part: str,
    fault: Fault,
    line: str,
) -> None:
    """Of somebody who is logged in by the hub's own file, of which the environment knows nothing."""
    from huggingface_hub import constants

    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    (tmp_path / "token").write_text(TOKEN)
    hub.failing = {part: fault} | ({"GET /api/models": failure(404, "x")} if part == "repos/create" else {})
    with pytest.raises(UserError) as raised:
        push(HubRepo(id=MINE), policy_of(run))
    said = str(raised.value)
    assert said.startswith(f"--push {MINE}: ")
    assert line in said
    assert "\n" not in said
