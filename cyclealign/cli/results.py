"""What every measuring command does with its result: the file, its page, and the figures on the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cyclealign.files.outputs import hold
from cyclealign.files.printable import say

if TYPE_CHECKING:
    from cyclealign.evaluation.result import Result


def checked(out: Path, *inputs: str | Path | None, option: str = "--out") -> None:
    """Before anything is paid for: refuse an output that is an input, cannot be written, is not ours, or is in use.

    Args:
        inputs: what the command reads, where it is a file: its other arguments as they stand.

    Raises:
        UserError: naming the option.
    """
    from cyclealign.evaluation.result import check_output

    check_output(out, option)
    for file in (out, out.with_suffix(".html")):
        hold(file, [Path(i) for i in inputs if i is not None], option)


def finish(result: Result, out: Path, *, show: bool = True) -> None:
    """Write result and page, and say where they are; ``show``: and what the figures are."""
    from cyclealign.evaluation.result import write_result
    from cyclealign.reporting.eval_page import write_page
    from cyclealign.reporting.eval_terminal import show_result

    write_result(out, result)
    page = write_page(out.with_suffix(".html"), result)
    if show:
        show_result(result)
    say(f"result: {out}\npage: {page}")
