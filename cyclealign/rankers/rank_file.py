"""``cyclealign rank``: any ranker on any JSONL of candidate sets."""

from __future__ import annotations

import json
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
from cyclealign.rankers.by_name import ledger_beside, open_ranker, ranker_spec
from cyclealign.types import RankContext, Unranked, UserError


@dataclass(frozen=True, kw_only=True)
class RankJob:
    """What the command line asks for. ``options``: ``key=value`` of the black_box section."""

    file: Path
    ranker: str
    options: tuple[str, ...] = ()
    out: Path | None = None
    seed: int = 42


def rank_file(job: RankJob) -> str:
    """Rank every set and write one verdict a line, as they come; returns a line that sums up.

    Paid calls go to a ledger beside the output file, so that a second start repeats none.

    Raises:
        UserError: unknown ranker, a file that cannot be used, a server that does not answer.
    """
    sets = load_candidate_sets(job.file)
    spec = ranker_spec(job.ranker, job.options)
    unranked = 0
    with ExitStack() as stack:
        ranker = open_ranker(spec, lambda: stack.enter_context(Ledger(ledger_beside(job.out or job.file))))
        pool = DemonstrationPool.start(DemonstrationsConfig(), template=load_template(spec.box.template))
        context = RankContext(run="rank", interaction=0, seed=job.seed, demonstrations=pool)
        file = stack.enter_context(_opened(job.out))
        for verdict in ranker.rank(iter(sets), context):
            unranked += isinstance(verdict, Unranked)
            file.write(json.dumps(verdict_record(verdict), ensure_ascii=False) + "\n")
            file.flush()
    return f"{len(sets) - unranked} sets ranked, {unranked} not"


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
