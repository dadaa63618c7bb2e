"""The black box's own replies as candidates of a run: asked for once a prompt, or a column of the data."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from cyclealign.files.jsonl import Appender
from cyclealign.files.records import encode, read_records
from cyclealign.files.run_records import AnswerRecord
from cyclealign.types import OWN_REPLY, BudgetExhausted, Candidate, CandidateSet, Prompt

log = logging.getLogger(__name__)


class Asked(Protocol):
    """Who is asked for its replies (``rankers.own_reply.OwnReplies``)."""

    def ask(self, prompts: Sequence[Prompt], *, interaction: int) -> Iterator[AnswerRecord]: ...


class RecordedAnswers:
    """Replies of who is asked, kept in a file of the run: each prompt is asked about once, over all its interactions.

    A refusal stands; a prompt whose call failed is asked about again in its next interaction, or at a resume.
    """

    def __init__(self, file: Path, asked: Asked) -> None:
        self._file, self._asked = file, asked

    def answers(self, prompts: Sequence[Prompt], *, interaction: int) -> dict[str, Candidate]:
        """A candidate by prompt id, for those that have a reply. BudgetExhausted where not all could be asked about."""
        known = {r.prompt_id: r for r in read_records(AnswerRecord, self._file)}
        missing = [p for p in prompts if p.id not in known]
        failed: list[AnswerRecord] = []
        unpaid = 0
        with Appender(self._file) as file:
            for found in self._asked.ask(missing, interaction=interaction) if missing else ():
                if found.unanswered == "budget":
                    unpaid += 1
                elif found.unanswered == "error":
                    failed.append(found)
                else:
                    file.add(encode(found))
                    known[found.prompt_id] = found
        if unpaid:
            raise BudgetExhausted(f"{unpaid} of {len(prompts)} prompts of interaction {interaction} have no answer yet")
        if failed:
            log.warning("black_box.answers: %d calls failed (last: %s)", len(failed), failed[-1].detail)
        found_now = {p.id: known[p.id].candidate for p in prompts if p.id in known}
        return {i: candidate for i, candidate in found_now.items() if candidate is not None}


class GivenAnswers:
    """Replies that stand in a column of the data."""

    def answers(self, prompts: Sequence[Prompt], *, interaction: int) -> dict[str, Candidate]:
        return {p.id: Candidate(OWN_REPLY, p.answer) for p in prompts if p.answer}


def with_answer(item: CandidateSet, answers: Mapping[str, Candidate]) -> CandidateSet:
    """The set with the black box's own reply as one more candidate, where there is one that the policy has not given.

    It is added, and replaces none: what is sampled, and so what a run with and without it compares, stays the same.
    """
    own = answers.get(item.prompt.id)
    if own is None or any(c.text == own.text for c in item.candidates):
        return item
    return replace(item, candidates=(*item.candidates, own))
