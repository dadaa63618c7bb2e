"""Generation with vLLM in a child process, which gives the GPU's memory back by ending, or stays warm on a CPU."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NoReturn

from cyclealign.config.schema import GeneratorConfig, PolicyConfig
from cyclealign.generation.budget import thinking_budget
from cyclealign.generation.engine import child_environment, on_cores, own_cores, ranks_of
from cyclealign.generation.sampling import collect
from cyclealign.generation.serving import check_adapter
from cyclealign.generation.vllm_worker import Job, Setup
from cyclealign.models.chat_template import render_prompt
from cyclealign.models.policy import load_tokenizer
from cyclealign.models.processes import default_device
from cyclealign.types import CanarySample, CandidateSet, PolicyVersion, Prompt, RunStopped, UserError

SECONDS_TO_END = 15


class VllmGenerator:
    """See ``types.Generator``. The child lives from first use to ``close``, or to ``pause`` where it is not kept warm.
    Its log is ``workdir/vllm.log``."""

    def __init__(self, generator: GeneratorConfig, policy: PolicyConfig, *, workdir: Path) -> None:
        self._settings, self._policy = generator, policy
        self._log = workdir / "vllm.log"
        self._tokenizer = load_tokenizer(policy, generator.thinking)
        thinking_budget(self._tokenizer, generator)  # refused before an engine starts
        self._child: subprocess.Popen[bytes] | None = None
        self._pipe: Connection | None = None
        self._base = ""
        self._jobs = 0
        self._adapters: dict[str, int] = {}
        # A trainer on the same GPU needs what an engine holds; on a CPU, weights and cache are small beside the start.
        self._warm = generator.warm == "always" or (generator.warm == "auto" and default_device() == "cpu")

    @property
    def pid(self) -> int | None:
        """Process id of the child while there is one."""
        return None if self._child is None else self._child.pid

    def generate(self, prompts: Sequence[Prompt], version: PolicyVersion, *, seed: int) -> Iterator[CandidateSet]:
        for index, draws in self._run(prompts, version, seed):
            yield collect(prompts[index], draws, self._settings.candidates)

    def canary(self, prompt: Prompt, version: PolicyVersion) -> CanarySample:
        """A greedy continuation with vLLM's own raw log-probabilities."""
        [(_, (tokens, logprobs))] = self._run([prompt], version, None)
        return CanarySample(prompt, tuple(tokens), tuple(logprobs))

    def pause(self) -> None:
        """End the child, unless it is to stay warm (``generator.warm``)."""
        if not self._warm:
            self.close()

    def close(self) -> None:
        """End the child (and with it its hold on the GPU); the next call starts another."""
        child, pipe = self._child, self._pipe
        self._child, self._pipe, self._base = None, None, ""
        self._adapters.clear()
        if pipe is not None:
            pipe.close()
        if child is not None:
            child.terminate()
            try:
                child.wait(SECONDS_TO_END)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()

    def _run(self, prompts: Sequence[Prompt], version: PolicyVersion, seed: int | None) -> Iterator[tuple[int, Any]]:
        adapter = check_adapter(version)
        self._start(version.base)
        limit = self._policy.max_prompt_tokens
        ids = tuple(tuple(render_prompt(self._tokenizer, p.messages, limit)) for p in prompts)
        named = None
        if adapter is not None:
            # vLLM keys adapters by number and prefix caches by name: a version gets one of each, never reused.
            named = version.name, self._adapters.setdefault(version.name, len(self._adapters) + 1), adapter
        self._jobs += 1
        number = self._jobs
        self._send(Job(number, tuple(prompts), ids, named, seed))
        while True:
            match self._receive():
                case ("result", job, index, value) if job == number:
                    yield index, value
                case ("done", job) if job == number:
                    return
                # Anything else is left over from a job that its caller gave up.

    def _start(self, base: str) -> None:
        if self._child is not None and self._base == base:
            return
        self.close()
        self._log.parent.mkdir(parents=True, exist_ok=True)
        self._pipe, theirs = Pipe()
        command = [sys.executable, "-m", "cyclealign.generation.vllm_worker", str(theirs.fileno())]
        with self._log.open("ab") as log, theirs:
            self._child = subprocess.Popen(  # noqa: S603  this Python, without words of others
                command,
                # The engine in the child's own process: its schedule then does not hang on timing.
                env=child_environment(dict(os.environ)) | self._cores() | {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"},
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self._base = base
        try:
            self._send(Setup(self._settings, self._policy, base))
            self._receive()
        except RunStopped as error:
            raise UserError(f"generator.backend: {error}") from error

    def _cores(self) -> dict[str, str]:
        on_cpu = default_device() == "cpu"
        return on_cores(ranks_of(self._settings.engine), 0, 1, own_cores()) if on_cpu else {}

    def _send(self, message: Any) -> None:
        assert self._pipe is not None
        try:
            self._pipe.send(message)
        except (BrokenPipeError, ConnectionResetError):
            self._fail("the engine's process ended")

    def _receive(self) -> Any:
        assert self._pipe is not None
        try:
            message = self._pipe.recv()
        except (EOFError, ConnectionResetError):
            self._fail("the engine's process ended")
        if message[0] == "failed":
            self._fail(message[1])
        return message

    def _fail(self, why: str) -> NoReturn:
        self.close()
        line = " ".join(why.split())[:400]
        raise RunStopped(f"vLLM failed: {line}; its log is {self._log}")
