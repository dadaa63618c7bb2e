"""Prompts that the policy's template cannot render are found before anything is begun or paid for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_policy import save_tiny

from cyclealign.cli.main import main
from cyclealign.config.loading import load_config
from cyclealign.cycle import prompts as cycle_prompts
from cyclealign.cycle.prompts import try_prompts
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
