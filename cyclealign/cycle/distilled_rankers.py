"""The local ranker of each interaction of a run, distilled from the rankings that the run paid for before it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cyclealign.config.schema import CascadeConfig
from cyclealign.files.records import read_record, write_record
from cyclealign.files.run_dir import RunDir
from cyclealign.files.run_figures import CascadeFit
from cyclealign.files.run_records import read_rankings, read_sets

if TYPE_CHECKING:
    from cyclealign.rankers.distilled import Distilled, Features


@dataclass(frozen=True)
class RunRankers:
    """Fits on all interactions before the given one, all of which are complete, and keeps the weights beside it.

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
        return distil(lists, features) if len(lists) >= self.config.warm_up else None
