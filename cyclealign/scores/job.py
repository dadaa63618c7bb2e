"""``cyclealign score``: teachers score candidates once, into a store; their scores go out in any published format."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import TypeVar

from cyclealign.config.schema import DemonstrationsConfig
from cyclealign.files.outputs import check_apart, output
from cyclealign.files.records import write_record
from cyclealign.judge.demonstrations import DemonstrationPool
from cyclealign.judge.ledger import Ledger
from cyclealign.rankers.by_name import RankerSpec, ledger_beside, open_ranker, open_scorer
from cyclealign.rankers.joining import joined
from cyclealign.rankers.scored import Pair
from cyclealign.rankers.utilities import teacher_utilities
from cyclealign.scores.formats import READERS, write
from cyclealign.scores.jsonl_formats import read_texts
from cyclealign.scores.mix import mixed
from cyclealign.scores.plan import ScoreJob, checked_teachers, input_format, target_of
from cyclealign.scores.sidecar import Gives, Sidecar, beside, recorded
from cyclealign.scores.store import ScoreStore, Teacher
from cyclealign.scores.teachers import TeacherSpec, described, fingerprint, provenance
from cyclealign.types import RankContext, Ranking, UserError

log = logging.getLogger(__name__)
Item = TypeVar("Item")
COMMIT = 256  # pairs scored between two commits: what a killed run loses at most


def run_score_job(job: ScoreJob) -> list[str]:
    """Score what is not scored yet, write what is asked for; returns lines that sum up.

    Raises:
        UserError: before anything is loaded or paid for, where the teachers cannot serve what is asked for.
    """
    format = input_format(job)
    specs = checked_teachers(job, format)
    target = target_of(job, specs)
    inputs = [path for path in (job.file, job.queries, job.documents) if path is not None]
    if target is not None:
        check_apart(target[1], [*inputs, job.store], "--write")
    check_apart(job.store, inputs, "--store")
    with closing(ScoreStore(job.store)) as store, output(job.store, inputs, "--store"):
        store.add_lists(READERS[format](job.file))
        if job.queries is not None:
            store.add_texts("query", read_texts(job.queries), str(job.queries))
        if job.documents is not None:
            store.add_texts("document", read_texts(job.documents), str(job.documents))
        lines, names = [], []
        for spec in specs:
            name, line = _score(store, spec, job, format)
            names.append(name)
            lines.append(line)
        if target is not None:
            listwise = [spec.name for spec in specs if spec.listwise]
            lines.append(_write(store, names, _without_verdict(store, listwise), job, format, target))
    return lines


def _score(store: ScoreStore, spec: TeacherSpec, job: ScoreJob, format: str) -> tuple[str, str]:
    """One teacher on all that it has not scored: its name in the store, and a line that sums up."""
    if spec.ranker is None:
        return _take_over(store, spec, job, format)
    before = store.count(spec.name)
    started = time.monotonic()
    unranked = Counter[str]()
    if spec.listwise:
        unranked = _rank(store, spec.ranker, spec.gives, job)
    else:
        _score_pairs(store, spec.ranker, spec.gives)
    new = store.count(spec.name) - before
    speed = f" ({new / max(time.monotonic() - started, 1e-9):.1f}/s)" if new else ""
    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(unranked.items()))
    left = f", {unranked.total()} queries without a verdict ({reasons})" if unranked else ""
    return spec.name, f"{spec.name} ({described(spec.gives)}): {new} pairs scored{speed}, {before} were there{left}"


def _take_over(store: ScoreStore, spec: TeacherSpec, job: ScoreJob, format: str) -> tuple[str, str]:
    """The scores that stand in the file. Of several for one pair the first is kept."""
    digest = fingerprint(job.file)
    earlier = recorded(job.file)
    made_by = {} if earlier is None else {"teachers": earlier.teachers, "gives": earlier.gives}
    found = {"kind": "file", "format": format, "sha256": digest, **made_by}
    name = f"file:{digest[:12]}"
    store.add_teacher(Teacher(name=name, gives=spec.gives, provenance=found))
    kept = differing = 0
    worst = 0.0
    sign = -1 if spec.gives == "levels" else 1  # level 0 is the best
    for lists in _chunks(READERS[format](job.file), COMMIT):
        fresh: dict[tuple[str, str], float] = {}
        for item in lists:
            if item.scores is None:
                raise UserError(f"{item.place}: --teacher file: there are no scores")
            for document, score in zip(item.documents, item.scores, strict=True):
                key = (item.query.id, document.id)
                known = fresh.get(key, store.score(name, *key))
                if known is None:
                    fresh[key] = sign * score
                elif known != sign * score:
                    differing, worst = differing + 1, max(worst, abs(known - sign * score))
        store.put(name, ((q, d, s) for (q, d), s in fresh.items()))
        kept += len(fresh)
    more = f"; {differing} repeats differed, by {worst:.3g} at most: the first is kept" if differing else ""
    return name, f"{name} ({described(spec.gives)}): {kept} scores taken over{more}"


def _score_pairs(store: ScoreStore, spec: RankerSpec, gives: Gives) -> None:
    waiting = store.unscored(spec.name)
    total = sum(len(documents) for _, documents in waiting)
    if not total:
        return
    keys = [(query, document) for query, documents in waiting for document in documents]
    scorer = open_scorer(spec)
    settings = getattr(scorer, "settings", {})
    store.add_teacher(Teacher(name=spec.name, gives=gives, provenance=provenance(spec, settings)))
    started = time.monotonic()
    done = 0
    for chunk in _chunks(keys, COMMIT):
        scores = scorer.score([_pair(store, *key) for key in chunk])
        store.put(spec.name, ((q, d, s) for (q, d), s in zip(chunk, scores, strict=True)))
        done += len(chunk)
        left = (time.monotonic() - started) / done * (total - done)
        log.info("%s: %d of %d pairs, %.0f s left", spec.name, done, total, left)


def _rank(store: ScoreStore, spec: RankerSpec, gives: Gives, job: ScoreJob) -> Counter[str]:
    """Whole lists, one commit each; returns how many got no verdict, by the reason."""
    store.add_teacher(Teacher(name=spec.name, gives=gives, provenance=provenance(spec, {"seed": job.seed})))
    waiting = dict(store.unscored(spec.name))
    for query in waiting:
        if store.ranked(spec.name, query):
            raise UserError(
                f"{spec.name} ranks whole lists, and query {query!r} has been ranked with fewer documents;"
                " use another store"
            )
    unranked = Counter[str]()
    if not waiting:
        return unranked
    with ExitStack() as stack:
        ranker = open_ranker(spec, lambda: stack.enter_context(Ledger(ledger_beside(job.store))))
        pool = DemonstrationPool.start(DemonstrationsConfig())
        context = RankContext(run="score", interaction=0, seed=job.seed, demonstrations=pool)
        queries, sets = list(waiting), [store.candidates(query, found) for query, found in waiting.items()]
        for place, verdict in joined(ranker, sets, context):
            query = queries[place]
            if isinstance(verdict, Ranking):
                documents = dict(zip(sets[place].ids, waiting[query], strict=True))
                utilities = teacher_utilities(verdict)
                store.put(spec.name, ((query, documents[c], s) for c, s in utilities.items()))
            else:
                unranked[verdict.reason] += 1
                log.warning("%s: query %s: %s %s", spec.name, query, verdict.reason, verdict.detail)
    return unranked


def _pair(store: ScoreStore, query: str, document: str) -> Pair:
    return store.chat(query), store.text("document", document)


def _without_verdict(store: ScoreStore, listwise: Sequence[str]) -> frozenset[str]:
    """Queries that one of these teachers has not ranked: a mean over the others would be on another scale.

    Raises:
        UserError: no query is left.
    """
    missing = frozenset(query for name in listwise for query, _ in store.unscored(name))
    if missing and len(missing) == store.queries():
        raise UserError(f"--write: nothing to write: no query has a verdict of {' and '.join(listwise)}")
    return missing


def _write(
    store: ScoreStore,
    names: Sequence[str],
    left_out: frozenset[str],
    job: ScoreJob,
    format: str,
    target: tuple[str, Path],
) -> str:
    """The scores, calibrated and averaged, in the lists of the input file; beside them what they are.

    left_out: queries whose lists are not written.
    """
    teachers = store.teachers()
    calibrations = {name: store.calibration(name, job.calibrate) for name in names}
    lists = (item for item in READERS[format](job.file) if item.query.id not in left_out)
    write(target[0], target[1], mixed(store, calibrations, lists))
    entries = [{**asdict(teachers[name]), "calibration": asdict(calibrations[name])} for name in names]
    gives = teachers[names[0]].gives
    write_record(beside(target[1]), Sidecar(gives=gives, teachers=tuple(entries), queries_left_out=len(left_out)))
    what = f"the mean of {len(names)} teachers" if len(names) > 1 else names[0]
    without = f"; left out, without a verdict: {len(left_out)} of {store.queries()} queries" if left_out else ""
    return f"{target[1]}: {what}, {job.calibrate}, as {target[0]}{without}"


def _chunks(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    waiting = iter(items)
    while chunk := list(islice(waiting, size)):
        yield chunk
