"""The child process that holds a vLLM engine: ``python -m cyclealign.generation.vllm_worker FD``.

It reads jobs from the inherited connection and writes results as they are completed, until the connection closes or
its parent is gone. Jobs run one at a time; with the engine in this process and the prefix cache empty at a job's
start, a job's schedule (and so, on a CPU, every bit of its results) is a function of the job alone.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclealign.generation.budget import thinking_budget
from cyclealign.generation.engine import engine_options, most_rows, step_tokens
from cyclealign.generation.sampling import CANARY_TOKENS, ROUNDS, Draw, collect, stop_token_ids, to_draw
from cyclealign.models.chat_template import begins_inside
from cyclealign.types import Prompt, derive_seed

if TYPE_CHECKING:
    from cyclealign.config.schema import GeneratorConfig, PolicyConfig


@dataclass(frozen=True, slots=True)
class Setup:
    """How the engine is started: ``model`` is a directory or hub id."""

    generator: GeneratorConfig
    policy: PolicyConfig
    model: str


@dataclass(frozen=True, slots=True)
class Job:
    """One chunk of prompts (token ids), under an adapter (its name, number and directory) or none.

    ``seed`` None asks for the canary: greedy, with log-probabilities, of the first prompt.
    """

    number: int
    prompts: tuple[Prompt, ...]
    ids: tuple[tuple[int, ...], ...]
    adapter: tuple[str, int, Path] | None
    seed: int | None


@dataclass(slots=True)
class _Sampling:
    """A prompt on its way to K distinct candidates. ``rows``: token ids of this round; ``open``: how many of them wait
    for the rest of their answer."""

    index: int
    draws: list[Draw]
    turn: int = 0
    rows: list[list[int]] = field(default_factory=list)
    open: int = 0


@dataclass(frozen=True, slots=True)
class _Request:
    """K samples of a prompt, or of its ``row`` (what it has so far is in ``ids``) at most ``left`` tokens more."""

    item: _Sampling
    ids: Sequence[int]
    row: int | None = None
    left: int = 0


class Worker:
    """The engine, and how a job runs on it."""

    def __init__(self, setup: Setup) -> None:
        from cyclealign.models.policy import load_tokenizer
        from cyclealign.models.policy_files import resolve_model

        policy, settings = setup.policy, setup.generator
        self._settings = settings
        self._tokenizer = load_tokenizer(policy, settings.thinking)
        self._budget = thinking_budget(self._tokenizer, settings)
        self._stops = stop_token_ids(self._tokenizer, setup.model)
        self._step_tokens, self._most_rows = step_tokens(settings, policy), most_rows(settings)
        self._engine = _engine(setup, tokenizer=resolve_model(policy.model))

    def run(self, job: Job) -> Iterator[tuple[int, Any]]:
        """(index, draws) of each prompt as it is completed; for a canary (0, (token ids, log-probs))."""
        self._engine.reset_prefix_cache()
        if job.seed is None:
            yield 0, self._canary(job)
            return
        waiting = deque(_Request(_Sampling(i, []), job.ids[i]) for i in range(len(job.prompts)))
        running: dict[str, _Request] = {}
        while waiting or running:
            self._admit(job, waiting, running)
            for output in self._engine.step():
                if not output.finished:
                    continue
                request = running.pop(output.request_id)
                samples = sorted(output.outputs, key=lambda s: s.index)
                waiting.extendleft(self._continued(job, request, [list(s.token_ids) for s in samples]))
                item = request.item
                if item.open:
                    continue
                inside = begins_inside(self._tokenizer, job.ids[item.index])
                item.draws += [to_draw(self._tokenizer, row, self._stops, inside=inside) for row in item.rows]
                item.turn += 1
                full = len(collect(job.prompts[item.index], item.draws, self._k).candidates) == self._k
                if full or item.turn == ROUNDS:
                    yield item.index, item.draws
                else:
                    waiting.append(_Request(item, job.ids[item.index]))

    def _continued(self, job: Job, request: _Request, samples: Sequence[list[int]]) -> list[_Request]:
        """Note what a request brought; of replies that may go on, the requests for the rest."""
        item = request.item
        if request.row is not None:
            item.rows[request.row] += samples[0]
            item.open -= 1
            return []
        item.rows = list(samples)
        if self._budget is None:
            return []
        prompt = job.ids[item.index]
        inside = begins_inside(self._tokenizer, prompt)
        found = []
        for row, sample in enumerate(samples):
            item.rows[row], left = self._budget.go_on(sample, self._stops, inside=inside)
            if left:
                found.append(_Request(item, [*prompt, *item.rows[row]], row, left))
        item.open = len(found)
        return found

    @property
    def _k(self) -> int:
        return self._settings.candidates

    def _admit(self, job: Job, waiting: deque[_Request], running: dict[str, _Request]) -> None:
        """Start what the next step can read whole: the CPU build cannot split a prompt that samples by seed."""
        room = self._step_tokens
        rows = sum(map(self._rows, running.values()))
        while waiting and (not running or rows + self._rows(waiting[0]) <= self._most_rows):
            request = waiting[0]
            room -= self._rows(request) * len(request.ids)
            if room < 0:
                return
            waiting.popleft()
            rows += self._rows(request)
            item = request.item
            part = () if request.row is None else ("answer", request.row)
            name = "-".join(map(str, (job.number, item.index, item.turn, *part)))
            running[name] = request
            seed = derive_seed(job.seed or 0, job.prompts[item.index].id, item.turn, *part)
            self._add(name, job, request.ids, self._sampling_params(request, seed))

    def _rows(self, request: _Request) -> int:
        return self._k if request.row is None else 1

    def _sampling_params(self, request: _Request, seed: int) -> Any:
        from vllm import SamplingParams

        settings = self._settings
        first = settings.max_new_tokens if self._budget is None else self._budget.first
        return SamplingParams(
            n=self._rows(request),
            temperature=settings.temperature,
            top_p=settings.top_p,
            max_tokens=first if request.row is None else request.left,
            seed=seed >> 8,  # each sample adds its index; the sum has to stay a signed 64-bit number
            **self._common(),
        )

    def _common(self) -> dict[str, Any]:
        from vllm.sampling_params import RequestOutputKind

        kind = RequestOutputKind.FINAL_ONLY
        return {"stop_token_ids": list(self._stops), "detokenize": False, "output_kind": kind}

    def _canary(self, job: Job) -> tuple[list[int], list[float]]:
        from vllm import SamplingParams

        params = SamplingParams(temperature=0.0, max_tokens=CANARY_TOKENS, logprobs=0, **self._common())
        self._add(f"{job.number}-canary", job, job.ids[0], params)
        while True:
            for output in self._engine.step():
                if output.finished:
                    sample = output.outputs[0]
                    found = zip(sample.token_ids, sample.logprobs, strict=True)
                    return list(sample.token_ids), [float(row[token].logprob) for token, row in found]

    def _add(self, name: str, job: Job, ids: Sequence[int], params: Any) -> None:
        from vllm.lora.request import LoRARequest

        lora = None
        if job.adapter is not None:
            adapter, number, path = job.adapter
            lora = LoRARequest(adapter, number, str(path))
        prompt = {"type": "token", "prompt_token_ids": list(ids)}
        self._engine.add_request(name, prompt, params, lora_request=lora)


def _engine(setup: Setup, *, tokenizer: str) -> Any:
    import torch
    from vllm import LLM

    from cyclealign.models.processes import default_device

    device = default_device()
    options: dict[str, Any] = {}
    if device == "cuda":
        # The trainer's own weights lie on this GPU too; vLLM refuses to start when it counts on more than is free.
        free, total = torch.cuda.mem_get_info()
        options["gpu_memory_utilization"] = round(0.9 * free / total, 3)
    options |= engine_options(setup.generator, setup.policy, device=device, adapters=1)
    return LLM(setup.model, tokenizer=tokenizer, **options).llm_engine


def serve(connection: Connection) -> None:
    """Start the engine that the first message asks for, then run jobs until the connection ends.

    Writes ("ready",), then ("result", number, index, value) and at last ("done", number) for each job; or ("failed",
    text), and ends.
    """
    try:
        worker = Worker(connection.recv())
        connection.send(("ready",))
        while True:
            job: Job = connection.recv()
            for index, value in worker.run(job):
                connection.send(("result", job.number, index, value))
            connection.send(("done", job.number))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the parent closed its end: that is how the engine is told to stop
    except Exception as error:
        connection.send(("failed", f"{type(error).__name__}: {error}"))
        raise


def _end_with_parent() -> None:
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def main(arguments: Sequence[str]) -> None:
    # A killed parent must not leave an engine behind that holds the GPU.
    _end_with_parent()
    serve(Connection(int(arguments[0])))


if __name__ == "__main__":
    main(sys.argv[1:])
