"""Lists that somebody ranked, from whatever holds them: one by one, as they are read.

- A directory of a run: its interactions' candidates with the verdicts that were paid for.
- Candidate sets as ``cyclealign rank`` takes them, beside the verdicts that it wrote (``lists.verdicts``).
- A file that ``cyclealign score`` wrote or reads: texts with scores.
- Anything else: rows with labels, as ``cyclealign.files.labels`` reads them.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from cyclealign.config.schema import ListsConfig
from cyclealign.files.labelled import LabelledItem, labelled_items
from cyclealign.files.labels import has_labels
from cyclealign.files.prompts import candidate_sets
from cyclealign.files.rows import rows
from cyclealign.files.run_dir import RunDir
from cyclealign.files.run_records import ranked_sets
from cyclealign.rankers.replay import ReplayRanker
from cyclealign.scores.formats import READERS, detect, read_as
from cyclealign.scores.score_list import ScoreList
from cyclealign.scores.sidecar import recorded_gives
from cyclealign.types import Candidate, CandidateSet, Prompt, Ranking, UserError

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RankedList:
    """Candidates of a prompt and their ranking; ``place``: where it stands, for errors."""

    item: CandidateSet
    ranking: Ranking
    place: str


def ranked_lists(config: ListsConfig) -> Iterator[RankedList]:
    """The lists of ``config.source`` that prefer anything, at most ``config.limit``.

    What is left out is counted aloud: lists of one reply, without a verdict, or all of whose replies are tied.

    Raises:
        UserError: nothing there, or rows that are none; names file and line.
    """
    left = Counter[str]()
    yield from islice(_preferring(_found(config, left), left), config.limit)
    for why, count in left.items():
        log.warning("%s: left out %d lists %s", config.source, count, why)


def _found(config: ListsConfig, left: Counter[str]) -> Iterator[RankedList]:
    path = Path(config.source).expanduser()
    if config.verdicts is not None:
        return _with_verdicts(path, config.verdicts, left)
    if (path / "config.yaml").is_file():
        return _of_run(RunDir(path))
    if _is_score_file(path):
        return _scored(path)
    return map(_labelled, labelled_items(config.source, split=config.split))


def _preferring(found: Iterator[RankedList], left: Counter[str]) -> Iterator[RankedList]:
    for one in found:
        if len(one.ranking.order) < 2:
            left["of fewer than two replies"] += 1
        elif len(one.ranking.tiers) < 2:
            left["whose replies are all tied"] += 1
        else:
            yield one


def _labelled(found: LabelledItem) -> RankedList:
    ranking = found.gold
    if found.gives == "order":
        ranking = Ranking(prompt_id=ranking.prompt_id, tiers=ranking.tiers)
    return RankedList(found.set, ranking, found.place)


def _with_verdicts(path: Path, verdicts: Path, left: Counter[str]) -> Iterator[RankedList]:
    """Joined by prompt and candidates, as ``replay`` does; all verdicts are held, the sets are not."""
    ranker = ReplayRanker(verdicts)
    for place, item in candidate_sets(path):
        verdict = ranker.verdict(item)
        if isinstance(verdict, Ranking):
            yield RankedList(item, verdict, place)
        else:
            left[f"without a verdict in {verdicts} ({verdict.reason})"] += 1


def _of_run(run: RunDir) -> Iterator[RankedList]:
    """A prompt has a list of its own in every interaction."""
    begun = [i for i in run.interactions() if i.black_box.exists()]
    if not begun:
        raise UserError(f"{run.path}: the run holds no verdicts yet")
    for interaction in begun:
        files = (interaction.candidates, interaction.black_box)
        for item, ranking in ranked_sets(*files, aligned=run.lists() is not None):
            yield RankedList(item, ranking, f"{interaction.black_box} ({ranking.prompt_id})")


def _is_score_file(path: Path) -> bool:
    """Whether a file has scores in a form of ``scores.formats`` and no labels in a form of ``files.labels``."""
    if recorded_gives(path) is not None or ".tsv" in path.suffixes or (path.is_dir() and any(path.glob("train*"))):
        return True
    if not path.is_file():
        return False
    _, row = next(rows(str(path)), ("", {}))
    return isinstance(row.get("query"), dict) or ("query" in row and not has_labels(row))


def _scored(path: Path) -> Iterator[RankedList]:
    form = detect(path, ids=False)
    gives = recorded_gives(path) or read_as(path, form)
    for found in READERS[form](path):
        item = CandidateSet(_prompt(found), _candidates(found))
        if found.scores is None:
            raise UserError(f"{found.place}: has no scores; ask a teacher for them (cyclealign score), then train")
        ranking = Ranking.from_scores(item.prompt.id, dict(zip(item.ids, found.scores, strict=True)))
        if gives != "magnitude":
            ranking = Ranking(prompt_id=ranking.prompt_id, tiers=ranking.tiers)
        yield RankedList(item, ranking, found.place)


def _prompt(found: ScoreList) -> Prompt:
    if found.chat is not None:
        return Prompt(found.chat)
    return Prompt(({"role": "user", "content": _text(found, found.query.text)},))


def _candidates(found: ScoreList) -> tuple[Candidate, ...]:
    return tuple(Candidate(str(n), _text(found, document.text)) for n, document in enumerate(found.documents))


def _text(found: ScoreList, text: str | None) -> str:
    if text is None:
        raise UserError(f"{found.place}: names ids alone; write the scores with texts (ntuples, bge, margin_mse_text)")
    return text
