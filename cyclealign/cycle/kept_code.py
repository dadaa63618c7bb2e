"""A run's own Python (ranker, scorer, loss): copied into the run, digests on record, run where the user trusts it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal, NamedTuple

from cyclealign.config.schema import Config
from cyclealign.cycle.witness import witness_spec
from cyclealign.files.records import read_record, write_record
from cyclealign.files.run_dir import RunDir
from cyclealign.files.run_state import CodeUsed, Versions
from cyclealign.losses import PythonLoss
from cyclealign.rankers.by_name import RankerSpec, spec_of
from cyclealign.rankers.own_code import Code, read_code
from cyclealign.rankers.own_function import OwnFunction
from cyclealign.rankers.trusted_code import is_trusted, remember_code
from cyclealign.types import UserError

Role = Literal["ranker", "scorer", "loss"]


class _Place(NamedTuple):
    """``FILE.py:FUNCTION``, and the key that says so."""

    place: str
    key: str


def own_code(config: Config) -> dict[Role, Code]:
    """The user's own functions that a new run names, run once: a mistake in them is found before anything is begun.

    Raises:
        UserError: as ``read_code``, ``OwnFunction`` and ``own_loss.opened``.
    """
    found: dict[Role, Code] = {}
    for role, (place, key) in _places(config).items():
        found[role] = read_code(place, key)
        if role != "loss":
            OwnFunction(found[role], key)
        elif isinstance(config.loss, PythonLoss):
            from cyclealign.training.own_loss import opened

            opened(config.loss, found[role])
    return found


def keep_code(run: RunDir, own: Mapping[Role, Code]) -> None:
    """Copies in the run, which are all that it ever runs; the user has chosen them, and so trusts them."""
    for role, code in own.items():
        (run.prompts / f"{role}.py").write_bytes(code.source)
        remember_code(code)


def code_used(config: Config, own: Mapping[Role, Code]) -> dict[Role, CodeUsed]:
    """What ``versions.json`` says of them."""
    places = _places(config)
    return {role: CodeUsed(source=places[role].place, sha256=code.digest) for role, code in own.items()}


def keep_own_loss(config: Config, run: RunDir, own: Mapping[Role, Code]) -> None:
    """The same for a run over lists that exist, which has nothing else of which a version is noted."""
    if own:
        keep_code(run, own)
        write_record(run.prompts / "versions.json", Versions(loss=code_used(config, own)["loss"]))


def hand_on_loss(config: Config, cycle: RunDir, run: RunDir) -> None:
    """To the run over lists that a cycle begins with: the copy that the cycle keeps."""
    if isinstance(config.loss, PythonLoss):
        keep_own_loss(config, run, {"loss": _trusted(_places(config)["loss"], cycle, "loss")})


def check_code(config: Config, run: RunDir, *, trust: bool) -> None:
    """UserError unless this user has run the functions of the run before; ``trust``: from now on, they have."""
    for role, named in _places(config).items():
        if trust:
            remember_code(_kept(named, run, role))
        _trusted(named, run, role)


def as_kept(spec: RankerSpec, run: RunDir, role: Role) -> RankerSpec:
    """The same ranker, from the run's own copy where it is a function of the user's; all others as they are.

    Raises:
        UserError: the copy is not what the run began with, or nothing that this user has run.
    """
    if spec.kind.name != "python":
        return spec
    code = _trusted(_Place(spec.place, spec.key), run, role)
    return replace(spec, place=f"{code.file}:{code.function}")


def with_kept_loss(config: Config, run: RunDir) -> Config:
    """The same config, its loss opened from the run's own copy where it is a function of the user's. UserError as
    above, or where it is no loss."""
    if not isinstance(config.loss, PythonLoss):
        return config
    from cyclealign.training.own_loss import opened

    loss = opened(config.loss, _trusted(_places(config)["loss"], run, "loss"))
    return config.model_copy(update={"loss": loss})


def _trusted(named: _Place, run: RunDir, role: Role) -> Code:
    code = _kept(named, run, role)
    if not is_trusted(code):
        raise UserError(
            f"{code.file}: the run would run this Python ({code.function}, sha256 {code.digest[:12]}…), which you have"
            " not run before; read it, and if you trust it, resume with --trust-code"
        )
    return code


def _kept(named: _Place, run: RunDir, role: Role) -> Code:
    """The copy, which nothing runs yet. UserError where it is not what the run began with."""
    function = named.place.rpartition(":")[2]
    code = read_code(f"{run.prompts / role}.py:{function}", named.key)
    noted = run.prompts / "versions.json"
    used = getattr(read_record(Versions, noted), role) if noted.exists() else None
    if used is not None and used.sha256 != code.digest:
        raise UserError(
            f"{code.file}: is not what the run began with (sha256 {used.sha256[:12]}…, got {code.digest[:12]}…);"
            " put it back from a copy"
        )
    return code


def _places(config: Config) -> dict[Role, _Place]:
    found: dict[Role, _Place] = {}
    if config.black_box.judge == "python":
        spec = spec_of(config.black_box)
        found["ranker"] = _Place(spec.place, spec.key)
    witness = config.cycle.watched_by
    if witness is not None and witness.scorer.startswith("python:") and (watching := witness_spec(config)) is not None:
        found["scorer"] = _Place(watching.place, watching.key)
    if isinstance(config.loss, PythonLoss):
        found["loss"] = _Place(config.loss.function, "loss.function")
    return found
