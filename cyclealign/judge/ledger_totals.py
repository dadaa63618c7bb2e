"""The ledger's totals, kept as its calls change: in the transaction of each change, so that no kill can part them.

A row for each endpoint, model, interaction and purpose that was ever asked: what a run has spent is summed over these,
however many calls there are. What is reserved is summed over the calls in flight, which are few and have an index:
summed and taken back, a float would not come back to nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from cyclealign.judge.call import Account, Spend

_COUNTED: Final = ("done", "failed", "unfinished", "repeated")
_TAKEN: Final = ("input_tokens", "cached_tokens", "written_tokens", "output_tokens", "thinking_tokens", "usd")
# The rows of an account, of calls and of totals: their purpose tells.
OF_ACCOUNT: Final[dict[Account, str]] = {"judge": "purpose <> 'witness'", "witness": "purpose = 'witness'"}
# UNIQUE takes no two nulls for the same, and probes have no interaction.
_INDEXED: Final = "endpoint, model, COALESCE(interaction, -1), purpose"
_NUMBERS: Final = ",\n  ".join(f"{name} INTEGER NOT NULL DEFAULT 0" for name in (*_COUNTED, *_TAKEN[:-1]))


def _row_of(call: str) -> str:
    return (
        f"endpoint = {call}.endpoint AND model = {call}.model"
        f" AND COALESCE(interaction, -1) = COALESCE({call}.interaction, -1) AND purpose = {call}.purpose"
    )


_TAKEN_MORE: Final = ", ".join(f"{n} = {n} + COALESCE(NEW.{n}, 0) - COALESCE(OLD.{n}, 0)" for n in _TAKEN)
_STATES: Final = ", ".join(
    f"{name} = {name} + (NEW.state = '{state}') - (OLD.state = '{state}')"
    for name, state in (("done", "done"), ("failed", "failed"), ("unfinished", "started"))
)
# An attempt counts as repeated while the one before it has no outcome: it gets one when a spilled reply is written.
TABLES: Final = f"""
CREATE TABLE IF NOT EXISTS totals (
  id INTEGER PRIMARY KEY,
  endpoint TEXT NOT NULL,
  model TEXT NOT NULL,
  interaction INTEGER,
  purpose TEXT NOT NULL,
  {_NUMBERS},
  usd REAL NOT NULL DEFAULT 0
) STRICT;
CREATE UNIQUE INDEX IF NOT EXISTS totals_of ON totals ({_INDEXED});
CREATE TRIGGER IF NOT EXISTS started AFTER INSERT ON calls BEGIN
  INSERT INTO totals (endpoint, model, interaction, purpose, unfinished, repeated)
    VALUES (NEW.endpoint, NEW.model, NEW.interaction, NEW.purpose, 1, EXISTS (
      SELECT 1 FROM calls WHERE endpoint = NEW.endpoint AND key = NEW.key
        AND attempt = NEW.attempt - 1 AND state = 'started'))
    ON CONFLICT ({_INDEXED}) DO UPDATE
      SET unfinished = unfinished + 1, repeated = repeated + excluded.repeated;
END;
CREATE TRIGGER IF NOT EXISTS counted AFTER UPDATE OF state, {", ".join(_TAKEN)} ON calls BEGIN
  UPDATE totals SET {_STATES}, {_TAKEN_MORE} WHERE {_row_of("NEW")};
END;
CREATE TRIGGER IF NOT EXISTS repeating AFTER UPDATE OF state ON calls
  WHEN (OLD.state = 'started') <> (NEW.state = 'started') BEGIN
  UPDATE totals SET repeated = repeated + (NEW.state = 'started') - (OLD.state = 'started') FROM calls AS later
    WHERE later.endpoint = NEW.endpoint AND later.key = NEW.key AND later.attempt = NEW.attempt + 1
      AND totals.endpoint = later.endpoint AND totals.model = later.model
      AND COALESCE(totals.interaction, -1) = COALESCE(later.interaction, -1) AND totals.purpose = later.purpose;
END;
"""  # noqa: S608  names are those above


def totals_query(group: Sequence[str] = (), *, account: Account | None = None, order: str = "") -> str:
    """Columns of ``spend_of``, then those of the group, of which there is a row each; without one, a row in all.

    account: only its calls; None: all.
    """
    of, by = OF_ACCOUNT[account] if account else "TRUE", "".join(f", {name}" for name in group)
    kept, none = ", ".join((*_COUNTED, *_TAKEN)), ", ".join("0" for _ in (*_COUNTED, *_TAKEN))
    # One pass over each, however many groups there are and however many calls are in flight.
    both = (
        f"SELECT id, {kept}, 0.0 AS reserved_usd{by} FROM totals WHERE {of}"  # noqa: S608  names are of our own columns
        f" UNION ALL SELECT NULL, {none}, reserved_usd{by} FROM calls INDEXED BY open_calls"
        f" WHERE state = 'started' AND {of}"
    )
    sums = ", ".join(f"COALESCE(SUM({name}), 0)" for name in (*_COUNTED, *_TAKEN[:-1]))
    grouped = f" GROUP BY {', '.join(group)} ORDER BY {order or ', '.join(group)}" if group else ""
    return f"SELECT {sums}, TOTAL(usd), TOTAL(reserved_usd){by} FROM ({both}){grouped}"  # noqa: S608  names are of our own columns


def call_query() -> str:
    """The same columns of all attempts at one call, by endpoint and key."""
    states = "COALESCE(SUM(state = 'done'), 0), COALESCE(SUM(state = 'failed'), 0), COALESCE(SUM(state = 'started'), 0)"
    repeated = (
        "COALESCE(SUM(EXISTS (SELECT 1 FROM calls AS b WHERE b.endpoint = calls.endpoint AND b.key = calls.key"
        " AND b.attempt = calls.attempt - 1 AND b.state = 'started')), 0)"
    )
    sums = ", ".join(f"COALESCE(SUM({name}), 0)" for name in _TAKEN[:-1])
    money = "TOTAL(usd), TOTAL(CASE WHEN state = 'started' THEN reserved_usd ELSE 0.0 END)"
    return f"SELECT {states}, {repeated}, {sums}, {money} FROM calls WHERE endpoint = ? AND key = ?"  # noqa: S608  names are those above, values are bound


def spend_of(row: Sequence[Any]) -> Spend:
    """Totals of a row of one of these queries."""
    names = (*_COUNTED, *_TAKEN, "reserved_usd")
    return Spend(calls=sum(row[:3]), **dict(zip(names, row, strict=True)))
