"""A run's own Python, its ranker or scorer: copied into the run, its digest on record, run where the user trusts it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

from cyclealign.config.schema import Config
from cyclealign.cycle.witness import witness_spec
from cyclealign.files.records import read_record
from cyclealign.files.run_dir import RunDir
from cyclealign.files.run_state import CodeUsed, Versions
from cyclealign.rankers.by_name import RankerSpec, spec_of
from cyclealign.rankers.own_function import Code, OwnFunction, read_code
from cyclealign.rankers.trusted_code import is_trusted, remember_code
from cyclealign.types import UserError

Role = Literal["ranker", "scorer"]


def own_code(config: Config) -> dict[Role, Code]:
    """The user's own functions that a new run names, run once: a mistake in them is found before anything is begun.

    Raises:
        UserError: as ``read_code`` and ``OwnFunction``.
    """
    found: dict[Role, Code] = {}
    for role, spec in _named(config).items():
        found[role] = read_code(spec.place, spec.key)
        OwnFunction(found[role], spec.key)
    return found


def keep_code(run: RunDir, own: Mapping[Role, Code]) -> None:
    """Copies in the run, which are all that it ever runs; the user has chosen them, and so trusts them."""
    for role, code in own.items():
        (run.prompts / f"{role}.py").write_bytes(code.source)
        remember_code(code)


def code_used(config: Config, own: Mapping[Role, Code]) -> dict[Role, CodeUsed]:
    """What ``versions.json`` says of them."""
    named = _named(config)
    return {role: CodeUsed(source=named[role].place, sha256=code.digest) for role, code in own.items()}


def check_code(config: Config, run: RunDir, *, trust: bool) -> None:
    """UserError unless this user has run the functions of the run before; ``trust``: from now on, they have."""
    for role, spec in _named(config).items():
        if trust:
            remember_code(_kept(spec, run, role))
        as_kept(spec, run, role)


def as_kept(spec: RankerSpec, run: RunDir, role: Role) -> RankerSpec:
    """The same ranker, from the run's own copy where it is a function of the user's; all others as they are.

    Raises:
        UserError: the copy is not what the run began with, or nothing that this user has run.
    """
    if spec.kind.name != "python":
        return spec
    code = _kept(spec, run, role)
    if not is_trusted(code):
        raise UserError(
            f"{code.file}: the run would run this Python ({code.function}, sha256 {code.digest[:12]}…), which you have"
            " not run before; read it, and if you trust it, resume with --trust-code"
        )
    return replace(spec, place=f"{code.file}:{code.function}")


def _kept(spec: RankerSpec, run: RunDir, role: Role) -> Code:
    """The copy, which nothing runs yet. UserError where it is not what the run began with."""
    function = spec.place.rpartition(":")[2]
    code = read_code(f"{run.prompts / role}.py:{function}", spec.key)
    noted = run.prompts / "versions.json"
    used = getattr(read_record(Versions, noted), role) if noted.exists() else None
    if used is not None and used.sha256 != code.digest:
        raise UserError(
            f"{code.file}: is not what the run began with (sha256 {used.sha256[:12]}…, got {code.digest[:12]}…);"
            " put it back from a copy"
        )
    return code


def _named(config: Config) -> dict[Role, RankerSpec]:
    found: dict[Role, RankerSpec] = {}
    if config.black_box.judge == "python":
        found["ranker"] = spec_of(config.black_box)
    witness = config.cycle.watched_by
    if witness is not None and witness.scorer.startswith("python:") and (spec := witness_spec(config)) is not None:
        found["scorer"] = spec
    return found
