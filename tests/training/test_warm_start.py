"""The SFT warm start: a whole model directory that has learnt the replies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from learning import assert_below
from safetensors.torch import load_file
from tiny_policy import save_tiny, tiny_config

from cyclealign.training.policy_trainer import WhiteBox
from cyclealign.training.warm_start import warm_start
from cyclealign.types import Candidate, Message, Prompt, UserError

MESSAGES: tuple[Message, ...] = ({"role": "user", "content": "a b c"},)


@pytest.mark.learns
@pytest.mark.parametrize("lora", [{"r": 4, "alpha": 8}, None])
def test_the_start_model_is_a_whole_directory_that_has_learnt_the_replies(tmp_path: Path, lora: Any) -> None:
    model = save_tiny(tmp_path / "model")
    training = {"per_device_train_batch_size": 2}
    config = tiny_config(model, policy={"lora": lora, "dtype": "float32"}, training=training)
    examples = [(MESSAGES, "good d e")] * 120
    out = warm_start(config, examples, tmp_path / "run" / "start")
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["start"]
    before, after = (
        WhiteBox(config, base=str(base), total_steps=1, seed=0).nll([(Prompt(MESSAGES), Candidate("0", "good d e"))])
        for base in (model, out)
    )
    assert_below(0.05, before[0] - after[0])
    saved = load_file(out / "model.safetensors")
    assert {t.dtype for t in saved.values()} == {torch.float32}
    assert saved.keys() == load_file(model / "model.safetensors").keys()


def test_no_replies_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^cycle\.warm_start\.sft: no prompts"):
        warm_start(tiny_config(save_tiny(tmp_path / "model")), [], tmp_path / "start")
