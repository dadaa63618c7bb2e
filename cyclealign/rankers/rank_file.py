"""``cyclealign rank``: any ranker on any JSONL of candidate sets."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from cyclealign.config.schema import DemonstrationsConfig
from cyclealign.files.prompts import load_candidate_sets
from cyclealign.files.run_records import verdict_record
from cyclealign.judge.demonstrations import DemonstrationPool
from cyclealign.judge.ledger import Ledger
from cyclealign.judge.template import load_template
from cyclealign.rankers.by_name import RankerSpec, ledger_of_judge, open_ranker, ranker_spec
from cyclealign.types import RankContext, RunStopped, Unranked, UserError

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
        UserError: unknown ranker, a file that cannot be used, a server that does not answer.
        RunStopped: at the end, where sets are left because calls failed: a second start asks those again.
    """
    sets = load_candidate_sets(job.file)
    spec = ranker_spec(job.ranker, job.options)
    unranked = failed = 0
    with ExitStack() as stack:
        ranker = open_ranker(spec, lambda: stack.enter_context(Ledger(_ledger(job, spec))))
        pool = DemonstrationPool.start(DemonstrationsConfig(), template=load_template(spec.box.template))
        context = RankContext(run="rank", interaction=0, seed=job.seed, demonstrations=pool)
        file = stack.enter_context(_opened(job.out))
        for verdict in ranker.rank(iter(sets), context):
            unranked += isinstance(verdict, Unranked)
            failed += isinstance(verdict, Unranked) and verdict.reason == "error"
            file.write(json.dumps(verdict_record(verdict), ensure_ascii=False) + "\n")
            file.flush()
    said = f"{len(sets) - unranked} sets ranked, {unranked} not"
    if failed:
        raise RunStopped(f"{said}: {failed} of them because calls failed; start again to ask those, and only those")
    return said


def _ledger(job: RankJob, spec: RankerSpec) -> Path:
    """The place of a job's paid calls, which is said."""
    path = job.ledger or ledger_of_judge(job.file, spec.box)
    log.info("ledger of paid calls: %s", path)
    return path


@contextmanager
def _opened(out: Path | None) -> Iterator[IO[Any]]:
    if out is None:
        yield sys.stdout
        return
    try:
        file = out.open("w", encoding="utf-8")
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written: {error.strerror}") from error
    with file:
        yield file
