"""docs/distill.md against the code: every shared key stands there, and its example trains."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import pytest
import tiny_encoders
from pydantic import BaseModel

from cyclealign.distill.config import DistillConfig, EffectivenessConfig, ScoresConfig, StudentConfig
from cyclealign.scores.formats import READERS

DOC = (Path(__file__).resolve().parents[2] / "docs" / "distill.md").read_text(encoding="utf-8")
SECTIONS: dict[str, type[BaseModel]] = {"": DistillConfig, "student.": StudentConfig, "data.": ScoresConfig}


@pytest.mark.parametrize("section", SECTIONS)
def test_every_shared_key_is_in_a_table_with_its_default(section: str) -> None:
    cells = [line.split("|")[1:4] for line in DOC.splitlines() if line.startswith("|")]
    defaults = {key: default.strip() for keys, default, _ in cells for key in re.findall(r"`([a-z_.]+)`", keys)}
    for name, field in SECTIONS[section].model_fields.items():
        default = defaults[f"{section}{name}"]
        if isinstance(field.default, int | float) and not isinstance(field.default, bool):
            assert str(field.default).removesuffix(".0") in default.split(", "), name
        elif isinstance(field.default, str | bool):
            assert default == f"`{str(field.default).lower()}`", name


def test_every_format_and_every_file_of_an_evaluation_is_named() -> None:
    assert all(f"`{name}`" in DOC for name in (*READERS, *EffectivenessConfig.model_fields))


def test_the_example_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sentence_transformers", reason="needs extra retrieval")
    from safetensors.torch import load_file
    from sentence_transformers import SentenceTransformer

    monkeypatch.chdir(tmp_path)
    tiny_encoders.dense(Path("bert")).save("tiny")
    [code] = re.findall(r"```python\n(.*?)```", DOC, re.S)
    named = re.sub(r'SentenceTransformer\(".*?"\)', 'SentenceTransformer("tiny", device="cpu")', code)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(named.replace("max_steps=20", "max_steps=20, use_cpu=True, report_to=[]"), {})
    before, after = (SentenceTransformer(name, device="cpu").encode("what sleeps?") for name in ("tiny", "student"))
    assert abs(before - after).max() > 1e-4
    [scale] = load_file("checkpoints/checkpoint-20/loss.safetensors").values()
    assert float(scale.exp()) != 20.0
