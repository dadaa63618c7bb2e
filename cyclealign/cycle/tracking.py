"""Experiment trackers (TensorBoard, W&B, trackio, …) through transformers' integrations, one session a run.

Each interaction has a Trainer of its own, and an integration that the Trainer owned would begin and end with it. So
the run owns them: they begin once, every Trainer's rows are handed on, and the figures of interactions and
evaluations, which no Trainer knows, go the same way.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.integrations import TensorBoardCallback
from transformers.integrations.integration_utils import get_reporting_integration_callbacks

from cyclealign.config.schema import Config
from cyclealign.files.jsonl import read_json
from cyclealign.files.run_dir import RunDir
from cyclealign.models.processes import is_main
from cyclealign.training.arguments import training_arguments, training_values
from cyclealign.types import UserError


class Tracking:
    """The integrations of ``training.report_to`` for a whole run.

    Steps are the optimiser's, so that all figures share an axis: evaluation n and interaction n stand where training n
    ends. TensorBoard writes to ``RUN/tensorboard`` unless TENSORBOARD_LOGGING_DIR is set. ``total_steps``: of the
    whole run, as the integrations show them.

    Raises:
        UserError: an integration that transformers does not know, or whose package is not installed.
    """

    def __init__(self, config: Config, run: RunDir, *, total_steps: int) -> None:
        try:
            self._integrations: list[Any] = [kind() for kind in _kinds(training_values(config)["report_to"])]
        except (ValueError, RuntimeError, ImportError) as error:
            raise UserError(f"training.report_to: {str(error).splitlines()[0]}") from error
        for integration in self._integrations:
            if isinstance(integration, TensorBoardCallback) and "TENSORBOARD_LOGGING_DIR" not in os.environ:
                integration.logging_dir = str(run.path / "tensorboard")
        self._run = run
        self._arguments: TrainingArguments | None = None
        if self._integrations:  # they are handed a Trainer's arguments; made before any Trainer, once for the session
            self._arguments = training_arguments(
                config, output_dir=config.run_dir, seed=config.seed, max_steps=total_steps
            )
        self._begun = False
        self.step: int | None = None

    def log(self, figures: Mapping[str, float]) -> None:
        """Hand figures to every integration, at the optimiser step that the run has come to."""
        if not self._integrations:
            return
        if self.step is None:
            self.step = _steps_on_disk(self._run)
        if not self._begun:
            self._begun = True
            self._tell("on_train_begin")
        self._tell("on_log", logs=dict(figures))

    def close(self) -> None:
        """End the sessions; what was logged is written in any case."""
        if self._begun:
            self._begun = False
            self._tell("on_train_end")

    def _tell(self, event: str, **about: Any) -> None:
        state = TrainerState(global_step=self.step or 0, is_world_process_zero=is_main())
        for integration in self._integrations:
            getattr(integration, event)(self._arguments, state, TrainerControl(), **about)


def _kinds(report_to: str | list[str] | None) -> list[Any]:
    """Classes of the integrations that ``training.report_to`` names; ``all`` and ``none`` may stand in a list too."""
    named = report_to[0] if report_to in (["all"], ["none"]) else report_to
    return list(get_reporting_integration_callbacks(named))


class TrainerRows(TrainerCallback):  # type: ignore[misc]
    """In each Trainer: hands its rows to the run's trackers, and its steps to whoever watches."""

    def __init__(self, tracking: Tracking, progress: Callable[[int, int], None]) -> None:
        self._tracking, self._progress = tracking, progress
        self._first = 0

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:
        self._first = state.global_step

    def on_step_end(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:
        self._tracking.step = state.global_step
        self._progress(state.global_step - self._first, state.max_steps - self._first)

    def on_log(self, args: Any, state: TrainerState, control: Any, logs: Mapping[str, float], **_: Any) -> None:
        if state.is_world_process_zero and "loss" in logs:  # the rest is the Trainer's summary of one interaction
            self._tracking.log(logs)


def _steps_on_disk(run: RunDir) -> int:
    """Optimiser steps of the latest interaction that was trained; the last two keep their optimiser's state."""
    for interaction in reversed(run.interactions()):
        state: Path = interaction.path / "checkpoint" / "trainer_state.json"
        if interaction.trained and state.exists():
            return int(read_json(state)["global_step"])
    return 0
