"""Generation by OpenAI-compatible servers that run elsewhere: vLLM's own, or any other for the start model.

A vLLM server gets token ids, and each version's adapter through its runtime endpoint (start it with ``--enable-lora``
and ``VLLM_ALLOW_RUNTIME_LORA_UPDATING=1``). Any other server gets chat messages; it cannot be given adapters.
A prompt always goes to the same endpoint with the same seed, to the next one where that one is gone. What a server then
samples can still hang on what else it serves at that moment, so that exact repetition is up to the server.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from statistics import fmean
from typing import Any

from cyclealign.config.schema import GeneratorConfig, PolicyConfig
from cyclealign.generation.budget import thinking_budget
from cyclealign.generation.endpoint import Endpoint, Fleet, readable
from cyclealign.generation.sampling import (
    CANARY_TOKENS,
    FORGED_TURN,
    ROUNDS,
    Draw,
    canary_tolerance,
    collect,
    is_final,
    stop_token_ids,
    thought_through,
    to_draw,
)
from cyclealign.generation.serving import check_adapter
from cyclealign.models.chat_template import begins_inside, render_prompt, tags_of
from cyclealign.models.policy import load_tokenizer
from cyclealign.models.policy_files import resolve_model
from cyclealign.types import CanarySample, CandidateSet, PolicyVersion, Prompt, RunStopped, UserError, derive_seed

Request = dict[str, Any]  # the options of a request, by the API's names
REQUESTS_AT_ONCE = 64  # to each endpoint
SEEDS = 2**31  # the range that every server can read


class ServerGenerator:
    """See ``types.Generator``. A key, where the servers want one, is read from ``VLLM_API_KEY``."""

    def __init__(self, generator: GeneratorConfig, policy: PolicyConfig) -> None:
        self._settings, self._policy = generator, policy
        self._tokenizer = load_tokenizer(policy, generator.thinking)
        self._budget = thinking_budget(self._tokenizer, generator)
        self._stops = stop_token_ids(self._tokenizer, resolve_model(policy.model))
        self._fleet = Fleet(generator.endpoints)
        self._loaded: list[str] = []  # adapters on the servers, oldest first

    def generate(self, prompts: Sequence[Prompt], version: PolicyVersion, *, seed: int) -> Iterator[CandidateSet]:
        """Sets in order of completion."""
        adapter = self._serve(version)
        pool = ThreadPoolExecutor(REQUESTS_AT_ONCE * len(self._fleet.alive), thread_name_prefix="generate")
        try:
            jobs = [pool.submit(self._one, p, self._ids(p), adapter, seed) for p in prompts]
            for done in as_completed(jobs):
                yield done.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def canary(self, prompt: Prompt, version: PolicyVersion) -> CanarySample:
        """A greedy continuation with the server's own log-probabilities; every server is asked for its own.

        Raises:
            RunStopped: two servers do not serve the same weights.
        """
        adapter = self._serve(version)
        (first, taken), *others = self._fleet.ask_each(lambda e: self._canary(e, adapter or e.model, prompt))
        limit = canary_tolerance(self._policy)
        for url, other in others:
            gap = canary_difference(taken, other)
            if not gap <= limit:
                raise RunStopped(
                    f"generator.endpoints: {first} and {url} differ by {gap:.3f} nats a token (limit {limit}): one of"
                    f" them does not serve {version.name}; nothing that they say is paid for"
                )
        return taken

    def _canary(self, endpoint: Endpoint, model: str, prompt: Prompt) -> CanarySample:
        with readable(endpoint.url):
            ask = self._canary_of_vllm if endpoint.is_vllm else self._canary_of_other
            tokens, logprobs = ask(endpoint, model, prompt)
        return CanarySample(prompt, tuple(tokens), tuple(logprobs))

    def pause(self) -> None:
        """Close the connections; the adapters stay on the servers until a later version replaces them."""
        self._fleet.close()

    def close(self) -> None:
        """The same: the servers are not ours to end."""
        self._fleet.close()

    def _one(self, prompt: Prompt, ids: list[int], adapter: str | None, seed: int) -> CandidateSet:
        draws: list[Draw] = []
        for turn in range(ROUNDS):
            draws += self._round(adapter, prompt, ids, derive_seed(seed, prompt.id, turn))
            item = collect(prompt, draws, self._settings.candidates)
            if is_final(item, self._settings.candidates):
                break
        return item

    def _round(self, adapter: str | None, prompt: Prompt, ids: list[int], seed: int) -> list[Draw]:
        """K samples; a server that knows no ``n`` gives one a request, and is asked K times."""
        draws: list[Draw] = []
        while len(draws) < self._settings.candidates:
            common = {
                "n": self._settings.candidates - len(draws),
                "seed": (seed + len(draws)) % SEEDS,
                "temperature": self._settings.temperature,
                "top_p": self._settings.top_p,
                "max_tokens": self._settings.max_new_tokens,
                "stop": [FORGED_TURN],
            }
            draws += self._fleet.ask(prompt, lambda e, c=common: self._ask(e, prompt, ids, c | _named(e, adapter)))  # type: ignore[misc]
        return draws

    def _ask(self, endpoint: Endpoint, prompt: Prompt, ids: list[int], common: Request) -> list[Draw]:
        with readable(endpoint.url):
            got = self._draws(endpoint, prompt, ids, common)
        if not got:
            raise UserError(f"generator.endpoints: {endpoint.url} answered without any choice")
        return got

    def _draws(self, endpoint: Endpoint, prompt: Prompt, ids: list[int], common: Request) -> list[Draw]:
        if endpoint.is_vllm and tags_of(self._tokenizer) is not None:
            return self._thoughts(endpoint, ids, common)
        if endpoint.is_vllm:
            # The server would else apply the model's own generation config to what is not named here.
            reply = endpoint.client.completions.create(prompt=ids, extra_body=self._plain, **common)
            chosen = sorted(reply.choices, key=lambda c: c.index)
            return [_draw(c.text, c.finish_reason) for c in chosen]
        messages: Any = list(prompt.messages)
        given = self._policy.chat_template_kwargs
        extra = {"chat_template_kwargs": given} if given else None
        chat = endpoint.client.chat.completions.create(messages=messages, extra_body=extra, **common)
        picked = sorted(chat.choices, key=lambda c: c.index)
        return [self._spoken(c.message, c.finish_reason, ids) for c in picked]

    @property
    def _plain(self) -> Request:
        return {"top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0, "stop_token_ids": list(self._stops)}

    def _thoughts(self, endpoint: Endpoint, ids: list[int], common: Request) -> list[Draw]:
        """Replies of a policy that thinks, by their token ids: a server's text may lack the tags."""
        budget, inside = self._budget, begins_inside(self._tokenizer, ids)
        first = common if budget is None else common | {"max_tokens": budget.first}
        found = self._tokens(endpoint, ids, first)
        rows = found if budget is None else []
        for n, row in enumerate(found if budget is not None else ()):
            assert budget is not None
            said, left = budget.go_on(row, self._stops, inside=inside)
            if left:
                own = {"n": 1, "max_tokens": left, "seed": derive_seed(common["seed"], "answer", n) % SEEDS}
                [more] = self._tokens(endpoint, ids + said, common | own)
                said += more
            rows.append(said)
        return [to_draw(self._tokenizer, row, self._stops, inside=inside) for row in rows]

    def _tokens(self, endpoint: Endpoint, ids: list[int], common: Request) -> list[list[int]]:
        """Token ids of the samples. A forged turn is cut afterwards: within thinking it is nobody's turn."""
        extra = self._plain | {"return_token_ids": True}
        reply = endpoint.client.completions.create(prompt=ids, extra_body=extra, **common | {"stop": None})
        chosen: list[Any] = sorted(reply.choices, key=lambda c: c.index)
        found = [list(c.token_ids) for c in chosen]
        for row, choice in zip(found, chosen, strict=True):
            if choice.finish_reason == "stop" and not any(token in self._stops for token in row):
                row.append(self._stops[0])  # a version that leaves it out
        return found

    def _spoken(self, message: Any, finish_reason: str | None, ids: list[int]) -> Draw:
        """A reply of a server that renders the chat itself, and may have taken its thinking out."""
        tags, inside = tags_of(self._tokenizer), begins_inside(self._tokenizer, ids)
        draw = _draw(message.content, finish_reason)
        if tags is None:
            return draw
        apart = getattr(message, "reasoning_content", None) or getattr(message, "reasoning", None)
        if apart:
            opened = apart if inside else f"{tags.open}\n{apart}"
            text = f"{opened.rstrip()}{tags.forced}{draw.text}" if draw.text.strip() else opened
            return thought_through(self._tokenizer, Draw(text, draw.finish), inside=inside)
        if inside and draw.finish == "stop" and tags.close not in draw.text:
            return draw  # it has ended, so that its thinking was left out
        return thought_through(self._tokenizer, draw, inside=inside)

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

    def _serve(self, version: PolicyVersion) -> str | None:
        """See to it that every server that answers has the version's adapter; its name there, None without one."""
        path = check_adapter(version)
        if path is None:
            self._gather(None)
            return None
        # A server outlives runs, and a run can be deleted and started again under its name.
        name = f"{version.name}-{_digest(path)}"
        self._gather((name, self._shared(path, name)))
        if name not in self._loaded:
            self._loaded.append(name)
        # The previous one stays a while: requests for it may still be under way elsewhere.
        for old in self._loaded[:-2]:
            self._fleet.drop(old)
        del self._loaded[:-2]
        return name

    def _gather(self, adapter: tuple[str, Path] | None) -> None:
        self._fleet.gather(adapter)
        for endpoint in self._fleet.alive if self._budget is not None else ():
            if not endpoint.is_vllm:
                raise UserError(
                    f"generator.thinking.max_tokens: {endpoint.url} is not a vLLM server: it takes no reply to go on"
                    " with, so that thinking cannot be closed there; set it to null"
                )

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


def canary_difference(one: CanarySample, other: CanarySample) -> float:
    """Mean gap of two greedy continuations, in nats a token, up to the first token that is not the same: with the same
    weights, what leads to another one there is a near tie."""
    same = 0
    while same < min(len(one.token_ids), len(other.token_ids)) and one.token_ids[same] == other.token_ids[same]:
        same += 1
    pairs = list(zip(one.logprobs, other.logprobs, strict=False))[: same + 1]
    return fmean(abs(a - b) for a, b in pairs)


def _named(endpoint: Endpoint, adapter: str | None) -> Request:
    return {"model": adapter or endpoint.model}


def _draw(text: str | None, finish_reason: str | None) -> Draw:
    return Draw(text or "", "length" if finish_reason == "length" else "stop")


def _digest(adapter: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(adapter.glob("adapter_*")):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:8]
