"""One command that does not outlive who asked for it: ``python -m cyclealign.generation.keeper COMMAND...``.

The command runs in a process group of its own. When this process's standard input ends, by a closed pipe or because
who held its other end is gone, however it went, the whole group is told to end, and then killed. What a server leaves
behind when it dies goes with it: an engine must not hold a GPU for nobody. Standard library only.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

SECONDS_TO_END = 15.0


def main(command: Sequence[str]) -> int:
    """Run the command; returns its exit code, 128 and the signal's number where it was killed."""
    child = subprocess.Popen(list(command), stdin=subprocess.DEVNULL, start_new_session=True)  # noqa: S603  our own command, without a shell
    signal.signal(signal.SIGTERM, lambda *_: _tell(child.pid, signal.SIGTERM))
    threading.Thread(target=_end_with_input, args=(child,), daemon=True).start()
    code = child.wait()
    _tell(child.pid, signal.SIGKILL)
    return code if code >= 0 else 128 - code


def _end_with_input(child: subprocess.Popen[bytes]) -> None:
    while os.read(sys.stdin.fileno(), 1024):
        pass
    _tell(child.pid, signal.SIGTERM)
    time.sleep(SECONDS_TO_END)
    _tell(child.pid, signal.SIGKILL)


def _tell(group: int, sign: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):  # nobody is left in it
        os.killpg(group, sign)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
