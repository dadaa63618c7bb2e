"""Candidate sets with a known right order, and rankers that ask a loopback server about them."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from loopback import Loopback, text_hash

from cyclealign.config.black_box import BlackBoxConfig, Price
from cyclealign.judge.ledger import Ledger
from cyclealign.judge.limits import RetryPolicy
from cyclealign.judge.template import RankTemplate, load_template
from cyclealign.rankers.black_box import BlackBoxRanker
from cyclealign.types import Candidate, CandidateSet, Demonstration, Prompt, RankContext, Ranking, Unranked

QUICK = RetryPolicy(attempts=4, first_wait=0.005, longest_wait=0.02)
PRICE = Price(input=10.0, output=30.0)
Verdicts = dict[str, Ranking | Unranked]


class NoDemonstrations:
    def select(self, prompt: Prompt) -> Sequence[Demonstration]:
        return ()


CONTEXT = RankContext(run="test", interaction=3, seed=11, demonstrations=NoDemonstrations())


def item(i: int, k: int = 3) -> CandidateSet:
    """Candidates of different lengths, in no particular order."""
    lengths = random.Random(i).sample(range(4, 4 + 3 * k, 3), k)
    candidates = tuple(Candidate(f"c{j}", text_hash(f"{i}/{j}")[:length]) for j, length in enumerate(lengths))
    return CandidateSet(Prompt(({"role": "user", "content": f"question {i}?"},)), candidates)


def by_length(given: CandidateSet) -> tuple[str, ...]:
    return tuple(c.id for c in sorted(given.candidates, key=lambda c: len(c.text), reverse=True))


@contextmanager
def asking(
    ledger: Path,
    server: Loopback | str,
    *,
    retry: RetryPolicy = QUICK,
    template: str | RankTemplate = "rank",
    **config: Any,
) -> Iterator[BlackBoxRanker]:
    url = server if isinstance(server, str) else server.url
    words = load_template(template) if isinstance(template, str) else template
    box = BlackBoxConfig(**{"model": "judge", "base_url": url} | config)
    with Ledger(ledger) as opened:
        yield BlackBoxRanker(box, words, opened, retry=retry)


def rows(ledger: Path, query: str) -> list[Any]:
    """What a query finds in a ledger."""
    db = sqlite3.connect(ledger)
    try:
        return db.execute(query).fetchall()
    finally:
        db.close()


def verdicts(ledger: Path, server: Loopback | str, sets: Sequence[CandidateSet], **config: Any) -> Verdicts:
    with asking(ledger, server, **config) as ranker:
        return {v.prompt_id: v for v in ranker.rank(sets, CONTEXT)}
