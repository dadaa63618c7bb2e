"""A cascade of two judges behind APIs: a cheap one ranks first, and the dear one is asked where that is not sure."""

from __future__ import annotations

import json
import logging
from collections import deque
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Literal

from cyclealign.config.black_box import BlackBoxConfig, CascadeConfig
from cyclealign.config.endpoints import OPENAI_URL
from cyclealign.files.records import encode
from cyclealign.files.run_records import Verdict
from cyclealign.judge.costs import asked_options
from cyclealign.judge.ledger import Ledger
from cyclealign.judge.template import RankTemplate
from cyclealign.rankers.agreement import Tiers
from cyclealign.rankers.calibration import (
    CALIBRATED,
    COMPARED,
    Calibration,
    Compared,
    calibrated,
    calibration_text,
    pair_agreement,
    unanimity,
)
from cyclealign.rankers.cascade import Course, Opinion
from cyclealign.types import CandidateSet, RankContext, Ranker, Ranking, Unranked, sha256_hex

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Comparisons:
    """The calibration lists so far, as facts on the ledger beside both judges' replies; ``about``: which two."""

    ledger: Ledger
    about: str

    def read(self) -> Mapping[str, Compared | None]:
        """By the set's id; None where one of the two gave no order to compare."""
        found = {i: json.loads(value) for i, value in self.ledger.facts(self._beginning).items()}
        return {i: None if value is None else Compared(*value) for i, value in found.items()}

    def note(self, set_id: str, compared: Compared | None) -> None:
        value = None if compared is None else [compared.sure, compared.agreement]
        self.ledger.set_fact(f"{self._beginning}{set_id}", json.dumps(value))

    def conclude(self, found: Calibration) -> None:
        """What they say, for whoever reports on the ledger."""
        self.ledger.set_fact(CALIBRATED, json.dumps(encode(found)))

    @property
    def _beginning(self) -> str:
        return f"{COMPARED}{self.about}: "


def comparisons(ledger: Ledger, box: BlackBoxConfig, template: RankTemplate) -> Comparisons:
    """Of the judges of a section with a first one, as they are asked."""
    judges = [[judge.base_url or OPENAI_URL, judge.model, judge.passes] for judge in box.everyone]
    return Comparisons(ledger, sha256_hex([judges, template.version, asked_options(box)])[:16])


class JudgeCascade:
    """Asks the cheap judge about every list, and the dear one where its passes do not agree enough; implements
    ``types.Ranker``.

    The first ``calibration`` lists go to both, whole; from how sure on the cheap one answers alone is found by them
    (``calibration.threshold``). After that a list is, in this order: audited (drawn by seed), alone, pruned to the
    ``keep`` best of the cheap judge, else whole. Where the agreement cannot be shown and nothing is pruned, the cheap
    judge is not asked any more. A list on which it has no verdict goes to the dear one whole, and so does what measures
    the judge (purpose ``eval``).
    """

    gives: Literal["order", "magnitude"] = "order"

    def __init__(self, judge: Ranker, first: Ranker, config: CascadeConfig, comparisons: Comparisons) -> None:
        """``first`` shows each list in several orders, and gives them in ``Ranking.passes``."""
        self._judge = judge
        self._first = first
        self._config = config
        self._comparisons = comparisons

    def rank(self, sets: Iterable[CandidateSet], context: RankContext) -> Iterator[Ranking | Unranked]:
        """Verdicts in order of completion; those given alone come with the judge's next.

        Raises:
            UserError, RunStopped, BudgetExhausted: as either judge does, after all that was ranked alone.
        """
        if context.purpose == "eval":
            yield from self._judge.rank(sets, context)
            return
        waiting = iter(sets)
        yield from self._both(waiting, context)
        alone_from = self._alone_from()
        if alone_from is None and self._config.keep is None:
            yield from self._judge.rank(waiting, context)
            return
        opinions = self._opinions(waiting, context, self._comparisons.read().keys())
        yield from Course(self._config, alone_from, context).ranked(self._judge, opinions)

    def _both(self, sets: Iterator[CandidateSet], context: RankContext) -> Iterator[Ranking | Unranked]:
        """The judge's verdicts on the lists that calibrate, as far as they are not on record."""
        if self._config.min_agreement is None:
            return
        while missing := self._config.calibration - len(self._comparisons.read()):
            lists = list(islice(sets, max(missing, 0)))
            if not lists:
                return
            said = {item.id: verdict for item, verdict in self._first_says(lists, context)}
            for verdict in self._judge.rank(iter(lists), context):
                first = said[verdict.set_id]
                if not _failed(first) and not _failed(verdict):  # neither has been heard where a call failed
                    self._comparisons.note(verdict.set_id, _compared(_opinion(first), verdict))
                yield verdict

    def _alone_from(self) -> float | None:
        """How sure the cheap judge must be; None while too few lists are on record, too."""
        least = self._config.min_agreement
        noted = self._comparisons.read()
        if least is None or len(noted) < self._config.calibration:
            return None
        compared = [c for c in noted.values() if c is not None]
        found = calibrated(compared, min_agreement=least, alpha=self._config.alpha)
        self._comparisons.conclude(found)
        log.info("cascade: %s", calibration_text(found))
        return found.alone_from

    def _opinions(
        self, sets: Iterable[CandidateSet], context: RankContext, compared: Container[str]
    ) -> Iterator[tuple[CandidateSet, Opinion | None]]:
        """Each list with what the cheap judge says of it, in order of completion. Of those that were ``compared``, by a
        process that died before their verdict was written down, it says nothing: the dear judge has ranked them."""
        passed: deque[CandidateSet] = deque()

        def unheard() -> Iterator[CandidateSet]:
            for item in sets:
                if item.id in compared:
                    passed.append(item)
                else:
                    yield item

        for item, verdict in self._first_says(unheard(), context):
            while passed:
                yield passed.popleft(), None
            yield item, _opinion(verdict)
        while passed:
            yield passed.popleft(), None

    def _first_says(self, sets: Iterable[CandidateSet], context: RankContext) -> Iterator[tuple[CandidateSet, Verdict]]:
        """Each list with the cheap judge's verdict, in order of completion."""
        asked: dict[str, deque[CandidateSet]] = {}

        def noted() -> Iterator[CandidateSet]:
            for item in sets:
                asked.setdefault(item.id, deque()).append(item)
                yield item

        for verdict in self._first.rank(noted(), replace(context, shown_again=frozenset())):
            yield asked[verdict.set_id].popleft(), verdict


def _failed(verdict: Verdict) -> bool:
    """Whether there is none because of the judge's server or the budget: another start asks again."""
    return isinstance(verdict, Unranked) and verdict.reason in ("budget", "error")


def _opinion(verdict: Verdict) -> Opinion | None:
    if isinstance(verdict, Unranked) or not verdict.passes:
        return None
    return Opinion(_places(verdict.tiers), unanimity(verdict.passes))


def _places(tiers: Tiers) -> dict[str, float]:
    """Scores that say the order and no more."""
    return {i: float(len(tiers) - place) for place, tier in enumerate(tiers, start=1) for i in tier}


def _compared(opinion: Opinion | None, verdict: Verdict) -> Compared | None:
    if opinion is None or isinstance(verdict, Unranked):
        return None
    agreement = pair_agreement(Ranking.from_scores("", opinion.scores).tiers, verdict.tiers)
    return None if agreement is None else Compared(opinion.sure, agreement)
