"""Who watches a run: a scorer of single replies, or a judge that compares them with the start model's."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Protocol

from cyclealign.config.black_box import BlackBoxConfig
from cyclealign.config.schema import Config, DemonstrationsConfig
from cyclealign.evaluation.reply_pairs import against_start, judged_value, needs_judge, unjudged_value
from cyclealign.files.jsonl import write_jsonl
from cyclealign.files.run_dir import RunDir
from cyclealign.files.run_records import Verdict, verdict_record
from cyclealign.judge.demonstrations import DemonstrationPool
from cyclealign.judge.ledger import Ledger
from cyclealign.judge.template import RankTemplate
from cyclealign.rankers.by_name import RankerSpec, ranker_spec, spec_of
from cyclealign.rankers.scored import PairScorer
from cyclealign.types import (
    BudgetExhausted,
    CandidateSet,
    RankContext,
    Ranker,
    RunStopped,
    Unranked,
    UserError,
)

BY_DEFINITION = 0.5  # of the start model against itself
BUDGET = "cycle.witness.budget_usd"
_OWN_KEY = re.compile(r"\bblack_box(?=: |\.(?:base_url|api_key_env|price|budget_usd|model)\b)")


class Witness(Protocol):
    """Gives the reward of each held-out prompt; ``name``: under which it is recorded."""

    name: str

    def rewards(
        self, now: Sequence[CandidateSet], start: Mapping[str, CandidateSet] | None, folder: Path, context: RankContext
    ) -> dict[str, float]:
        """By prompt id, those that have one, higher is better.

        Args:
            now: the replies of this evaluation, a set a prompt.
            start: those of the start model; None where it is the start model that is evaluated.
            folder: of the evaluation, for what a witness records.
            context: of the evaluation.
        """
        ...


class ScoringWitness:
    """Mean score of a prompt's replies, each scored by itself."""

    def __init__(self, name: str, scorer: PairScorer) -> None:
        self.name, self._scorer = name, scorer

    def rewards(
        self, now: Sequence[CandidateSet], start: Mapping[str, CandidateSet] | None, folder: Path, context: RankContext
    ) -> dict[str, float]:
        """Of the prompts that have a reply."""
        replied = [s for s in now if s.candidates]
        scores = self._scorer.score([(s.prompt.messages, c.text) for s in replied for c in s.candidates])
        return by_prompt(replied, scores)


class JudgingWitness:
    """Win rate of each prompt's first reply against the start model's, 1, 1/2 or 0, by calls that are paid for.

    The start model's own is 1/2, and nothing is asked for it. Verdicts stand in ``witness.jsonl``. A pair without one
    has no reward; ``most_failed``: the share of pairs of which that may be so.
    """

    def __init__(self, name: str, ranker: Ranker, *, most_failed: float) -> None:
        self.name, self._ranker, self._most_failed = name, ranker, most_failed

    def rewards(
        self, now: Sequence[CandidateSet], start: Mapping[str, CandidateSet] | None, folder: Path, context: RankContext
    ) -> dict[str, float]:
        """Raises UserError, RunStopped and BudgetExhausted, in the words of ``cycle.witness``."""
        if start is None:
            return {s.prompt.id: BY_DEFINITION for s in now}
        pairs = against_start(now, start)
        verdicts = self._verdicts([s for s in pairs if needs_judge(s)], context)
        self._stop_if_too_many_failed(list(verdicts.values()))
        write_jsonl(folder / "witness.jsonl", map(verdict_record, verdicts.values()))
        values = {
            s.prompt.id: judged_value(s, verdicts[s.prompt.id]) if needs_judge(s) else unjudged_value(s) for s in pairs
        }
        return {i: value for i, value in values.items() if value is not None}

    def _verdicts(self, pairs: Sequence[CandidateSet], context: RankContext) -> dict[str, Verdict]:
        """In the order of the pairs."""
        # Shown none: the demonstrations of a run come from its judge.
        none = DemonstrationPool.start(DemonstrationsConfig(), static=())
        asking = replace(context, demonstrations=none, purpose="witness", shown_again=frozenset())
        with in_its_words():
            found = {v.prompt_id: v for v in self._ranker.rank(iter(pairs), asking)} if pairs else {}
        return {s.prompt.id: found[s.prompt.id] for s in pairs}

    def _stop_if_too_many_failed(self, verdicts: Sequence[Verdict]) -> None:
        failed = [v for v in verdicts if isinstance(v, Unranked)]
        if len(failed) > self._most_failed * len(verdicts):
            raise RunStopped(
                f"cycle.witness: {len(failed)} of {len(verdicts)} pairs have no verdict, more than"
                f" black_box.max_unranked={self._most_failed} allows (last: {failed[-1].reason}: {failed[-1].detail});"
                " a resume makes the calls again that failed, unusable replies stand"
            )


@contextmanager
def in_its_words() -> Iterator[None]:
    """Errors of a paid judge, which name keys of ``black_box``, with those of ``cycle.witness``."""
    try:
        yield
    except BudgetExhausted as error:
        raise BudgetExhausted(_own_words(error), key=BUDGET) from error
    except (UserError, RunStopped) as error:
        raise type(error)(_own_words(error)) from error


def _own_words(error: BaseException) -> str:
    return _OWN_KEY.sub("cycle.witness", str(error)).replace("cycle.witness.model", "cycle.witness.scorer")


def witness_spec(config: Config) -> RankerSpec | None:
    """Who the witness is, checked but not loaded; None where there is none. UserError as ``ranker_spec``."""
    witness = config.cycle.watched_by
    if witness is None:
        return None
    judge = witness.judge(config.black_box)
    if judge is not None:
        return spec_of(judge)
    return ranker_spec(witness.scorer, flag=config.cycle.watched_key, need="scores")


def judging_witness(
    name: str, judge: BlackBoxConfig, run: RunDir, template: RankTemplate, *, most_failed: float
) -> JudgingWitness:
    """A witness that is paid for, from its own budget; it is asked once whether it answers.

    Raises:
        UserError, BudgetExhausted: as ``BlackBoxRanker`` and its ``preflight``.
    """
    from cyclealign.rankers.black_box import BlackBoxRanker

    with ExitStack() as stack, in_its_words():
        ledger = stack.enter_context(Ledger(run.ledger, account="witness"))
        ranker = BlackBoxRanker(judge, template, ledger)
        ranker.preflight(2)
        stack.pop_all()  # the ledger stays open as long as the run
    return JudgingWitness(name, ranker, most_failed=most_failed)


def by_prompt(sets: Sequence[CandidateSet], values: Sequence[float]) -> dict[str, float]:
    """Mean over each prompt's replies of values that stand in the order of all replies."""
    left = iter(values)
    return {s.prompt.id: fmean(next(left) for _ in s.candidates) for s in sets}
