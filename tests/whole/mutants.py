"""Mutation testing: small changes of the package, drawn by seed and evenly over its modules, each against the tests of
its room; and those that were named because tests once let them live.

    python tests/whole/mutants.py --out evals/results/mutants.json
    python tests/whole/mutants.py --named rrhf_at_equality kemeny_of_eight

A mutant is killed where a test fails, or finds no end. Each is tried by the tests that call the function it is in, as
``mutant_trials.watched`` saw them (every test of the room for what takes effect at import), those that call the least
first; tests of more than ``SLOW`` seconds only where nothing else calls the function. What lives is explained in
``mutants_explained.toml``, or is a hole. Finished mutants are lines of ``runs/mutants/finished.jsonl``: started again,
those are not tried again whose file is the same; what lived is, once a test of its room has changed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tomllib
from collections.abc import Sequence
from dataclasses import asdict
from functools import cache
from itertools import chain, zip_longest
from pathlib import Path

from mutant_plugins import ROOT, Seen
from mutant_rooms import ROOMS, Room, digest
from mutant_trials import Outcome, forked, prepare, tried, watched
from mutations import Mutation, mutations
from named_mutants import NAMED, NamedMutant

SLOW = 10.0  # seconds of a test that is tried last, where nothing quicker calls the function
ENOUGH = 45.0  # seconds of unchanged tests that one mutant is tried by
LIMIT = 300.0  # seconds that one mutant may take
EXPLAINED = Path(__file__).with_name("mutants_explained.toml")


Drawn = tuple[Room, Mutation]
Known = dict[str, Outcome]  # by key
Explained = dict[tuple[str, str, str], str]  # by file, line and change


def drawn(count: int, seed: int) -> list[tuple[Room, Mutation]]:
    """``count`` mutants, one of each module in turn until there are so many, in an order drawn by the seed.

    Each file has a draw of its own: a change of one leaves the mutants of all others, and what came of them.
    """
    queues: list[list[tuple[Room, Mutation]]] = []
    for room in ROOMS:
        for file in room.files():
            found = mutations(ROOT, file)
            queues.append([(room, m) for m in random.Random(f"{seed} {file}").sample(found, len(found))])
    even = [one for one in chain.from_iterable(zip_longest(*queues)) if one is not None]
    return random.Random(seed).sample(even[:count], min(count, len(even)))


@cache
def unchanged(room: Room, folder: Path) -> dict[str, Seen]:
    """The room's tests that pass as they are, with what each calls. Kept by test file, for the next start."""
    kept = folder / "tests"
    kept.mkdir(exist_ok=True)
    of = {file: kept / f"{Path(file).stem}-{digest((file, *room.files()))}.json" for file in room.test_files()}
    new = [file for file, path in of.items() if not path.exists()]
    if new:
        print(f"looking at {', '.join(new)}", flush=True)
        found = watched(new, folder)
        for file in new:
            own = {test: asdict(seen) for test, seen in found.items() if test.startswith(f"{file}::")}
            of[file].write_text(json.dumps(own))
    seen = {test: Seen(**value) for path in of.values() for test, value in json.loads(path.read_text()).items()}
    return {test: one for test, one in seen.items() if one.passed}


def chosen(mutation: Mutation, tests: dict[str, Seen]) -> list[str]:
    """The tests to try it by: those of the file named after it first, those that call the least first."""

    def calls(seen: Seen) -> bool:
        first, last = mutation.function or (0, sys.maxsize)
        return any(file == mutation.file and first <= line <= last for file, line in seen.called)

    able = [t for t, seen in tests.items() if calls(seen) or (mutation.function is None and not seen.processes)]
    quick = [t for t in able if tests[t].seconds <= SLOW] or able
    mirrored = f"test_{Path(mutation.file).stem}.py::"
    quick.sort(key=lambda t: (mirrored not in t, len(tests[t].called)))
    taken, seconds = [], 0.0
    for test in quick:
        seconds += tests[test].seconds
        if taken and seconds > ENOUGH:
            break
        taken.append(test)
    return taken


def finished(file: Path) -> Known:
    """By key; the last line of each counts, and one that was cut does not."""
    found: Known = {}
    for line in file.read_text().splitlines() if file.exists() else ():
        try:
            record = json.loads(line)
            key = record.pop("key")
            found[key] = Outcome(**record)
        except (ValueError, TypeError, KeyError):
            continue
    return found


def try_all(
    mutants: Sequence[tuple[Room, Mutation]], folder: Path, workers: int
) -> list[tuple[Room, Mutation, Outcome]]:
    """Each mutant with what came of it; ``workers`` processes share them out."""
    known, why = finished(folder / "finished.jsonl"), explained()
    for room in {room for room, mutation in mutants if outcome_of(room, mutation, known, why) is None}:
        unchanged(room, folder)  # before the workers, which would each look
    shares = [forked(lambda mine=mutants[place::workers]: try_each(mine, folder)) for place in range(workers)]
    ended = [os.waitpid(worker, 0)[1] for worker in shares]
    if any(ended):
        sys.exit("a worker ended early: see above, and start again")
    known = finished(folder / "finished.jsonl")
    found = [(room, mutation, outcome_of(room, mutation, known, why)) for room, mutation in mutants]
    return [(room, mutation, outcome) for room, mutation, outcome in found if outcome is not None]


def try_each(mutants: Sequence[Drawn], folder: Path) -> int:
    state = folder / "finished.jsonl"
    known, why = finished(state), explained()
    for place, (room, mutation) in enumerate(mutants):
        if outcome_of(room, mutation, known, why):
            continue
        source = (ROOT / mutation.file).read_bytes()
        tests = chosen(mutation, unchanged(room, folder))
        untried = Outcome(killed=False, by="", tests=0, seconds=0.0)
        outcome = tried(mutation.file, mutation.applied(source), tests, LIMIT) if tests else untried
        with state.open("a") as file:
            file.write(json.dumps({"key": key_of(room, mutation, outcome.killed)} | asdict(outcome)) + "\n")
        if not outcome.killed or place % 50 == 0:
            print(f"{place} {mutation.shown(source)}: {'killed' if outcome.killed else 'LIVES'}", flush=True)
    return 0


def key_of(room: Room, mutation: Mutation, killed: bool) -> str:
    """Under which a mutant stands once it is killed; and while it lives, until a test of its room changes."""
    key = mutation.key((ROOT / mutation.file).read_bytes())
    return key if killed else f"{key}-{digest(tuple(room.test_files()))}"


def outcome_of(room: Room, mutation: Mutation, known: Known, why: Explained) -> Outcome | None:
    """What came of it before, if that still counts. What is explained lives whichever tests there are."""
    killed, lives = (key_of(room, mutation, killed) for killed in (True, False))
    found = known.get(killed) or known.get(lives)
    if found is None and reason(mutation, why):
        found = next((outcome for key, outcome in known.items() if key.startswith(f"{killed}-")), None)
    return found


def reason(mutation: Mutation, why: Explained) -> str | None:
    line = mutation.text((ROOT / mutation.file).read_bytes())
    return why.get((mutation.file, line, mutation.change))


def explained() -> Explained:
    """Why what lives is no hole, by file, line and change as they are shown."""
    found = tomllib.loads(EXPLAINED.read_text()).get("mutant", ()) if EXPLAINED.exists() else ()
    return {(m["file"], m["line"], m["change"]): m["why"] for m in found}


def report(found: Sequence[tuple[Room, Mutation, Outcome]], named: dict[str, Outcome], seed: int, out: Path) -> int:
    """Write the result; how many live without an explanation."""
    sys.path.insert(0, str(ROOT))  # only now: no child is forked any more
    from cyclealign.evaluation.result import Item, make_result, write_result
    from cyclealign.evaluation.statistics import share

    why = explained()
    items, holes = [], []
    for room, mutation, outcome in found:
        source = (ROOT / mutation.file).read_bytes()
        because = None if outcome.killed else reason(mutation, why)
        if not outcome.killed and because is None:
            holes.append(mutation.shown(source))
        items.append(
            Item(
                key=mutation.key(source),
                value=float(outcome.killed),
                id=f"{mutation.file}:{mutation.line}",
                subset=room.name,
                prompt=mutation.text(source),
                responses={"change": mutation.change},
                detail=outcome.by or because,
            )
        )
    killed = [item for item in items if item.value]
    modules = sorted({mutation.file for _, mutation, _ in found})
    of = {m: [i.value or 0.0 for i in items if (i.id or "").startswith(f"{m}:")] for m in modules}
    result = make_result(
        "mutants",
        about={"mutants": len(items), "modules": len(modules)},
        seed=seed,
        primary="killed",
        metrics={
            "killed": share(len(killed), len(items)),
            "explained": len(items) - len(killed) - len(holes),
            "unexplained": len(holes),
            "cpu_seconds": round(sum(outcome.seconds for *_, outcome in found)),
            "named": {name: outcome.killed for name, outcome in named.items()},
        },
        subsets={m: {"killed": share(sum(values), len(values))} for m, values in of.items()},
        items=items,
    )
    write_result(out, result)
    print(*holes, f"{len(killed)} of {len(items)} killed, {len(holes)} live unexplained", sep="\n")
    return len(holes)


def try_named(mutants: Sequence[NamedMutant]) -> dict[str, Outcome]:
    found = {}
    for one in mutants:
        found[one.name] = tried(one.file, one.changed(ROOT), one.tests, LIMIT)
        print(f"{one.name}: {'killed by ' + found[one.name].by if found[one.name].killed else 'LIVES'}", flush=True)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=600)
    parser.add_argument("--first", type=int, help="only so many of them")
    parser.add_argument("--seed", type=int, default=12)
    parser.add_argument("--workers", type=int, default=1, help="processes that try mutants at a time")
    parser.add_argument("--state", type=Path, default=ROOT / "runs" / "mutants")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "mutants" / "mutants.json")
    parser.add_argument("--named", nargs="*", metavar="NAME", help="only mutants that have a name (none given: all)")
    asked = parser.parse_args()
    prepare()
    if asked.named is not None:
        named = try_named([one for one in NAMED if not asked.named or one.name in asked.named])
        return int(not named or not all(outcome.killed for outcome in named.values()))
    asked.state.mkdir(parents=True, exist_ok=True)
    found = try_all(drawn(asked.count, asked.seed)[: asked.first], asked.state, asked.workers)
    named = try_named(NAMED)
    holes = report(found, named, asked.seed, asked.out)
    return int(holes > 0 or not all(outcome.killed for outcome in named.values()))


if __name__ == "__main__":
    sys.exit(main())
