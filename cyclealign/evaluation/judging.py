"""Asking a ranker about sets, for all evals that judge: built as for ``cyclealign rank``, paid calls on a ledger.

The ledger lies beside the result file, so that an eval that was killed pays for no verdict twice.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cyclealign.config.black_box import BlackBoxConfig
from cyclealign.config.schema import DemonstrationsConfig
from cyclealign.files.run_records import Verdict
from cyclealign.judge.asked import asked_of
from cyclealign.judge.costs import (
    PROBES,
    WorstCase,
    answer_tokens,
    in_all,
    most_usd,
    output_bound,
    request_options,
    schema_tokens,
    usd,
    usual_answer,
)
from cyclealign.judge.demonstrations import DemonstrationPool
from cyclealign.judge.ledger import Ledger
from cyclealign.judge.prices import price_of
from cyclealign.judge.prompting import estimate_message_tokens, presentations, render
from cyclealign.judge.template import check_places, load_template
from cyclealign.rankers.by_name import RankerSpec, open_ranker, ranker_spec, settings_digest
from cyclealign.rankers.joining import joined
from cyclealign.rankers.presenting import Seeds
from cyclealign.types import CandidateSet, RankContext, Ranking, UserError

RUN = "eval"  # the name under which presentation orders are drawn
Orders = tuple[tuple[str, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Judge:
    """Who is asked: ``--ranker`` and its ``key=value`` options, and the seed of the presentation orders.

    A judge behind an API gets two presentation orders an item unless its options say ``passes=``: at two
    candidates those are both there are. Several judges get one each.
    """

    spec: str
    options: tuple[str, ...] = ()
    seed: int = 42

    @property
    def paid(self) -> bool:
        return self.spec.partition(":")[0] == "openai"

    def ranker(self, *more: str) -> RankerSpec:
        """Who that is, checked; ``more``: further options. UserError as ``ranker_spec``."""
        return ranker_spec(self.spec, (*self.settings, *more))

    @property
    def digest(self) -> str:
        """Names all that its verdicts depend on, but for the seed. UserError as ``settings_digest``."""
        return settings_digest(self.ranker())

    @property
    def settings(self) -> tuple[str, ...]:
        """The options with their default number of passes."""
        given = any(o.replace(" ", "").startswith(("passes=", "judges=")) for o in self.options)
        return self.options if given or not self.paid else (*self.options, "passes=2")


@dataclass(frozen=True, kw_only=True)
class Judged:
    """Verdicts in the order of the sets.

    ``shown``: for each set the orders in which its candidates stood before the judge, one a pass; empty for rankers
    that see one response at a time. ``seconds``: wall time of this invocation, model loading included. ``spend``:
    totals of the ledger, earlier invocations included; None where nothing is paid.
    """

    verdicts: tuple[Verdict, ...]
    shown: tuple[Orders, ...]
    seconds: float
    spend: dict[str, Any] | None

    @property
    def rankings(self) -> list[Ranking | None]:
        return [v if isinstance(v, Ranking) else None for v in self.verdicts]


def judged(sets: Sequence[CandidateSet], judge: Judge, ledger: Path, *, repeat: int = 0) -> Judged:
    """Every set's verdict. ``ledger``: where paid calls are recorded. ``repeat``: above 0 the same questions are put
    again, under another sampling seed.

    Raises:
        UserError: the ranker cannot be built or asked.
        BudgetExhausted: the rest does not fit in the budget; what was paid for is on the ledger.
    """
    if not sets:
        return Judged(verdicts=(), shown=(), seconds=0.0, spend=None)
    started = time.monotonic()
    named = judge.ranker(*([f"request.seed={repeat}"] if repeat and judge.paid else []))
    if judge.paid:
        check_places(load_template(named.box.template), (s.prompt for s in sets))
    verdicts: list[Verdict | None] = [None] * len(sets)
    with ExitStack() as stack:
        ranker = open_ranker(named, lambda: stack.enter_context(Ledger(ledger)))
        pool = DemonstrationPool.start(DemonstrationsConfig(), template=load_template(named.box.template))
        context = RankContext(run=RUN, interaction=0, seed=judge.seed, demonstrations=pool, purpose="eval")
        for place, verdict in _watched(joined(ranker, sets, context), len(sets)):
            verdicts[place] = verdict
    given = tuple(v for v in verdicts if v is not None)
    if len(given) < len(sets):
        raise UserError(f"--ranker {judge.spec}: no verdict on {len(sets) - len(given)} of {len(sets)} sets")
    return Judged(
        verdicts=given,
        shown=_shown(sets, given, judge, named.box),
        seconds=time.monotonic() - started,
        spend=_spend(ledger) if judge.paid else None,
    )


def _shown(
    sets: Sequence[CandidateSet], verdicts: Sequence[Verdict], judge: Judge, box: BlackBoxConfig
) -> tuple[Orders, ...]:
    """What a black box was shown: the orders are a function of the call, as in its ranker. Of several judges what those
    were shown who have a vote."""
    if not judge.paid:
        return ((),) * len(sets)
    if box.judges:
        voted = (v.jury if isinstance(v, Ranking) else () for v in verdicts)
        return tuple(tuple(order for vote in votes for order in vote.shown) for votes in voted)
    seeds = Seeds(judge.seed, RUN, 0)
    found = []
    for item in sets:
        drawn = presentations(len(item.ids), box.passes, seed=seeds.of(item))
        found.append(tuple(tuple(item.ids[i] for i in order) for order in drawn))
    return tuple(found)


def _watched(verdicts: Iterator[tuple[int, Verdict]], total: int) -> Iterator[tuple[int, Verdict]]:
    """The same verdicts, with a bar for people who watch."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    yield from track(verdicts, "judging", total=total, console=console, disable=not sys.stderr.isatty())


def _spend(path: Path) -> dict[str, Any]:
    with Ledger(path, read_only=True) as ledger:
        return asdict(ledger.spend())


def price(sets: Sequence[CandidateSet], judge: Judge, *, repeats: int = 1) -> list[str]:
    """Lines for ``--dry-run``: calls, tokens and money of judging these very sets, without a call.

    Raises:
        UserError: as ``judged`` would for the ranker's name and options.
    """
    box = judge.ranker().box
    if not judge.paid:
        return [f"{len(sets)} sets", "paid calls: none"]
    each = [_cases(sets, member, repeats) for member in box.members]
    likely, most = in_all(likely for likely, _ in each), in_all(most for _, most in each)
    lines = [
        f"{len(sets)} sets, {likely.calls:,} paid calls, {most.calls:,} where every reply needs its repair",
        f"tokens: about {likely.input_tokens:,} in, {likely.output_tokens:,} out; at most {most.output_tokens:,} out",
    ]
    if most.usd is None:
        return [*lines, "money: unknown (price=auto, or price.input=… price.output=…, USD per million tokens)"]
    held = "" if box.budget_usd is None else f"; held to budget_usd ${box.budget_usd:,.2f}"
    return [*lines, f"money: about ${likely.usd or 0.0:,.4f}, at most ${most.usd:,.4f}{held}"]


def _cases(sets: Sequence[CandidateSet], box: BlackBoxConfig, repeats: int) -> tuple[WorstCase, WorstCase]:
    """What one judge is likely to take, and the most."""
    template, what = load_template(box.template), asked_of(box)
    check_places(template, (s.prompt for s in sets), what.rubric)
    pool = DemonstrationPool.start(DemonstrationsConfig(), template=template)
    calls = tokens = answers = longest = 0
    for item in sets:
        k = len(item.candidates)
        orders = len(presentations(k, box.passes, seed=0)) * repeats
        asked = render(template, pool.select(item.prompt), item, range(k), structured=True, asked=what)
        calls += orders
        tokens += orders * (estimate_message_tokens(asked) + schema_tokens(k, what))
        answers += orders * usual_answer(k, what)
        longest += orders * (output_bound(request_options(box, k)) or answer_tokens(k, what))
    price = price_of(box, tokens / max(calls, 1))
    likely = WorstCase(calls, tokens, answers, None if price is None else usd(price, tokens, answers))
    # A repair call shows the first one's messages and its reply again.
    given, made = 2 * tokens + 2 * longest, 2 * longest
    return likely, WorstCase(2 * calls + PROBES, given, made, most_usd(box, 2 * calls, given, made))
