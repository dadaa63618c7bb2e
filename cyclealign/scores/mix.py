"""Scores of one teacher or the mean of several (the ensemble T2 of Margin-MSE), on the lists of a file."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from cyclealign.scores.calibration import Calibration
from cyclealign.scores.score_list import ScoreList
from cyclealign.scores.store import ScoreStore
from cyclealign.types import UserError


def mixed(
    store: ScoreStore, calibrations: Mapping[str, Calibration], lists: Iterable[ScoreList]
) -> Iterator[ScoreList]:
    """The lists with texts and with the mean of the calibrated scores of the named teachers.

    Lists that a teacher has no verdict on are left out before.

    Raises:
        UserError: a teacher has not scored a document; of an ensemble all have to.
    """
    for item in lists:
        means = []
        for document in item.documents:
            parts = []
            for name, calibration in calibrations.items():
                score = store.score(name, item.query.id, document.id)
                if score is None:
                    raise UserError(f"{item.place}: {name} has no score for document {document.id!r}")
                parts.append(calibration(score))
            means.append(math.fsum(parts) / len(parts))
        yield replace(store.told(item), scores=tuple(means))
