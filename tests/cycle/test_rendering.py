"""Prompts that the policy's template cannot render are found before anything is begun or paid for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from jinja2 import Template
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tiny_policy import save_tiny

from cyclealign.cli.main import main
from cyclealign.config.loading import load_config
from cyclealign.config.schema import PolicyConfig
from cyclealign.cycle import prompts as cycle_prompts
from cyclealign.cycle.prompts import run_prompts, try_prompts, try_template
from cyclealign.models.policy import load_tokenizer
from cyclealign.models.policy_files import template_text
from cyclealign.types import Prompt, UserError

GEMMA = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def chat(n: int, *, system: bool = False) -> Prompt:
    head = [{"role": "system", "content": "Be brief."}] if system else []
    return Prompt((*head, {"role": "user", "content": f"question {n}"}))  # type: ignore[arg-type]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_tiny(tmp_path / "policy")
    (tmp_path / "gemma.jinja").write_text(GEMMA)
    rows = [{"messages": list(chat(n, system=n == 3).messages)} for n in range(4)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return tmp_path


def keys(folder: Path) -> list[str]:
    return [
        f"output_dir={folder / 'runs'}",
        f"policy.model={folder / 'policy'}",
        f"policy.chat_template={folder / 'gemma.jinja'}",
        f"data.prompts={folder / 'prompts.jsonl'}",
        "data.eval_prompts=null",
        "cycle.scorer=null",
    ]


def test_a_run_names_the_prompt_and_begins_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "quickstart", "name=r", *keys(folder)]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    assert len(errors) == 1
    assert f"data.prompts: prompt 4 ('question 3', id {chat(3, system=True).id})" in errors[0]
    assert "System role not supported" in errors[0]
    assert not (folder / "runs" / "r").exists()


def test_many_prompts_are_tried_in_part_and_said_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_config("quickstart", keys(folder))
    found = [chat(n) for n in range(50)]
    assert try_prompts(config, found, []) == "chat template: all prompts can be rendered"
    monkeypatch.setattr(cycle_prompts, "TRIED", 20)
    seen: list[int] = []
    monkeypatch.setattr(cycle_prompts, "check_rendered", lambda _, train, held: seen.append(len(train) + len(held)))
    assert try_prompts(config, found, []) == "chat template: 20 drawn from 50 prompts can be rendered"
    assert seen == [20]


def test_a_held_out_prompt(folder: Path) -> None:
    config = load_config("quickstart", keys(folder))
    with pytest.raises(UserError, match=r"data\.eval_prompts: prompt 1 "):
        try_prompts(config, [chat(1)], [chat(2, system=True)])


def test_a_dry_run_names_the_prompt(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["run", "quickstart", "--dry-run", *keys(folder)]
    assert main(command) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert f"data.prompts: prompt 4 ('question 3', id {chat(3, system=True).id})" in errors[0]
    assert "System role not supported" in errors[0]
    assert "data.system_turns=fold" in errors[0]
    for option in ("fold", "skip"):
        assert main([*command, f"data.system_turns={option}"]) == 0
        assert "chat template: all prompts can be rendered" in capsys.readouterr().out


def test_a_dry_run_reads_no_more_prompts_than_it_is_to_use_and_compiles_the_template_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[str] = []
    compile_of = ImmutableSandboxedEnvironment.from_string

    def counted(self: ImmutableSandboxedEnvironment, source: str) -> Template:
        compiled.append(source)
        return compile_of(self, source)

    monkeypatch.setattr(ImmutableSandboxedEnvironment, "from_string", counted)
    rows = "".join(json.dumps({"prompt": f"question {n}"}) + "\n" for n in range(20))
    (folder / "prompts.jsonl").write_text(f"{rows}this is no JSON, and nobody is to read it\n")
    dry = ["run", "quickstart", "--dry-run", *keys(folder)]
    assert main([*dry, "data.limit=20"]) == 0
    assert compiled == [GEMMA]
    assert main([*dry, "data.limit=21"]) == 2


def test_a_system_turn_is_folded_or_left_out_by_a_stated_option(
    folder: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    def prompts(option: str) -> list[Prompt]:
        return list(run_prompts(load_config("quickstart", [*keys(folder), f"data.system_turns={option}"]).data)[0])

    assert prompts("keep") == [chat(0), chat(1), chat(2), chat(3, system=True)]
    assert prompts("fold")[:3] == prompts("keep")[:3]
    assert prompts("fold")[3].messages == ({"role": "user", "content": "Be brief.\n\nquestion 3"},)
    with caplog.at_level("WARNING"):
        assert prompts("skip") == [chat(0), chat(1), chat(2)]
    assert "data.prompts: 1 of 4 prompts have a system turn and are left out (data.system_turns skip)" in caplog.text
    (folder / "prompts.jsonl").write_text(json.dumps({"messages": list(chat(3, system=True).messages)}) + "\n")
    with pytest.raises(UserError, match=r"every prompt of .* has a system turn"):
        prompts("skip")
    assert main(["run", "quickstart", "name=r", *keys(folder), "data.system_turns=folded"]) == 2
    assert "expected" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("turns", "folded"),
    [
        ([("system", "S"), ("user", "a"), ("assistant", "b"), ("user", "c")], [("user", "S\n\na"), ("assistant", "b")]),
        ([("system", "S"), ("system", "T"), ("user", "a")], [("user", "S\n\nT\n\na")]),
        ([("user", "a"), ("system", "S"), ("user", "b")], [("user", "S\n\na"), ("user", "b")]),
        ([("system", " "), ("user", "a")], [("user", "a")]),
        ([("system", "S")], [("user", "S")]),
        ([("user", "a")], [("user", "a")]),
    ],
)
def test_folding_by_value(turns: list[tuple[str, str]], folded: list[tuple[str, str]]) -> None:
    given = Prompt(tuple({"role": r, "content": c} for r, c in turns), chosen="x", rejected="y")  # type: ignore[misc]
    found = cycle_prompts._folded(given)
    assert [(m["role"], m["content"]) for m in found.messages][: len(folded)] == folded
    assert (found.chosen, found.rejected) == ("x", "y")


SILENT = "{% for m in messages if m.role != 'system' %}[{{ m.role }}] {{ m.content | trim }}\n{% endfor %}"
THINKS = "{% for m in messages %}[{{ m.role }}] {{ m.content.split('</think>')[-1] }}\n{% endfor %}"


@pytest.mark.parametrize("light", [True, False])
def test_a_template_that_leaves_a_turn_out_without_a_word_is_found(folder: Path, light: bool) -> None:
    (folder / "gemma.jinja").write_text(SILENT)
    config = load_config("quickstart", keys(folder))
    tried = try_template if light else try_prompts
    with pytest.raises(UserError, match="leaves out the system turn; leave the prompt out"):
        tried(config, [chat(1), chat(2, system=True)], [])
    (folder / "gemma.jinja").write_text(THINKS)  # part of a turn may go
    thought = Prompt(({"role": "user", "content": "a"}, {"role": "assistant", "content": "<think>b</think>c"},
                      {"role": "user", "content": "d"}))  # fmt: skip
    assert tried(config, [thought], []) == "chat template: all prompts can be rendered"


TEMPLATES = {
    "loops": "{% for m in messages %}{% if loop.index > 3 %}{% break %}{% endif %}{{ m.content }}{% endfor %}",
    "tokens": "{{ eos_token + '|' }}{% for m in messages %}{{ m['content'] }}{{ eos_token }}{% endfor %}",
    "marked": "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}",
    "json": "{{ messages | tojson }}{{ messages | tojson(indent=2) }}{% if tools %}no{% endif %}",
    "blocks": "  {% for m in messages %}\n    {% if true %}\n {{ m.content }}\n  {% endif %}\n {% endfor %}\n",
    "date": "{{ strftime_now('%Y') }}{{ messages[0].content }}",
    "gemma": GEMMA,
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_text_of_a_template_is_rendered_as_transformers_does(folder: Path, name: str) -> None:
    (folder / "gemma.jinja").write_text(TEMPLATES[name])
    policy = load_config("quickstart", keys(folder)).policy
    light, whole = template_text(policy), load_tokenizer(policy)
    assert light is not None
    words = "caf\u00e9 <b>&"
    for messages in (
        list(chat(1).messages),
        [{"role": "user", "content": words}, {"role": "assistant", "content": "b"}],
    ):
        for ask in (True, False):
            rendered = light.apply_chat_template(messages, tokenize=False, add_generation_prompt=ask)  # type: ignore[arg-type]
            assert rendered == whole.apply_chat_template(messages, tokenize=False, add_generation_prompt=ask)


def test_where_the_text_of_a_template_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))

    def text(model: str) -> str | None:
        found = template_text(PolicyConfig(model=model))
        return None if found is None else found.apply_chat_template([], tokenize=False, add_generation_prompt=False)

    assert text("builtin:tiny-chat") == ""
    (tmp_path / "m").mkdir()
    settings = tmp_path / "m" / "tokenizer_config.json"
    for given, expected in [
        (None, None),
        ("{}", None),
        ("[]", None),
        ("{torn", None),
        (json.dumps({"chat_template": "one {{ eos_token }}", "eos_token": {"content": "</s>"}}), "one </s>"),
        (json.dumps({"chat_template": [{"name": "rag", "template": "r"}, {"name": "default", "template": "d"}]}), "d"),
    ]:  # fmt: skip
        if given is not None:
            settings.write_text(given)
        assert text(str(tmp_path / "m")) == expected
    (tmp_path / "m" / "chat_template.jinja").write_text("file")
    assert text(str(tmp_path / "m")) == "file"
    assert text("nobody/such-a-model-is-not-here") is None
    with pytest.raises(UserError, match="no directory"):
        text(str(tmp_path / "gone"))
