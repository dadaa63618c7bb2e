"""Trackers through transformers' integrations: a real run, read back from TensorBoard's own files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_policy import WORDS, save_tiny
from transformers import TrainerCallback
from transformers.integrations import integration_utils

from cyclealign.config.loading import load_config
from cyclealign.cycle.starting import Cycle
from cyclealign.files.jsonl import read_json, read_jsonl
from cyclealign.files.run_dir import RunDir
from cyclealign.types import UserError

Scalars = dict[str, list[tuple[int, float]]]


def config(folder: Path, **changes: Any) -> Any:
    """Two interactions of six prompts on a tiny random policy, the embedded ranker as the black box."""
    save_tiny(folder / "policy")
    prompts = [{"prompt": f"{a} {b} hello"} for a in WORDS[:3] for b in WORDS[3:6]]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(p) + "\n" for p in prompts[:6]))
    (folder / "held_out.jsonl").write_text("".join(json.dumps(p) + "\n" for p in prompts[6:]))
    keys = {
        "name": "tracked", "output_dir": folder, "policy.model": folder / "policy", "policy.max_prompt_tokens": 64,
        "data.prompts": folder / "prompts.jsonl", "data.eval_prompts": folder / "held_out.jsonl",
        "generator.candidates": 3, "generator.max_new_tokens": 6, "cycle.max_interactions": 2, "cycle.scorer": "null",
        "training.report_to": "tensorboard", "training.per_device_train_batch_size": 2, "drift.max_nll_rise": "null",
        "drift.max_length_ratio": "null", "drift.min_distinct2": "null",
    }  # fmt: skip
    return load_config("quickstart", [f"{k}={v}" for k, v in (keys | changes).items()])


def scalars(folder: Path) -> Scalars:
    """All that TensorBoard would show of a directory: (step, value) by name."""
    event_file_loader = pytest.importorskip("tensorboard.backend.event_processing.event_file_loader")
    found: Scalars = {}
    for file in sorted(folder.glob("events.*")):
        for event in event_file_loader.EventFileLoader(str(file)).Load():
            for value in event.summary.value:
                if value.tensor.float_val:
                    found.setdefault(value.tag, []).append((event.step, value.tensor.float_val[0]))
    return found


def test_a_run_reaches_tensorboard_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR", raising=False)
    run = RunDir(Cycle.from_config(config(tmp_path)).run())
    found = scalars(run.path / "tensorboard")
    rows = [row for i in run.interactions() for row in read_jsonl(i.train_log)]
    assert found["train/loss"] == [(int(r["step"]), pytest.approx(r["loss"])) for r in rows]
    assert found["train/accuracy"] == [(int(r["step"]), pytest.approx(r["accuracy"])) for r in rows]
    ends = [0, *(int(max(r["step"] for r in read_jsonl(i.train_log))) for i in run.interactions())]
    assert ends[-1] == len(rows) > 2
    nll = [m.nll_start for m in run.evaluations().values()]
    assert found["eval/nll_start"] == [(s, pytest.approx(v)) for s, v in zip(ends, nll, strict=True)]
    summaries = [read_json(i.summary) for i in run.interactions()]
    for name in ("agreement", "agreement_corrected", "settled", "ranked", "pool"):
        assert found[f"train/cycle/{name}"] == [
            (step, pytest.approx(s[name])) for step, s in zip(ends, summaries, strict=False)
        ]


def test_a_resumed_run_goes_on_at_its_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "elsewhere"))
    run = RunDir(Cycle.from_config(config(tmp_path)).run())
    last = run.evaluation(2) / "metrics.json"
    last.unlink()
    Cycle.resume(run.path).run()
    assert not (run.path / "tensorboard").exists()
    found = scalars(tmp_path / "elsewhere")["eval/interactions_trained"]
    assert [value for _, value in found] == [0, 1, 2, 2]
    assert found[-1][0] == found[-2][0] > 0


def test_one_session_a_run_not_one_an_interaction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What W&B and trackio need: they open at the first event, and finish at the end of training."""
    events: list[tuple[str, int]] = []

    class Recorder(TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            assert args.run_name == "tracked"
            events.append(("begin", state.global_step))

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
            assert all(isinstance(value, float | int) for value in logs.values())
            events.append(("loss" if "loss" in logs else min(logs).partition("/")[0], state.global_step))

        def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            events.append(("end", state.global_step))

    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, "recorder", Recorder)
    Cycle.from_config(config(tmp_path, **{"training.report_to": "recorder"})).run()
    names, steps = [name for name, _ in events], [step for _, step in events]
    assert names[0] == "begin"
    assert names[-1] == "end"
    assert (names.count("begin"), names.count("end"), names.count("cycle")) == (1, 1, 2)
    assert steps == sorted(steps)
    assert names.count("loss") == steps[-1]


def test_an_unknown_tracker_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"training\.report_to: abacus is not supported"):
        Cycle.from_config(config(tmp_path, **{"training.report_to": "abacus"}))
    assert not list((tmp_path / "tracked" / "interactions").glob("*"))
