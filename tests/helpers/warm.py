"""Processes of the real program that begin with the heavy packages imported: one process imports them, and forks.

``python warm.py SOCKET serve PID`` is that process, until PID is gone; ``python -S warm.py SOCKET run ARGUMENTS`` has
it fork a process that runs ``cyclealign ARGUMENTS`` (or a script and its arguments) in the caller's process group with
its files and environment, and ends as that one ends.
What starts Python anew spends eight seconds of processor time on imports. The hash seed is the same in all of them:
what checks that it does not matter starts anew.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import runpy
import shutil
import signal
import socket
import sys
from pathlib import Path

FORKS_WELL = "jemalloc_bg_thd"  # jemalloc starts its own again
LINE = 1 << 20  # bytes of a request: arguments and environment


def serve(path: str, whole_run: int) -> list[str]:
    """Answer requests until the process ``whole_run`` is gone; the forked process returns its arguments."""
    _import_what_a_run_does()
    gc.freeze()  # a process that is forked need not walk through all that again
    atexit.register(gc.unfreeze)
    threads = {Path(task, "comm").read_text().strip() for task in Path("/proc/self/task").iterdir()}
    assert len(threads - {FORKS_WELL}) == 1, f"threads do not survive a fork: {threads}"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        listener.settimeout(1)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # whoever attends a process is not waited for
        while _runs(whole_run):
            try:
                client, _ = listener.accept()
            except TimeoutError:
                continue
            if os.fork() == 0:
                listener.close()
                client.settimeout(None)
                return _attend(client)
            client.close()
    shutil.rmtree(Path(path).parent)
    sys.exit()


def _runs(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _import_what_a_run_does() -> None:
    import openai.types.chat  # noqa: F401 - the heavy packages, as the program imports them
    import peft  # noqa: F401
    import trl  # noqa: F401
    from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer  # noqa: F401

    import cyclealign.cli.main
    import cyclealign.cycle.list_run
    import cyclealign.cycle.loop
    import cyclealign.training.trainer  # noqa: F401


def _attend(client: socket.socket) -> list[str]:
    """Fork the process and tell the client how it ended. Returns in the process alone: its arguments."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    message, files, _, _ = socket.recv_fds(client, LINE, 3)
    request = json.loads(message)
    child = os.fork()
    if child:
        for file in files:
            os.close(file)
        _, status = os.waitpid(child, 0)
        client.sendall(str(os.waitstatus_to_exitcode(status)).encode())
        os._exit(0)
    client.close()
    try:
        os.setpgid(0, request["group"])
    except OSError:
        os._exit(1)  # who asked was killed before it began
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    return list(request["arguments"])


def run(path: str, arguments: list[str]) -> int:
    """What a process that was started would return: its exit status, or 128 and the signal that ended it."""
    request = {"arguments": arguments, "environment": dict(os.environ), "folder": os.getcwd(), "group": os.getpgrp()}
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(path)
        socket.send_fds(server, [json.dumps(request).encode()], [0, 1, 2])
        for file in (0, 1):  # whoever reads the other end waits for the process alone
            os.close(file)
        status = int(server.recv(100) or b"1")
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    _, where, action, *more = sys.argv
    if action == "run":
        sys.exit(run(where, more))
    sys.path[:1] = [str(Path(__file__).resolve().parents[n]) for n in (2, 0)]
    asked = serve(where, int(more[0]))
    if asked[0].endswith(".py"):
        sys.argv = asked
        runpy.run_path(asked[0], run_name="__main__")
        sys.exit()
    sys.argv = ["cyclealign", *asked]
    from cyclealign.cli.main import main

    sys.exit(main(asked))
