"""The lists of a run over lists that exist: taken into its directory once, and read from there list by list."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import ExitStack

from cyclealign.config.schema import ListsConfig
from cyclealign.cycle.agreeing import training_example
from cyclealign.cycle.ranked_lists import RankedList, ranked_lists
from cyclealign.files.atomic import flush_tree
from cyclealign.files.jsonl import Appender, Lines
from cyclealign.files.lazy import Lazy
from cyclealign.files.records import decode, write_record
from cyclealign.files.run_dir import InteractionDir, RunDir
from cyclealign.files.run_records import SetRecord, VerdictRecord, set_record, verdict_record
from cyclealign.files.run_state import ListsTaken
from cyclealign.losses import RankingLoss, feeds, unfed
from cyclealign.rankers.utilities import given_by
from cyclealign.types import CandidateSet, Gives, Prompt, Ranking, RankingExample, UserError, derive_seed

FINENESS: tuple[Gives, ...] = ("order", "magnitude", "votes")


def take_lists(
    run: RunDir, config: ListsConfig, loss: RankingLoss, *, seed: int, check_prompt: Callable[[Prompt, str], None]
) -> ListsTaken:
    """All lists into the run's first interaction, or among those that only measure: a prompt's lists stay together.

    They are written aside and renamed; ``lists.json``, written last, marks them done.

    Raises:
        UserError: as ``ranked_lists``; a list that says less than the loss needs, or a prompt that cannot be rendered.
    """
    aside = run.path / ".lists"
    shutil.rmtree(aside, ignore_errors=True)
    parts = (InteractionDir(aside / "train"), InteractionDir(aside / "held_out"))
    counts, gives = [0, 0], FINENESS[-1]
    with ExitStack() as stack:
        files = [
            (stack.enter_context(Appender(p.candidates)), stack.enter_context(Appender(p.black_box))) for p in parts
        ]
        for one in ranked_lists(config):
            check_prompt(one.item.prompt, one.place)
            gives = min(gives, given(one, loss), key=FINENESS.index)
            held = int(_draw(seed, one.item.prompt.id) < config.held_out)
            counts[held] += 1
            for file, record in zip(files[held], (set_record(one.item), verdict_record(one.ranking)), strict=True):
                file.add(record)
    if not counts[0]:
        read = "holds no list that prefers one reply to another" if not counts[1] else "has all its lists held out"
        raise UserError(f"lists: {config.source} {read}; nothing is left to train on")
    for part, place in zip(parts, (run.interaction(0), run.held_out), strict=True):
        flush_tree(part.path)
        shutil.rmtree(place.path, ignore_errors=True)
        place.path.parent.mkdir(exist_ok=True)
        part.path.rename(place.path)
    aside.rmdir()
    taken = ListsTaken(source=config.source, gives=gives, trained=counts[0], held_out=counts[1])
    write_record(run.lists_file, taken)
    return taken


def _draw(seed: int, prompt_id: str) -> float:
    """A number in [0, 1) of a prompt's own, whatever stands around it."""
    return derive_seed(seed, "held_out", prompt_id) / 2**63


def given(one: RankedList, loss: RankingLoss) -> Gives:
    """What a list says. UserError where that is less than the loss needs."""
    found = given_by(one.ranking)
    if not feeds(found, loss.needs):
        raise UserError(unfed(loss, found, one.place))
    return found


class StoredLists(Lazy[tuple[CandidateSet, Ranking]]):
    """The lists of an interaction's records, each read when it is asked for."""

    def __init__(self, files: InteractionDir) -> None:
        self._sets, self._verdicts = Lines(files.candidates), Lines(files.black_box)
        if len(self._sets) != len(self._verdicts):
            raise UserError(
                f"{files.black_box}: expected {len(self._sets)} lines, as {files.candidates.name} beside it has, got"
                f" {len(self._verdicts)}; put both back from a copy"
            )

    def __len__(self) -> int:
        return len(self._sets)

    def at(self, index: int) -> tuple[CandidateSet, Ranking]:
        verdict = decode(VerdictRecord, self._verdicts[index]).verdict
        assert isinstance(verdict, Ranking)  # nothing else is taken
        return decode(SetRecord, self._sets[index]).set, verdict


class StoredExamples(Lazy[RankingExample]):
    """The same as what a policy is trained on; ``votes``: with win rates for utilities."""

    def __init__(self, lists: StoredLists, *, votes: bool) -> None:
        self._lists, self._votes = lists, votes

    def __len__(self) -> int:
        return len(self._lists)

    def at(self, index: int) -> RankingExample:
        return training_example(*self._lists[index], votes=self._votes)
