"""What is known of a cascade's first judge: what its calibration says, and how many lists it has answered alone."""

from __future__ import annotations

import json
from itertools import chain

from cyclealign.files.records import decode, read_records
from cyclealign.files.run_dir import RunDir
from cyclealign.files.run_records import VerdictRecord
from cyclealign.judge.ledger import Ledger
from cyclealign.rankers.calibration import CALIBRATED, COMPARED, Calibration, calibration_text
from cyclealign.types import UserError


def first_judge_text(run: RunDir) -> str:
    """One line; empty where no judge stands before the judge, or its agreement was not asked for."""
    if not run.ledger.exists():
        return ""
    try:
        with Ledger(run.ledger, read_only=True) as ledger:
            compared, said = len(ledger.facts(COMPARED)), ledger.fact(CALIBRATED)
    except UserError as error:
        return str(error)
    if said is None:
        return f"calibrating, {compared} lists compared so far" if compared else ""
    try:
        found = decode(Calibration, json.loads(said))
    except ValueError as error:
        return f"{run.ledger}: what the calibration of the first judge says is damaged: {error}"
    if found.alone_from is None:
        return calibration_text(found)
    alone, ranked = _alone(run)
    share = f" ({alone / ranked:.0%})" if ranked else ""
    return f"{calibration_text(found)}; it has answered {alone:,} of {ranked:,} ranked lists alone{share}"


def _alone(run: RunDir) -> tuple[int, int]:
    """Lists that it answered alone, and all that are ranked."""
    records = chain.from_iterable(read_records(VerdictRecord, i.black_box, having="tiers") for i in run.interactions())
    rankings = [r.cascade for r in records if r.tiers is not None]
    return sum(c is not None and not c.kept and not c.audited for c in rankings), len(rankings)
