"""Which weights a name on the command line stands for: a run's product, its start model, a checkpoint, a model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cyclealign.config.black_box import BlackBoxConfig
from cyclealign.config.loading import load_config
from cyclealign.config.schema import Config
from cyclealign.files.run_dir import RunDir
from cyclealign.models.policy_files import adapter_base
from cyclealign.types import PolicyVersion, UserError

START = "@start"


@dataclass(frozen=True, kw_only=True)
class NamedPolicy:
    """Weights to evaluate. ``start``: what they were trained from, where that is known."""

    version: PolicyVersion
    start: str | None
    config: Config | None  # of the run that made them

    @property
    def weights(self) -> str:
        """What ``saved_models.load_for_use`` takes."""
        return str(self.version.adapter or self.version.base)


def find_policy(spec: str) -> NamedPolicy:
    """A run directory (what it kept), ``RUN@start`` (what it began with), an adapter, a model directory or a hub id.

    Raises:
        UserError: the run has kept nothing yet.
    """
    path = Path(spec.removesuffix(START))
    if (path / "config.yaml").is_file():
        return _of_run(RunDir(path), start=spec.endswith(START))
    base = adapter_base(path)
    if base is not None:
        version = PolicyVersion(name=path.name, base=base, adapter=path)
        return NamedPolicy(version=version, start=base, config=run_config(spec))
    return NamedPolicy(version=PolicyVersion(name="model", base=spec), start=None, config=run_config(spec))


def _of_run(run: RunDir, *, start: bool) -> NamedPolicy:
    config = load_config(run.config)
    base = str(run.start) if run.start.is_dir() else config.policy.model
    kept = run.kept()
    if not start and kept is None:
        raise UserError(f"{run.path}: the run has not finished, so it kept no model; {run.path}{START} is its start")
    version = PolicyVersion(name=f"{config.name}-start", base=base)
    if not start and kept is not None and kept.trained:
        adapter, model = run.best / "adapter", run.best / "model"
        name = f"{config.name}-kept"
        version = PolicyVersion(name, base, adapter) if adapter.is_dir() else PolicyVersion(name, str(model))
    return NamedPolicy(version=version, start=base, config=config)


def run_config(spec: str) -> Config | None:
    """The config of the run whose directory holds ``spec``, or is it; None outside of any."""
    path = Path(spec.removesuffix(START)).absolute()
    for folder in (path, *path.parents):
        if (folder / "config.yaml").is_file() and (folder / "prompts").is_dir():
            return load_config(folder / "config.yaml")
    return None


def taught_by(judge: BlackBoxConfig, spec: str) -> str | None:
    """A warning where the judge is the black box that taught the model: its preferences are in the weights.

    ``spec``: a run, or anything inside its directory; nobody has taught its start model yet, and of other models nobody
    knows who did.
    """
    config = run_config(spec)
    if config is None or spec.endswith(START):
        return None
    teacher = config.black_box
    if teacher.judge != judge.judge or _name(teacher) != _name(judge):
        return None
    called = f"{judge.judge} {_name(judge)}".strip()
    return f"the judge ({called}) taught {spec}: it is likely to prefer what it has taught; ask another judge too"


def _name(box: BlackBoxConfig) -> str | None:
    return box.judge_name if box.judge == "openai" else str(box.path.resolve()) if box.path else ""
