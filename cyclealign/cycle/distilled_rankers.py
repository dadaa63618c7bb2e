"""The local ranker of each interaction of a run, distilled from the rankings that the run paid for before it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cyclealign.config.black_box import CascadeConfig
from cyclealign.files.records import read_record, write_record
from cyclealign.files.run_dir import RunDir
from cyclealign.files.run_figures import CascadeFit
from cyclealign.files.run_records import read_rankings, read_sets
from cyclealign.rankers.calibration import Compared, pair_agreement, threshold
from cyclealign.types import CandidateSet, Ranking, derive_seed

if TYPE_CHECKING:
    from cyclealign.rankers.distilled import Distilled, Features


@dataclass(frozen=True)
class RunRankers:
    """Fits on all interactions before the given one, all of which are complete, and keeps the weights beside it.

    With ``min_agreement``, half of the prompts, drawn by their ids, are never fitted on: of them the first
    ``calibration`` lists, all of which the judge was sent whole, say from how sure on the local ranker answers alone.
    Until there are so many of them it answers none.

    ``cascade.json`` is written before the judge is asked anything of the interaction: a resumed run reads it, and so
    asks the same. None while the judge has ranked fewer than ``warm_up`` lists.
    """

    run: RunDir
    config: CascadeConfig

    def __call__(self, interaction: int, features: Features) -> Distilled | None:
        from cyclealign.rankers.distilled import Distilled

        file = self.run.interaction(interaction).cascade
        if not file.exists():
            found = self._fitted(interaction, features)
            file.parent.mkdir(parents=True, exist_ok=True)
            write_record(file, CascadeFit(useful=False) if found is None else found.record())
        return Distilled.from_record(read_record(CascadeFit, file))

    def _fitted(self, interaction: int, features: Features) -> Distilled | None:
        from cyclealign.rankers.distilled import distil, lists_of

        done = [self.run.interaction(n) for n in range(interaction)]
        lists = [pair for d in done for pair in lists_of(read_sets(d.candidates), read_rankings(d.black_box))]
        if len(lists) < self.config.warm_up:
            return None
        if self.config.min_agreement is None:
            return distil(lists, features)
        found = distil([pair for pair in lists if not held_back(pair[0])], features)
        whole = [(item, r) for item, r in lists if held_back(item) and (r.cascade is None or r.cascade.audited)]
        if found is None or len(whole) < self.config.calibration:
            return found
        compared = [c for item, r in whole[: self.config.calibration] if (c := _compared(found, features, item, r))]
        alone_from = threshold(compared, min_agreement=self.config.min_agreement, alpha=self.config.alpha)
        return replace(found, alone_from=alone_from, calibration=len(compared))


def held_back(item: CandidateSet) -> bool:
    """Whether lists of this prompt calibrate the local ranker, and are never fitted on."""
    return derive_seed("calibration", item.prompt.id) % 2 == 0


def _compared(local: Distilled, features: Features, item: CandidateSet, judge: Ranking) -> Compared | None:
    from cyclealign.rankers.distilled import expected_agreement

    scores = local.scores(features, item)
    agreement = pair_agreement(Ranking.from_scores(item.prompt.id, scores).tiers, judge.tiers)
    return None if agreement is None else Compared(expected_agreement(scores), agreement)
