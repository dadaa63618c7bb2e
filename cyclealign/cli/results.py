"""What every measuring command does with its result: the file, its page, and the figures on the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cyclealign.files.printable import say

if TYPE_CHECKING:
    from cyclealign.evaluation.result import Result


def checked(out: Path, option: str = "--out") -> None:
    """Refuse an output that cannot be written, before anything is paid for. UserError."""
    from cyclealign.evaluation.result import check_output

    check_output(out, option)


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
