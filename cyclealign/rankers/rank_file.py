"""``cyclealign rank``: any ranker on any JSONL of candidate sets."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

from cyclealign.config.schema import DemonstrationsConfig
from cyclealign.files.prompts import load_candidate_sets
from cyclealign.files.run_records import verdict_record
from cyclealign.judge.demonstrations import DemonstrationPool
from cyclealign.judge.template import load_template
from cyclealign.rankers.by_name import RankJob, open_ranker
from cyclealign.types import RankContext, Unranked, UserError


def rank_file(job: RankJob) -> str:
    """Rank every set and write one verdict a line, as they come; returns a line that sums up.

    Paid calls go to a ledger beside the output file, so that a second start repeats none.

    Raises:
        UserError: unknown ranker, a file that cannot be used, a server that does not answer.
    """
    sets = load_candidate_sets(job.file)
    unranked = 0
    with ExitStack() as stack:
        ranker, template = open_ranker(job, sets, stack)
        pool = DemonstrationPool.start(DemonstrationsConfig(), template=load_template(template))
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
