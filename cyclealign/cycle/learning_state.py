"""Which interaction the policy has learned from, by which name the generator knows it, and whose weights are loaded."""

from __future__ import annotations

import shutil
from collections.abc import Sequence

from cyclealign.files.run_dir import InteractionDir, RunDir
from cyclealign.types import PolicyTrainer, PolicyVersion, RankingExample, TrainReport


class LearningState:
    """The white box and its place in the run. Every method is called on every process.

    ``trained``: index of the last trained interaction, -1 for the start model.
    """

    def __init__(self, run: RunDir, name: str, white_box: PolicyTrainer, start_model: str) -> None:
        self.trained = -1
        self._run = run
        self._name = name
        self._white_box = white_box
        self._start_model = start_model
        self._loaded: int | None = None  # whose weights the white box holds; None: not yet loaded

    @property
    def version(self) -> PolicyVersion:
        """What the generator is to serve. A name is never used twice: prefix caches are keyed by it."""
        if self.trained < 0:
            return PolicyVersion(f"{self._name}-start", self._start_model)
        weights = self._run.interaction(self.trained).weights
        name = f"{self._name}-v{self.trained + 1:04d}"
        if weights.name == "adapter":
            return PolicyVersion(name, self._start_model, weights)
        return PolicyVersion(name, str(weights))

    def load(self) -> PolicyTrainer:
        """The white box, holding the weights of the last trained interaction (loading is only due after a resume)."""
        if self._loaded != self.trained:
            self._white_box.restore(None if self.trained < 0 else self._run.interaction(self.trained).path)
            self._loaded = self.trained
        return self._white_box

    def fit(self, index: int, files: InteractionDir, examples: Sequence[RankingExample]) -> TrainReport:
        """Train on one interaction's lists, from the weights and optimiser state of the one before."""
        start = None if self.trained < 0 else self._run.interaction(self.trained).path
        report = self.load().fit(examples, start=start, out=files.path)
        self.trained = self._loaded = index
        return report

    def drop_old_optimiser(self) -> None:
        """Only the last two optimiser states can still be needed; the weights all stay."""
        if self.trained >= 2:
            shutil.rmtree(self._run.interaction(self.trained - 2).path / "checkpoint", ignore_errors=True)
