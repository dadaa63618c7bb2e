"""What a judge wrote before its verdicts, on the pages that show verdicts."""

from __future__ import annotations

from collections.abc import Sequence

from cyclealign.reporting.markup import Html, join, passage, tag


def reasons_given(reasons: Sequence[tuple[str, Sequence[str]]]) -> Html | None:
    """One passage a reason. Each comes with the names of what it was shown, in that order: its own numbers are places
    in its own presentation. None without any."""
    parts = []
    for reason, shown in reasons:
        key = ", ".join(f"{n} is {name}" for n, name in enumerate(shown, start=1))
        parts += [tag("h4", f"why, where {key}"), passage(reason)]
    return tag("section", join(parts), class_="reasons") if parts else None
