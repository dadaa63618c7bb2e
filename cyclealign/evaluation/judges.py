"""``cyclealign judge``: several judges on the same labelled lists, each list in an order and in its exact reverse."""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from statistics import fmean

from cyclealign.config.black_box import BlackBoxConfig
from cyclealign.config.loading import black_box_of
from cyclealign.config.ranker_kinds import KINDS
from cyclealign.evaluation.judging import Judge, Judged, judged
from cyclealign.evaluation.ranker import accuracies, item_of, ranker_metrics, unasked, value_of
from cyclealign.evaluation.result import Difference, Item, Result, make_result
from cyclealign.evaluation.statistics import Estimate, Figure, paired_difference
from cyclealign.files.labelled import LabelledItem, by_subset
from cyclealign.judge.call import Answered
from cyclealign.judge.ledger import Ledger
from cyclealign.rankers.by_name import ledger_of_judge
from cyclealign.types import BudgetExhausted, RunStopped, UserError, derive_seed

PASSES = 2  # an order and its exact reverse (judge.prompting.presentations)
LISTS = 1000  # what seconds, tokens and money are told for
HARD = "hard"  # the last word of a subset whose lists are made to be hard
_OPTION = re.compile(r"[A-Za-z_][\w.]*\s*=")
Stopped = UserError | RunStopped | BudgetExhausted


@dataclass(frozen=True, kw_only=True)
class NamedJudge:
    """A judge under the name of its row."""

    name: str
    judge: Judge

    def ledger(self, out: Path) -> Path:
        """Beside the result, named by what is asked. UserError where it cannot be written."""
        return ledger_of_judge(out, self.judge.ranker().box)


@dataclass(frozen=True, kw_only=True)
class Row:
    """What came of one judge: its verdicts, in the order of the lists, and its figures."""

    judge: NamedJudge
    found: Judged
    figures: Mapping[str, Figure]


@dataclass(frozen=True, kw_only=True)
class Failed:
    """A judge that could not be asked, or not to the end."""

    name: str
    error: Stopped

    @property
    def line(self) -> str:
        return f"judge {self.name}: {self.error}"


def named_judges(words: Sequence[str], *, seed: int) -> list[NamedJudge]:
    """The judges of a command line: models, kinds of ranker (``KIND:PLACE``) and YAML files; ``key=value`` for all.

    Raises:
        UserError: no judge, two of one name, a word or file that stands for none.
    """
    options = [w for w in words if _OPTION.match(w)]
    names = [w for w in words if not _OPTION.match(w)]
    if not names:
        raise UserError("judge: expected a model, a kind of ranker (local, reward_model:PATH, …) or a YAML file")
    if any(o.partition("=")[0].strip() == "passes" for o in options):
        raise UserError("judge: passes: every list is shown twice, in an order and in its reverse; leave it out")
    found = [_named(w, options, seed) for w in names]
    twice = sorted({j.name for j in found if [k.name for k in found].count(j.name) > 1})
    if twice:
        raise UserError(f"judge: two judges are named {twice[0]}; give each a YAML file of its own name")
    for each in found:
        _check_one(each.judge.ranker().box)  # a mistake in it is found before anybody is paid
    return found


def _check_one(box: BlackBoxConfig) -> None:
    """UserError for several judges: what their two orders say of each other would be taken for one judge's."""
    if box.judges:
        raise UserError("black_box.judges: several judges; name each by itself (eval ranker measures them together)")


def _named(word: str, options: Sequence[str], seed: int) -> NamedJudge:
    name, spec, more = word, word, tuple(options)
    if word.endswith((".yaml", ".yml")):
        name = Path(word).stem
        box = black_box_of(Path(word), options)
        spec, more = _as_words(box)
        _check_code(word, box)
    elif word.partition(":")[0] not in KINDS:
        spec = f"openai:{word}"
    return NamedJudge(name=name, judge=Judge(spec=spec, options=(*more, f"passes={PASSES}"), seed=seed))


def _check_code(file: str, box: BlackBoxConfig) -> None:
    """UserError where a file, which may be a run's config from elsewhere, names Python that this user never ran."""
    from cyclealign.rankers.own_code import read_code
    from cyclealign.rankers.trusted_code import is_trusted

    if box.judge == "python" and not is_trusted(read_code(str(box.path), f"{file}: black_box.path")):
        raise UserError(
            f"{file}: names Python that you have not run before; if you trust it, name it: judge python:{box.path}"
        )


def _as_words(box: BlackBoxConfig) -> tuple[str, tuple[str, ...]]:
    """The section as ``--ranker`` and its options say it; of a cascade that learns, its judge."""
    _check_one(box)
    kind = KINDS[box.judge]
    place = {"MODEL": box.model, "": None}.get(kind.place, box.path)
    given = box.model_dump(
        mode="json", exclude_unset=True, exclude={"backend", "model", "path", "cascade", "passes", "answers"}
    )
    spec = kind.name if place is None else f"{kind.name}:{place}"
    return spec, tuple(f"{key}={json.dumps(value)}" for key, value in given.items())


def drawn(items: Sequence[LabelledItem], limit: int | None, *, seed: int) -> list[LabelledItem]:
    """At most ``limit`` items, as evenly over the subsets as they allow, in their order; more of them hold fewer."""
    if limit is None or limit >= len(items):
        return list(items)
    queues = [list(group) for _, group in by_subset(list(items))] or [list(items)]
    for number, queue in enumerate(queues):
        random.Random(derive_seed(seed, "judge", number)).shuffle(queue)  # noqa: S311  seeded, to be repeated
    turns = [(turn, number) for number, queue in enumerate(queues) for turn in range(len(queue))]
    kept = {id(queues[number][turn]) for turn, number in sorted(turns)[:limit]}
    return [item for item in items if id(item) in kept]


def measure_judges(
    judges: Sequence[NamedJudge], items: Sequence[LabelledItem], out: Path
) -> tuple[list[Row], list[Failed]]:
    """Ask one judge after another about all lists; those that fail are told beside the others' rows.

    Whatever was answered is on the ledgers beside ``out`` and is paid for once.
    """
    rows: list[Row] = []
    failed: list[Failed] = []
    for each in judges:
        try:
            ledger = each.ledger(out)
            found = judged([i.set for i in items], each.judge, ledger)
            rows.append(Row(judge=each, found=found, figures=judge_figures(each, items, found, ledger)))
        except (UserError, RunStopped, BudgetExhausted) as error:
            failed.append(Failed(name=each.name, error=error))
    return rows, failed


def judge_figures(each: NamedJudge, items: Sequence[LabelledItem], found: Judged, ledger: Path) -> dict[str, Figure]:
    """One row: the figures of ``eval ranker``, ``accuracy_hard``, ``consistency`` and what 1,000 lists cost.

    ``consistency``: mean Kendall tau of the answers to an order and to its exact reverse, 1 for a judge that reads and
    -1 for one that answers by slot; None for rankers that see no order.
    """
    seed = each.judge.seed
    pairs = list(zip(items, found.rankings, strict=True))
    figures = ranker_metrics(items, found, seed=seed)
    position = figures["position_bias"]
    figures["accuracy_hard"] = accuracies([(i, r) for i, r in pairs if is_hard(i)], seed)["accuracy"]
    figures["consistency"] = position["tau_between_orders"] if isinstance(position, Mapping) else None
    figures["by_subset"] = {
        name: accuracies([(i, r) for i, r in pairs if i.subset == name], seed)["accuracy"]
        for name, _ in by_subset(list(items))
    }
    figures["per_1000_lists"] = (
        paid_figures(each, items, ledger) if each.judge.paid else {"seconds": LISTS * found.seconds / len(items)}
    )
    return figures


def is_hard(item: LabelledItem) -> bool:
    return re.split(r"[^a-z]+", item.subset.lower().rstrip())[-1] == HARD


def by_chance(items: Sequence[LabelledItem]) -> float | None:
    """The accuracy of a judge that draws an order; None where no label prefers anything."""
    shares = [list(i.grades.values()).count(max(i.grades.values())) / len(i.grades) for i in items if i.decided]
    return fmean(shares) if shares else None


def paid_figures(each: NamedJudge, items: Sequence[LabelledItem], ledger: Path) -> dict[str, Figure]:
    """Seconds, tokens and money of 1,000 such lists, and the forms of the answers, from all that the ledger has.

    Seconds are those in which a call was under way, so that a start that finds its answers recorded changes nothing.
    ``thinking_tokens`` are part of the output; None where the server does not count them.
    """
    with Ledger(ledger, read_only=True) as book:
        calls = book.answered("eval")
        spend = book.spend_by("purpose").get("eval")
    if spend is None or not calls:
        return {}
    of_prompt = len({i.set.id for i in items}) / len({i.set.prompt.id for i in items})
    lists = of_prompt * len({(c.prompt_id, c.pass_number) for c in calls}) / PASSES
    per = LISTS / lists
    thinking = [c.thinking for c in calls if c.thinking is not None]
    return {
        "seconds": per * busy_seconds(calls),
        "calls": per * spend.done,
        "input_tokens": per * spend.input_tokens,
        "output_tokens": per * spend.output_tokens,
        "thinking_tokens": per * len(calls) * fmean(thinking) if thinking else None,
        "usd": per * spend.usd if each.judge.ranker().box.price is not None else None,
        "form": " and ".join(sorted({c.form for c in calls})),
    }


def busy_seconds(calls: Sequence[Answered]) -> float:
    """Length of the time in which at least one call was under way."""
    total, until = 0.0, -math.inf
    for call in sorted(calls, key=lambda c: c.started_at):
        end = call.started_at + call.latency_s
        total += max(0.0, end - max(until, call.started_at))
        until = max(until, end)
    return total


def judges_result(
    rows: Sequence[Row], failed: Sequence[Failed], items: Sequence[LabelledItem], *, data: str, seed: int
) -> Result:
    """The result of ``eval ranker`` with an arm for each judge, and the paired differences of all pairs of them."""
    values = {row.judge.name: [value_of(i, v) for i, v in zip(items, row.found.verdicts, strict=True)] for row in rows}
    return make_result(
        "ranker",
        about={
            "data": data,
            "judges": {row.judge.name: row.judge.judge.spec for row in rows},
            "options": {row.judge.name: list(row.judge.judge.settings) for row in rows},
        },
        seed=seed,
        metrics={
            "items": len(items),
            "hard": sum(map(is_hard, items)),
            "judges": len(rows),
            "accuracy_of_chance": by_chance(items),
        },
        subsets={row.judge.name: row.figures for row in rows},
        differences={
            f"{second} - {first}": Difference(difference=_difference(values[first], values[second]))
            for first, second in combinations(values, 2)
        },
        arms=list(values),
        items=[_item(n, i, rows, values) for n, i in enumerate(items)],
        primary="accuracy",
        warnings=[f.line for f in failed],
    )


def _difference(first: Sequence[float | None], second: Sequence[float | None]) -> Estimate | None:
    both = [(a, b) for a, b in zip(first, second, strict=True) if a is not None and b is not None]
    return paired_difference([a for a, _ in both], [b for _, b in both])


def _item(n: int, item: LabelledItem, rows: Sequence[Row], values: Mapping[str, Sequence[float | None]]) -> Item:
    """A list with its value for each judge, their mean as its own; and the verdict, where there is one judge."""
    own = {name: each[n] for name, each in values.items()}
    if len(rows) == 1:
        made = item_of(item, rows[0].found.verdicts[n], rows[0].found.shown[n])
    else:
        known = [v for v in own.values() if v is not None]
        made = replace(unasked(item), value=fmean(known) if known else None)
    return replace(made, values=own)
