"""`Cycle`: a new run in a directory, or the run of a directory; which hosts get which key."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from cyclealign.config.endpoints import SERVER_KEY
from cyclealign.config.loading import check_resume_changes, config_of, dump_config, load_config
from cyclealign.config.schema import Config
from cyclealign.cycle.kept_code import check_code, code_used, keep_code, own_code
from cyclealign.cycle.loop import Loop
from cyclealign.cycle.parts import assemble
from cyclealign.cycle.prompts import check_rendered, run_prompts
from cyclealign.cycle.trusted_hosts import check_host, remember_host
from cyclealign.files.atomic import write_atomic
from cyclealign.files.records import read_record, write_record
from cyclealign.files.run_dir import RunDir, open_run
from cyclealign.files.run_state import StaticUsed, TemplateUsed, Versions
from cyclealign.judge.demonstration_files import content_version, load_static
from cyclealign.judge.demonstrations import DemonstrationPool
from cyclealign.judge.template import check_places, find_template, load_template
from cyclealign.models.processes import is_main, process_count
from cyclealign.types import UserError

if TYPE_CHECKING:
    from cyclealign.cycle.list_run import ListRun


class Cycle(Loop):
    """One run, with the two ways in: a config, or a run directory."""

    @staticmethod
    def from_config(config: Config) -> Cycle:
        """A new run in ``config.run_dir``. UserError when the directory holds work, or a part cannot be built."""
        return new_cycle(config)

    @staticmethod
    def resume(
        run: Path, overrides: Sequence[str] = (), *, trust_host: bool = False, trust_code: bool = False
    ) -> Cycle | ListRun:
        """The run of a directory, to be continued; see ``cyclealign resume``."""
        return resumed_cycle(run, overrides, trust_host=trust_host, trust_code=trust_code)


def new_cycle(config: Config) -> Cycle:
    """A new run: everything that the user may have got wrong is read before anything is paid for; the prompts are
    rendered last, which takes the policy's tokenizer.

    Raises:
        UserError: naming the key, file or line.
    """
    if config.lists is not None:
        raise UserError("lists: read by cyclealign train CONFIG LISTS; remove the section to run a cycle")
    run = RunDir(config.run_dir)
    if is_main():
        beside = next(p for p in run.path.absolute().parents if p.exists())
        train, held_out = run_prompts(config.data, answers=config.black_box.answer_column, aside=beside)
        template = find_template(config.black_box.template)
        words = load_template(str(template))
        witness = config.cycle.watched_by
        if config.black_box.judge == "openai":
            check_places(words, chain(train, held_out), config.black_box.rubric or "")
        elif witness is not None and witness.judges:
            check_places(words, held_out, config.black_box.rubric or "")
        static = load_static(config.demonstrations.static)
        pool = DemonstrationPool.start(config.demonstrations, static=static, template=words)
        run.check_free()
        own = own_code(config)
        check_rendered(config, train, held_out)
        run.create(dump_config(config), train, held_out, processes=process_count())
        shutil.copyfile(template, run.prompts / "template.yaml")
        pool.save(run.prompts / "demonstrations.jsonl")
        shown = StaticUsed(source=config.demonstrations.static, version=pool.version, count=len(static))
        used = TemplateUsed(source=config.black_box.template, version=words.version)
        keep_code(run, own)
        write_record(
            run.prompts / "versions.json", Versions(demonstrations=shown, template=used, **code_used(config, own))
        )
        for url, key in _hosts(config):
            remember_host(url, key)
    return _unlocked_on_failure(config, run)


def resumed_cycle(
    path: Path, overrides: Sequence[str] = (), *, trust_host: bool = False, trust_code: bool = False
) -> Cycle | ListRun:
    """The run of a directory, a cycle's or one over lists that exist, which is all that it needs; see
    ``check_resume_changes`` for what may change.

    Raises:
        UserError: no run there, other prompts, other words or another config than it began with, a change that is not
            allowed, steps of another size, a host that this user has not used before, or Python that this user has not
            run.
    """
    run = open_run(path)
    _check_words(run)
    found = run.began()
    began = config_of(found.config or "", str(run.began_file))
    check_resume_changes(began, load_config(run.config), by=f"{run.config} was edited: ")
    config = load_config(run.config, overrides)
    check_resume_changes(began, config)
    _check_step(began, found.processes, config)
    for url, key in _hosts(config):
        if trust_host:
            remember_host(url, key)
        check_host(url, key)
    check_code(config, run, trust=trust_code)
    if is_main():
        run.lock()
        write_atomic(run.config, dump_config(config))
    if config.lists is not None:
        from cyclealign.cycle.list_run import list_run

        return list_run(config, run, config.lists)
    return _unlocked_on_failure(config, run)


def _check_step(began: Config, processes: int, config: Config) -> None:
    """UserError where an optimiser step would take another number of lists than the run's steps: of another number of
    processes, or of other batches."""
    from cyclealign.training.arguments import lists_per_step

    own = process_count()
    wanted, found = lists_per_step(began, processes), lists_per_step(config, own)
    if wanted != found:
        raise UserError(
            f"processes: a step of this run takes {wanted} lists and was begun by {processes} processes, by {own} it"
            f" would take {found}: start {processes}, or set training.gradient_accumulation_steps and"
            f" training.per_device_train_batch_size so that their product is {wanted / own:g}"
        )


def _check_words(run: RunDir) -> None:
    """UserError where the ranking prompt or the static demonstrations are not those that the run began with: half of
    its verdicts would be answers to other words. A run that was killed before it had noted them has asked nothing."""
    noted = run.prompts / "versions.json"
    if not noted.exists():
        return
    used = read_record(Versions, noted)
    template, static = run.prompts / "template.yaml", run.prompts / "demonstrations.jsonl"
    if used.template is not None:
        _check_version(template, used.template.version, load_template(str(template)).version)
    if used.demonstrations is not None:
        _check_version(static, used.demonstrations.version, content_version(load_static(str(static))))


def _check_version(file: Path, was: str, now: str) -> None:
    if was != now:
        raise UserError(f"{file}: is not what the run began with (version {was}, got {now}); put it back from a copy")


def _hosts(config: Config) -> list[tuple[str | None, str]]:
    """Where a run sends which key: its judge's and its witness's, and its generation servers' where there is one."""
    hosts: list[tuple[str | None, str]] = []
    hosts += [(judge.base_url, judge.api_key_env) for judge in config.black_box.everyone]
    witness = config.cycle.watched_by
    watching = None if witness is None else witness.judge(config.black_box)
    hosts += [] if watching is None else [(watching.base_url, watching.api_key_env)]
    if config.generator.backend == "server" and SERVER_KEY in os.environ:
        hosts += [(url, SERVER_KEY) for url in config.generator.endpoints]
    return hosts


def _unlocked_on_failure(config: Config, run: RunDir) -> Cycle:
    try:
        return Cycle(config, run, *assemble(config, run))
    except BaseException:
        run.unlock()
        raise
