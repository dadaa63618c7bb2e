"""``cyclealign rank``: any ranker on any JSONL of candidate sets."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from cyclealign.config.schema import DemonstrationsConfig
from cyclealign.files.locks import Lock
from cyclealign.files.outputs import check_apart, output
from cyclealign.files.printable import one_line
from cyclealign.files.prompts import load_candidate_sets
from cyclealign.judge.demonstrations import DemonstrationPool
from cyclealign.judge.ledger import Ledger
from cyclealign.judge.template import check_places, load_template
from cyclealign.rankers.by_name import RankerSpec, ledger_of_judge, open_ranker, ranker_spec, settings_digest
from cyclealign.rankers.verdict_file import MadeBy, Verdicts
from cyclealign.types import CandidateSet, RankContext, RunStopped, Unranked

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RankJob:
    """What the command line asks for. ``options``: ``key=value`` of the black_box section. ``ledger``: where paid
    calls are recorded, if not beside the input."""

    file: Path
    ranker: str
    options: tuple[str, ...] = ()
    out: Path | None = None
    ledger: Path | None = None
    seed: int = 42


def rank_file(job: RankJob) -> str:
    """Rank every set and write one verdict a line, as they come; returns a line that sums up.

    Paid calls go to one ledger for the input file and the judge, beside the file or where ``job.ledger`` says, so that
    a second start repeats none, wherever its verdicts go.

    Raises:
        UserError: unknown ranker, a file that cannot be used, a server that does not answer; an output that is an
            input, is in use, or holds something else than verdicts of this job; another process asks the same.
        RunStopped: at the end, where sets are left because calls failed: a second start asks those again.
    """
    inputs = [job.file] if job.ledger is None else [job.file, job.ledger]
    with ExitStack() as held:
        if job.out is not None:
            held.enter_context(output(job.out, inputs))
        if job.ledger is not None:
            check_apart(job.ledger, [job.file], "--ledger")
        return _ranked(job, load_candidate_sets(job.file), ranker_spec(job.ranker, job.options))


def _ranked(job: RankJob, sets: Sequence[CandidateSet], spec: RankerSpec) -> str:
    with ExitStack() as stack:
        made_by = _made_by(job, spec)
        verdicts = Verdicts(job.out, made_by)
        template = load_template(spec.box.template)
        if spec.kind.name == "openai":
            check_places(template, (s.prompt for s in sets))
        ranker = open_ranker(spec, lambda: _ledger(_ledger_path(job, spec), made_by.input, stack))
        pool = DemonstrationPool.start(DemonstrationsConfig(), template=template)
        context = RankContext(run="rank", interaction=0, seed=job.seed, demonstrations=pool)
        stack.enter_context(verdicts)
        for verdict in ranker.rank((s for s in sets if s.prompt.id not in verdicts.kept), context):
            verdicts.add(verdict)
    unranked = [v for v in (*verdicts.kept.values(), *verdicts.left) if isinstance(v, Unranked)]
    failed = sum(v.reason == "error" for v in verdicts.left)
    said = f"{len(sets) - len(unranked)} sets ranked, {len(unranked)} not"
    if failed:
        raise RunStopped(f"{said}: {failed} of them because calls failed; start again to ask those, and only those")
    return f"{said} (the last: {_why(unranked[-1])})" if unranked else said


def _why(verdict: Unranked) -> str:
    return one_line(f"{verdict.reason}: {verdict.detail}" if verdict.detail else verdict.reason)


def _ledger(path: Path, digest: str, stack: ExitStack) -> Ledger:
    """The ledger, until the stack ends. Another process that puts the same file to the same judge is told so: each
    would ask what the other has in flight, and both would be paid for. Other files may share the ledger meanwhile."""
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
    lock = Lock(path.with_name(f".{path.name}.{digest[:8]}.lock"), f"ledger {path}, for this input,")
    stack.callback(lock.close, remove=True)
    return stack.enter_context(Ledger(path))


def _ledger_path(job: RankJob, spec: RankerSpec) -> Path:
    """The place of a job's paid calls, which is said."""
    path = job.ledger or ledger_of_judge(job.file, spec.box)
    log.info("ledger of paid calls: %s", path)
    return path


def _made_by(job: RankJob, spec: RankerSpec) -> MadeBy:
    """What verdicts depend on."""
    digest = hashlib.sha256(job.file.read_bytes()).hexdigest()
    return MadeBy(input=digest, ranker=spec.name, seed=job.seed, settings=settings_digest(spec))
