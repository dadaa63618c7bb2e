"""Generation by OpenAI-compatible servers that run elsewhere: vLLM's own, or any other for the start model.

A vLLM server gets token ids, and each version's adapter through its runtime endpoint (start it with ``--enable-lora``
and ``VLLM_ALLOW_RUNTIME_LORA_UPDATING=1``). Any other server gets chat messages; it cannot be given adapters.
A prompt always goes to the same endpoint with the same seed. What a server then samples can still hang on what else
it serves at that moment, so that exact repetition is up to the server.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclealign.config.endpoints import OPENAI_URL, SERVER_KEY, host_of
from cyclealign.config.schema import GeneratorConfig, PolicyConfig
from cyclealign.files.printable import one_line
from cyclealign.generation.sampling import (
    CANARY_TOKENS,
    FORGED_TURN,
    ROUNDS,
    Draw,
    collect,
    is_final,
    stop_token_ids,
)
from cyclealign.generation.serving import check_adapter
from cyclealign.models.chat_template import render_prompt
from cyclealign.models.policy import load_tokenizer
from cyclealign.models.policy_files import resolve_model
from cyclealign.types import CanarySample, CandidateSet, PolicyVersion, Prompt, UserError, derive_seed

if TYPE_CHECKING:
    from openai import OpenAI

REQUESTS_AT_ONCE = 64  # to each endpoint
RETRIES, SECONDS = 4, 600.0
SEEDS = 2**31  # the range that every server can read


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One server: its client, the name of the model it was started with, and whether it is vLLM's."""

    url: str
    client: OpenAI
    model: str
    is_vllm: bool


class ServerGenerator:
    """See ``types.Generator``. A key, where the servers want one, is read from ``SERVER_KEY``."""

    def __init__(self, generator: GeneratorConfig, policy: PolicyConfig) -> None:
        self._settings, self._policy = generator, policy
        self._tokenizer = load_tokenizer(policy)
        self._stops = stop_token_ids(self._tokenizer, resolve_model(policy.model))
        self._endpoints: tuple[Endpoint, ...] = ()
        self._loaded: list[str] = []  # adapters on the servers, oldest first

    def generate(self, prompts: Sequence[Prompt], version: PolicyVersion, *, seed: int) -> Iterator[CandidateSet]:
        """Sets in order of completion."""
        adapter = self._serve(version)
        pool = ThreadPoolExecutor(REQUESTS_AT_ONCE * len(self._endpoints), thread_name_prefix="generate")
        try:
            jobs = [pool.submit(self._one, p, self._ids(p), adapter, seed) for p in prompts]
            for done in as_completed(jobs):
                yield done.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def canary(self, prompt: Prompt, version: PolicyVersion) -> CanarySample:
        """A greedy continuation with the server's own log-probabilities."""
        adapter, endpoint = self._serve(version), self._endpoint(prompt)
        with _readable(endpoint.url):
            ask = self._canary_of_vllm if endpoint.is_vllm else self._canary_of_other
            tokens, logprobs = ask(endpoint, adapter or endpoint.model, prompt)
        return CanarySample(prompt, tuple(tokens), tuple(logprobs))

    def close(self) -> None:
        """Close the connections; the adapters stay on the servers until a later version replaces them."""
        for endpoint in self._endpoints:
            endpoint.client.close()
        self._endpoints = ()

    def _one(self, prompt: Prompt, ids: list[int], adapter: str | None, seed: int) -> CandidateSet:
        endpoint, draws = self._endpoint(prompt), []
        for turn in range(ROUNDS):
            own_seed = derive_seed(seed, prompt.id, turn)
            draws += self._round(endpoint, adapter or endpoint.model, prompt, ids, own_seed)
            item = collect(prompt, draws, self._settings.candidates)
            if is_final(item, self._settings.candidates):
                break
        return item

    def _round(self, endpoint: Endpoint, model: str, prompt: Prompt, ids: list[int], seed: int) -> list[Draw]:
        """K samples; a server that knows no ``n`` gives one a request, and is asked K times."""
        draws: list[Draw] = []
        while len(draws) < self._settings.candidates:
            common = {
                "model": model,
                "n": self._settings.candidates - len(draws),
                "seed": (seed + len(draws)) % SEEDS,
                "temperature": self._settings.temperature,
                "top_p": self._settings.top_p,
                "max_tokens": self._settings.max_new_tokens,
                "stop": [FORGED_TURN],
            }
            with _readable(endpoint.url):
                got = self._ask(endpoint, prompt, ids, common)
            if not got:
                raise UserError(f"generator.endpoints: {endpoint.url} answered without any choice")
            draws += got
        return draws

    def _ask(self, endpoint: Endpoint, prompt: Prompt, ids: list[int], common: dict[str, Any]) -> list[Draw]:
        if endpoint.is_vllm:
            # The server would else apply the model's own generation config to what is not named here.
            plain = {"top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0, "stop_token_ids": list(self._stops)}
            reply = endpoint.client.completions.create(prompt=ids, extra_body=plain, **common)
            chosen = sorted(reply.choices, key=lambda c: c.index)
            return [_draw(c.text, c.finish_reason) for c in chosen]
        messages: Any = list(prompt.messages)
        chat = endpoint.client.chat.completions.create(messages=messages, **common)
        picked = sorted(chat.choices, key=lambda c: c.index)
        return [_draw(c.message.content, c.finish_reason) for c in picked]

    def _canary_of_vllm(self, endpoint: Endpoint, model: str, prompt: Prompt) -> tuple[list[int], list[float]]:
        extra = {"return_token_ids": True, "stop_token_ids": list(self._stops), "repetition_penalty": 1.0}
        reply = endpoint.client.completions.create(
            model=model,
            prompt=self._ids(prompt),
            max_tokens=CANARY_TOKENS,
            temperature=0.0,
            logprobs=0,
            extra_body=extra,
        )
        choice: Any = reply.choices[0]
        return list(choice.token_ids), list(choice.logprobs.token_logprobs)

    def _canary_of_other(self, endpoint: Endpoint, model: str, prompt: Prompt) -> tuple[list[int], list[float]]:
        messages: Any = list(prompt.messages)
        reply = endpoint.client.chat.completions.create(
            model=model, messages=messages, max_tokens=CANARY_TOKENS, temperature=0.0, logprobs=True
        )
        rows = (reply.choices[0].logprobs and reply.choices[0].logprobs.content) or []
        ids = self._tokenizer("".join(row.token for row in rows), add_special_tokens=False)["input_ids"]
        if not rows or [self._tokenizer.decode([i]) for i in ids] != [row.token for row in rows]:
            raise UserError(
                f"generator.endpoints: {endpoint.url} gives no log-probabilities of the policy's own tokens, so what it"
                " serves cannot be checked; use a vLLM server"
            )
        return ids, [row.logprob for row in rows]

    def _ids(self, prompt: Prompt) -> list[int]:
        return render_prompt(self._tokenizer, prompt.messages, self._policy.max_prompt_tokens)

    def _endpoint(self, prompt: Prompt) -> Endpoint:
        return self._endpoints[int(prompt.id, 16) % len(self._endpoints)]

    def _serve(self, version: PolicyVersion) -> str | None:
        """Connect, and see to it that every endpoint has the version's adapter; its name there, None without one."""
        if not self._endpoints:
            self._endpoints = tuple(_connect(url) for url in self._settings.endpoints)
        path = check_adapter(version)
        if path is None:
            return None
        # A server outlives runs, and a run can be deleted and started again under its name.
        name = f"{version.name}-{_digest(path)}"
        if name not in self._loaded:
            path = self._shared(path, name)
            for endpoint in self._endpoints:
                _load_adapter(endpoint, name, path)
            self._loaded.append(name)
            # The previous one stays a while: requests for it may still be under way elsewhere.
            for old in self._loaded[:-2]:
                for endpoint in self._endpoints:
                    _unload_adapter(endpoint, old)
            del self._loaded[:-2]
        return name

    def _shared(self, path: Path, name: str) -> Path:
        """The adapter where the servers can read it: a copy below ``adapter_root``, written aside and renamed."""
        root = self._settings.adapter_root
        if root is None:
            return path
        target = root.resolve() / name
        if not target.is_dir():
            aside = target.with_name(f".{name}.{os.getpid()}")
            shutil.copytree(path, aside, dirs_exist_ok=True)
            aside.rename(target)
        return target


def check_endpoints(urls: Sequence[str]) -> None:
    """UserError, naming the endpoint, where a server does not answer or lists no model."""
    for url in urls:
        _connect(url).client.close()


def _draw(text: str | None, finish_reason: str | None) -> Draw:
    return Draw(text or "", "length" if finish_reason == "length" else "stop")


def _digest(adapter: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(adapter.glob("adapter_*")):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:8]


def _connect(url: str) -> Endpoint:
    from openai import OpenAI

    key = os.environ.get(SERVER_KEY, "none")
    client = OpenAI(base_url=url, api_key=key, max_retries=RETRIES, timeout=SECONDS)
    if host_of(url) != host_of(OPENAI_URL):  # whose account OPENAI_ORG_ID names is none of another host's business
        client.organization = client.project = None
    with _readable(url):
        models = list(client.models.list())
    if not models:
        raise UserError(f"generator.endpoints: {url} lists no model")
    return Endpoint(url, client, models[0].id, getattr(models[0], "owned_by", None) == "vllm")


def _load_adapter(endpoint: Endpoint, name: str, path: Path) -> None:
    if not endpoint.is_vllm:
        raise UserError(
            f"generator.endpoints: {endpoint.url} is not a vLLM server: it cannot be given the trained adapter"
        )
    with _readable(endpoint.url, "loading an adapter (needs --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=1)"):
        if any(model.id == name for model in endpoint.client.models.list()):
            return  # left there by a killed attempt
        endpoint.client.post("/load_lora_adapter", body={"lora_name": name, "lora_path": str(path)}, cast_to=str)


def _unload_adapter(endpoint: Endpoint, name: str) -> None:
    with _readable(endpoint.url, "unloading an adapter"):
        if any(model.id == name for model in endpoint.client.models.list()):
            endpoint.client.post("/unload_lora_adapter", body={"lora_name": name}, cast_to=str)


@contextmanager
def _readable(url: str, doing: str = "generating") -> Iterator[None]:
    """Turns the SDK's errors into one line that names the endpoint."""
    from openai import APIConnectionError, APIError

    try:
        yield
    except APIConnectionError as error:
        raise UserError(f"generator.endpoints: no server answers at {url}") from error
    except APIError as error:
        raise UserError(f"generator.endpoints: {url}, {doing}: {one_line(str(error))}") from error
