"""The figures of a run: what changed from the start model to the kept one, with intervals.

The page and the terminal both take them from ``headline``, so that they cannot disagree.
"""

from __future__ import annotations

import math
import sqlite3
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cyclealign.ledger import Ledger, Spend
from cyclealign.run_dir import RunDir, read_json
from cyclealign.strict_yaml import read_yaml
from cyclealign.types import UserError

Z95 = 1.959963984540054  # normal quantile of a two-sided 95% interval
PORTION = 500  # bootstrap draws that are held at once


@dataclass(frozen=True)
class Facts:
    """What the small files of a run say. ``evaluations``: metrics by number of interactions trained.

    ``kept``: ``best/kept.json``, None while the run goes on. ``position``: place of each eval prompt, by id.
    """

    config: dict[str, Any]
    state: dict[str, Any]
    kept: dict[str, Any] | None
    evaluations: dict[int, dict[str, Any]]
    position: dict[str, int]

    @property
    def compared(self) -> int | None:
        """The evaluation that stands against the start: the kept one's, before the end the latest one's."""
        if self.kept is not None:
            trained = int(self.kept["trained"])
            return trained if trained in self.evaluations else None
        return max((n for n in self.evaluations if n > 0), default=None)

    @property
    def label(self) -> str:
        return "kept" if self.kept is not None else "latest"


def read_facts(run: RunDir) -> Facts:
    """Read them; what is not there yet is empty."""
    kept = run.best / "kept.json"
    config = read_yaml(run.config.read_text(encoding="utf-8"), str(run.config)) if run.config.exists() else {}
    return Facts(
        config=config if isinstance(config, dict) else {},
        state=run.state(),
        kept=read_json(kept) if kept.exists() else None,
        evaluations=run.evaluations(),
        position={p.id: n for n, p in enumerate(run.eval_prompts())},
    )


def headline(run: RunDir) -> dict[str, Any]:
    """What the run achieved, from the start model (``start``) to the ``kept`` one (``latest`` while it goes on).

    Keys: ``name``; ``status``; ``kept``: {``trained``, ``why``} or None; ``label``: ``kept`` or ``latest``;
    ``compared``: how many interactions that model was trained for, or None; ``prompts``: how many eval prompts the
    reward is paired over; ``spend``: one line; ``rows``: one dict a measure, with ``measure``, the numbers ``start``,
    ``kept``, ``change``, ``low``, ``high`` (95% interval of the change) where they are known, else None, and ``text``:
    those as (start, kept, change, interval), ready to print.
    """
    facts = read_facts(run)
    kept = {"trained": facts.kept["trained"], "why": facts.kept["why"]} if facts.kept else None
    return {
        "name": facts.config.get("name", run.path.name),
        "status": status(facts),
        "kept": kept,
        "label": facts.label,
        "compared": facts.compared,
        "prompts": len(paired_ids(facts, facts.compared)) if facts.compared is not None else 0,
        "spend": spend_text(run, facts),
        "rows": _rows(facts),
    }


def status(facts: Facts) -> str:
    """One line: finished, stopped and by what, or where it was last seen."""
    state = facts.state
    if not state:
        return "not started"
    if state.get("stage") == "finished":
        why = state.get("stopped")
        return f"finished early: {why}" if why else "finished"
    at = f"stage {state.get('stage')}"
    at += f", interaction {state['interaction']}" if "interaction" in state else ""
    if "ended" in state:
        why = f": {state['why']}" if state.get("why") else ""
        return f"ended by {state['ended']}{why} ({at}); resume it to go on"
    seen = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(float(state.get("at", 0.0))))
    return f"not finished: {at}, last sign of life {seen}"


def paired_interval(
    before: Sequence[float], after: Sequence[float], *, seed: int = 0, draws: int = 10_000
) -> tuple[float, float, float]:
    """Mean of ``after - before`` over paired items, with the 95% percentile bootstrap interval over the items.

    Raises:
        ValueError: no items, or not as many before as after.
    """
    if len(before) != len(after) or len(before) == 0:
        raise ValueError(f"expected pairs, got {len(before)} values before and {len(after)} after")
    gain = np.asarray(after, dtype=np.float64) - np.asarray(before, dtype=np.float64)
    rng = np.random.default_rng(seed)
    # In portions: the indices of all draws at once take gigabytes for large eval sets.
    portions = [min(PORTION, draws - first) for first in range(0, draws, PORTION)]
    means = np.concatenate([gain[rng.integers(0, len(gain), (n, len(gain)))].mean(axis=1) for n in portions])
    low, high = np.percentile(means, [2.5, 97.5])
    return float(gain.mean()), float(low), float(high)


def wilson(share: float, n: int) -> tuple[float, float]:
    """95% interval of a share of ``n`` trials (Wilson 1927); (0, 1) without trials."""
    if n == 0:
        return 0.0, 1.0
    z2 = Z95 * Z95
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def mean_interval(values: Sequence[float]) -> tuple[float, tuple[float, float] | None]:
    """Mean and its normal 95% interval; no interval below two values."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, None
    half = Z95 * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return mean, (mean - half, mean + half)


def paired_ids(facts: Facts, trained: int) -> list[str]:
    """Eval prompts of the reporting half (odd positions) that have a reward both at the start and then.

    All of them where none has an odd position, which is what an evaluation of a single prompt reports.
    """
    start, then = (facts.evaluations.get(n, {}).get("reward_by_prompt", {}) for n in (0, trained))
    both = [i for i in start if i in then]
    return [i for i in both if facts.position.get(i, 0) % 2 == 1] or both


def reward_change(facts: Facts, trained: int) -> tuple[float, float, float, tuple[float, float] | None] | None:
    """Mean reward at the start and then, the change and its paired interval; None where there is no reward."""
    ids = paired_ids(facts, trained)
    if not ids:
        return None
    before, after = ([facts.evaluations[n]["reward_by_prompt"][i] for i in ids] for n in (0, trained))
    change, low, high = paired_interval(before, after)
    return float(np.mean(before)), float(np.mean(after)), change, (low, high) if len(ids) > 1 else None


def _rows(facts: Facts) -> list[dict[str, Any]]:
    start = facts.evaluations.get(0)
    if start is None:
        return []
    trained = facts.compared
    then = facts.evaluations[trained] if trained is not None else {}
    rows = []
    reward = reward_change(facts, trained) if trained is not None else None
    if reward is not None:
        rows.append(_row(f"reward ({start['scorer']})", *reward, digits=4))
    elif "reward" in start:
        rows.append(_row(f"reward ({start['scorer']})", start["reward"], None, None, None, digits=4))
    for measure, key, digits in (
        ("NLL under the start model, nats a token", "nll_start", 3),
        ("distinct-2, share of bigrams", "distinct2", 3),
        ("length, words a reply", "mean_words", 1),
    ):
        if start.get(key) is not None:
            rows.append(_measured(measure, start[key], then.get(key), digits, relative=True))
    for box in ("white box", "black box"):
        before, after = (m.get(f"{box.replace(' ', '_')}_accuracy") or {} for m in (start, then))
        if before:
            name = f"{box}'s accuracy on labelled pairs"
            rows.append(_measured(name, before["accuracy"], after.get("accuracy"), 3))
    return rows


def _measured(name: str, start: float, then: float | None, digits: int, *, relative: bool = False) -> dict[str, Any]:
    change = None if then is None else then - start
    return _row(name, start, then, change, None, digits=digits, relative=relative)


def _row(
    measure: str,
    start: float,
    kept: float | None,
    change: float | None,
    interval: tuple[float, float] | None,
    *,
    digits: int,
    relative: bool = False,
) -> dict[str, Any]:
    share = f" ({change / start:+.1%})" if relative and change is not None and start else ""
    text = (
        f"{start:.{digits}f}",
        "" if kept is None else f"{kept:.{digits}f}",
        "" if change is None else f"{change:+.{digits}f}{share}",
        f"{interval[0]:+.{digits}f} to {interval[1]:+.{digits}f}" if interval else "",
    )
    low, high = interval or (None, None)
    numbers = {"start": start, "kept": kept, "change": change, "low": low, "high": high}
    return {"measure": measure, **numbers, "text": text}


# What was paid ------------------------------------------------------------------------------------------------


def spending(run: RunDir) -> tuple[Spend, dict[Any, Spend], dict[Any, Spend]] | str:
    """Totals: over all, by interaction, by purpose; or why there are none."""
    if not run.ledger.exists():
        return "no paid calls"
    try:
        with Ledger(run.ledger, read_only=True) as ledger:
            return ledger.spend(), ledger.spend_by("interaction"), ledger.spend_by("purpose")
    except (UserError, sqlite3.Error) as error:
        return f"the ledger cannot be read: {error}"


def spend_text(run: RunDir, facts: Facts) -> str:
    """One line on what was paid for."""
    found = spending(run)
    black_box = facts.config.get("black_box") or {}
    if isinstance(found, str) or not found[0].calls:
        backend = black_box.get("backend", "unknown")
        return f"{found if isinstance(found, str) else 'no paid calls'} (black box: {backend})"
    total = found[0]
    tokens = f"{total.input_tokens:,} tokens in, {total.output_tokens:,} out"
    money = f"{total.usd:.4f} USD" if black_box.get("price") else "no price given"
    open_calls = (
        f"; {total.unfinished} without a reply, at most {total.reserved_usd:.4f} USD" if total.unfinished else ""
    )
    return f"{money}, {total.calls:,} calls ({total.failed:,} failed), {tokens}{open_calls}"
