"""Sets on disk: read by name, changed, versioned by content, edited without loss, compared."""

from __future__ import annotations

import json
import stat
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cyclealign.config.schema import DemonstrationsConfig
from cyclealign.curation.editing import as_yaml, edit, from_yaml
from cyclealign.curation.sets import add, chosen, open_set, remove
from cyclealign.curation.showing import differences, overview, whole
from cyclealign.judge.demonstration_files import load_static, save_demonstrations
from cyclealign.judge.demonstrations import DemonstrationPool
from cyclealign.judge.template import load_template
from cyclealign.types import Demonstration, Prompt, UserError


def demo(text: str, responses: tuple[str, ...] = ("yes", "no"), order: tuple[int, ...] = (0, 1)) -> Demonstration:
    return Demonstration(Prompt(({"role": "user", "content": text},)), responses, order, note="why", tags=("easy",))


A, B, C = demo("first?"), demo("second?", ("a", "bb", "ccc"), (2, 0, 1)), demo("third?")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    save_demonstrations(tmp_path / "set.jsonl", (A, B))
    return tmp_path / "set.jsonl"


def test_a_set_has_the_version_of_a_pool_that_shows_it(path: Path) -> None:
    pool = DemonstrationPool.start(DemonstrationsConfig(static=str(path)))
    assert open_set(str(path)).version == pool.version
    assert open_set("builtin:rank").version == DemonstrationPool.start(DemonstrationsConfig()).version


def test_the_version_is_of_the_content(path: Path) -> None:
    version = open_set(str(path)).version
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("\n\n".join(json.dumps(dict(reversed(r.items())) | {"tags": []}, indent=None) for r in lines))
    assert open_set(str(path)).version == version  # white space, order of keys and tags are no content
    save_demonstrations(path, (B, A))
    assert open_set(str(path)).version != version  # the order in which they are shown is


def test_tags_are_kept_when_a_set_is_changed(path: Path) -> None:
    add(open_set(str(path)), [C])
    remove(open_set(str(path)), [A.id[:6]])
    assert open_set(str(path)).demonstrations == (B, C)
    assert [d.tags for d in load_static(str(path))] == [("easy",), ("easy",)]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("builtin:rnak", "no set builtin:rnak; packaged: builtin:rank"),
        ("nothing.jsonl", "no such set"),
        (".", "not a run directory"),
    ],
)
def test_names_of_nothing_are_refused(name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        open_set(name if name.startswith("builtin") else str(tmp_path / name))


def test_what_cannot_be_changed_is_refused(path: Path) -> None:
    found = open_set(str(path))
    with pytest.raises(UserError, match="in the set already"):
        add(found, [A])
    with pytest.raises(UserError, match="no demonstration with the id zz"):
        remove(found, ["zz"])
    with pytest.raises(UserError, match="2 demonstrations with the id"):
        chosen(found, [""])
    with pytest.raises(UserError, match="copy it first: cyclealign demos export builtin:rank"):
        remove(open_set("builtin:rank"), [open_set("builtin:rank").demonstrations[0].id])
    assert open_set(str(path)).demonstrations == (A, B)


# The editor -----------------------------------------------------------------------------------------------------


def editor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """A program that edits the file that it is given, by a line of Python over ``text``."""
    program = tmp_path / "editor"
    program.write_text(
        "#!/usr/bin/env python3\nimport pathlib, sys\npath = pathlib.Path(sys.argv[-1])\n"
        f"text = path.read_text()\n{script}\npath.write_text(text)\n"
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.setenv("EDITOR", f"{program} --wait")


def test_an_edit_is_written_back(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    editor(tmp_path, monkeypatch, "text = text.replace('second?', 'other?')")
    new = edit(open_set(str(path)))
    assert new.demonstrations == open_set(str(path)).demonstrations
    assert new.demonstrations[1] == replace(B, prompt=Prompt(({"role": "user", "content": "other?"},)))
    assert not list(tmp_path.glob("*.edit.yaml"))


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("text = text.replace('[2, ', '[7, ')", "entry 2: order: expected each of 0 to 2 once"),
        ("text = text.replace('  order', '  ordre', 1)", r"entry 1: ordre: unknown key \(did you mean order\?\)"),
        ("text = text + '\\n  - : ['", "not valid YAML"),
        ("text = ''", "expected a list of demonstrations"),
    ],
)
def test_an_invalid_edit_loses_nothing(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, message: str
) -> None:
    before = path.read_bytes()
    editor(tmp_path, monkeypatch, f"text = text.replace('first?', 'mine?')\n{script}")
    with pytest.raises(UserError, match=message) as caught:
        edit(open_set(str(path)))
    assert path.read_bytes() == before
    draft = tmp_path / "set.jsonl.edit.yaml"
    assert str(draft) in str(caught.value)
    if script != "text = ''":
        assert "mine?" in draft.read_text()
        # The next edit goes on from it.
        editor(
            tmp_path,
            monkeypatch,
            "text = text.replace('[7, ', '[2, ').replace('ordre', 'order').replace('\\n  - : [', '')",
        )
        assert edit(open_set(str(path))).demonstrations[0].prompt.messages[0]["content"] == "mine?"
        assert not draft.exists()


def test_a_set_changed_meanwhile_is_left_alone(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    editor(
        tmp_path,
        monkeypatch,
        f"other = pathlib.Path({str(path)!r}); other.write_text(other.read_text().splitlines()[0] + '\\n')\n"
        "text = text.replace('first?', 'mine?')",
    )
    with pytest.raises(UserError, match="changed by somebody else meanwhile"):
        edit(open_set(str(path)))
    assert open_set(str(path)).demonstrations == (A,)
    assert "mine?" in (tmp_path / "set.jsonl.edit.yaml").read_text()
    with pytest.raises(UserError, match="left from another version"):
        edit(open_set(str(path)))


def test_no_editor_and_a_failing_one(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    editor(tmp_path, monkeypatch, "sys.exit(3)")
    with pytest.raises(UserError, match="ended with code 3"):
        edit(open_set(str(path)))
    monkeypatch.setenv("EDITOR", str(tmp_path / "missing"))
    with pytest.raises(UserError, match="cannot be started"):
        edit(open_set(str(path)))
    monkeypatch.setenv("EDITOR", "")
    with pytest.raises(UserError, match="no editor: set"):
        edit(open_set(str(path)))


TEXTS = st.text(st.characters(blacklist_categories=("Cs",)), min_size=1, max_size=40).filter(str.strip)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(TEXTS, TEXTS, TEXTS, TEXTS), min_size=1, max_size=3, unique_by=lambda t: t[0]))
def test_yaml_gives_back_every_text(rows: list[tuple[str, str, str, str]]) -> None:
    demos = tuple(replace(demo(q, (f"{a}1", f"{b}2"), (1, 0)), note=n) for q, a, b, n in rows)
    assert from_yaml(as_yaml(demos), "x") == demos


@pytest.mark.parametrize(
    "text", ["a\nb\x85", "a\r\nb", "a\n\u2028b", " a\n b\n", "a\n\n", "no", "1e-5", "order", "\tx\n# y"]
)
def test_yaml_gives_back_odd_texts(text: str, tmp_path: Path) -> None:
    """Also through a file."""
    demos = (demo("q", (text, "other")),)
    (tmp_path / "x.yaml").write_text(as_yaml(demos), encoding="utf-8")
    assert from_yaml((tmp_path / "x.yaml").read_text(encoding="utf-8"), "x") == demos


def test_the_packaged_set_goes_through_yaml() -> None:
    demos = open_set("builtin:rank").demonstrations
    assert from_yaml(as_yaml(demos), "x") == demos


# What people see ------------------------------------------------------------------------------------------------


def test_overview_and_whole(path: Path) -> None:
    found = open_set(str(path))
    lines = overview(found, load_template("rank"))
    assert lines[1] == f"version: {found.version}"
    assert lines[2] == "demonstrations: 2 (2 static)"
    assert lines[6].split()[:3] == [A.id, "2", "1+"]
    assert lines[7].split()[:3] == [B.id, "3", "3+"]
    assert whole(B) == [
        f"{B.id}  source static, agreement 1  [easy]",
        "  user: second?",
        "  1. shown as [3]: ccc",
        "  2. shown as [1]: a",
        "  3. shown as [2]: bb",
        "  note: why",
    ]


def test_differences(path: Path, tmp_path: Path) -> None:
    turned = replace(B, order=(0, 2, 1))
    save_demonstrations(tmp_path / "other.jsonl", (turned, C))
    first, second = open_set(str(path)), open_set(str(tmp_path / "other.jsonl"))
    lines = differences(first, second)
    assert lines[2:] == [
        f"removed  {A.id}  first?",
        f"changed  {B.id} -> {turned.id}  second?",
        "    -  1. shown as [3]: ccc",
        "    -  2. shown as [1]: a",
        "    +  1. shown as [1]: a",
        "    +  2. shown as [3]: ccc",
        f"added    {C.id}  third?",
    ]
    assert differences(first, first)[2:] == ["no difference"]
    save_demonstrations(tmp_path / "other.jsonl", (replace(B, note="other"), A))
    lines = differences(first, open_set(str(tmp_path / "other.jsonl")))
    assert lines[2:] == [
        f"relabelled  {B.id}  second?",
        "    -  note: why",
        "    +  note: other",
        "order    the demonstrations that both have stand in another order",
    ]
