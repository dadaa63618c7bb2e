"""The servers that generate: connecting, adapters, and which of several still answers."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from cyclealign.config.endpoints import OPENAI_URL, SERVER_KEY, host_of
from cyclealign.files.printable import one_line
from cyclealign.types import Prompt, RunStopped, UserError

if TYPE_CHECKING:
    from openai import OpenAI

T = TypeVar("T")
LOG = logging.getLogger(__name__)
RETRIES, SECONDS = 4, 600.0
RETRIES_BESIDE_OTHERS = 1  # another server takes the request over: no need to wait long for this one
SECONDS_TO_SAY_HELLO = 10.0


class ServerGone(UserError):
    """A server does not answer, is broken, or no longer knows what it was given."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One server: its client, the name of the model it was started with, and whether it is vLLM's."""

    url: str
    client: OpenAI
    model: str
    is_vllm: bool


class Fleet:
    """The endpoints of one run. Those that do not answer are left out, and asked again by the next ``gather``.

    A prompt belongs to the endpoint at its place, and to the next one that answers while that one does not.
    """

    def __init__(self, urls: Sequence[str]) -> None:
        self._urls = tuple(urls)
        self._alive: dict[str, Endpoint] = {}
        self._lost: dict[str, ServerGone] = {}
        self._left: list[Endpoint] = []  # not closed at once: other threads' requests may still come back through it
        self._lock = threading.Lock()

    @property
    def alive(self) -> tuple[Endpoint, ...]:
        """Those that answer, in the order of the config."""
        with self._lock:
            return tuple(self._alive[url] for url in self._urls if url in self._alive)

    def gather(self, adapter: tuple[str, Path] | None) -> None:
        """Ask every endpoint whether it is there, and give it the adapter (name, directory) where it has it not.

        Raises:
            RunStopped: none answers.
            UserError: one that answers refuses the adapter.
        """
        for url in self._urls:
            try:
                found = self._alive.get(url) or connect(url, alone=len(self._urls) == 1)
                names = _models(found)
                if adapter is not None and adapter[0] not in names:
                    _load_adapter(found, *adapter)
            except ServerGone as error:
                self._lose(url, error)
                continue
            with self._lock:
                back, self._alive[url] = self._lost.pop(url, None), found
            if back is not None:
                LOG.warning("generator.endpoints: %s answers again", url)
        self._some()

    def drop(self, adapter: str) -> None:
        """Take an adapter from every server that has it."""
        for endpoint in self.alive:
            try:
                if adapter in _models(endpoint):
                    _unload_adapter(endpoint, adapter)
            except ServerGone as error:
                self._lose(endpoint.url, error)

    def ask_each(self, call: Callable[[Endpoint], T]) -> list[tuple[str, T]]:
        """What every server says that answers, with its URL. RunStopped where none does."""
        found = []
        for endpoint in self.alive:
            try:
                found.append((endpoint.url, call(endpoint)))
            except ServerGone as error:
                self._lose(endpoint.url, error)
        self._some()
        return found

    def ask(self, prompt: Prompt, call: Callable[[Endpoint], T]) -> T:
        """What the prompt's endpoint says; where that one is gone, the next. RunStopped where none is left."""
        while True:
            self._some()
            place = int(prompt.id, 16) % len(self._urls)
            order = [*self._urls[place:], *self._urls[:place]]
            with self._lock:
                endpoint = next((self._alive[url] for url in order if url in self._alive), None)
            if endpoint is None:
                continue  # lost meanwhile by another thread
            try:
                return call(endpoint)
            except ServerGone as error:
                self._lose(endpoint.url, error)

    def close(self) -> None:
        """Close the connections."""
        for endpoint in (*self.alive, *self._left):
            endpoint.client.close()
        self._alive.clear()
        self._left.clear()

    def _lose(self, url: str, error: ServerGone) -> None:
        with self._lock:
            known, self._lost[url] = url in self._lost, error
            if url in self._alive:
                self._left.append(self._alive.pop(url))
            others = len(self._alive)
        if not known and len(self._urls) > 1:
            LOG.warning("%s; %s over", error, "1 other takes" if others == 1 else f"{others} others take")

    def _some(self) -> None:
        if not self._alive:
            why = next(iter(self._lost.values()), "generator.endpoints: no server")
            raise RunStopped(f"{why}; no other server is left: start them again (cyclealign serve)")


def connect(url: str, *, alone: bool = True) -> Endpoint:
    """A client of a server that answers. ``alone``: no other could take its requests over.

    Raises:
        UserError: it does not answer (ServerGone), or lists no model.
    """
    from openai import OpenAI

    key = os.environ.get(SERVER_KEY, "none")
    retries = RETRIES if alone else RETRIES_BESIDE_OTHERS
    client = OpenAI(base_url=url, api_key=key, max_retries=retries, timeout=SECONDS)
    if host_of(url) != host_of(OPENAI_URL):  # whose account OPENAI_ORG_ID names is none of another host's business
        client.organization = client.project = None
    with readable(url):
        models = list(client.models.list(timeout=SECONDS_TO_SAY_HELLO))
    if not models:
        raise UserError(f"generator.endpoints: {url} lists no model")
    return Endpoint(url, client, models[0].id, getattr(models[0], "owned_by", None) == "vllm")


def check_endpoints(urls: Sequence[str]) -> None:
    """UserError, naming the endpoint, where a server does not answer or lists no model."""
    for url in urls:
        connect(url).client.close()


@contextmanager
def readable(url: str, doing: str = "") -> Iterator[None]:
    """Turns the SDK's errors into one line that names the endpoint; ``doing``: what else than generating.

    A server that came back has forgotten its adapters: to generate with one, it says that there is no such model.
    """
    from openai import APIConnectionError, APIError, APIStatusError

    try:
        yield
    except APIConnectionError as error:
        raise ServerGone(f"generator.endpoints: no server answers at {url}") from error
    except APIError as error:
        text = f"generator.endpoints: {url}, {doing or 'generating'}: {one_line(str(error))}"
        broken = isinstance(error, APIStatusError) and (error.status_code >= 500 or error.status_code == 404)
        raise (ServerGone if broken and not doing else UserError)(text) from error


def _models(endpoint: Endpoint) -> list[str]:
    with readable(endpoint.url):
        return [model.id for model in endpoint.client.models.list(timeout=SECONDS_TO_SAY_HELLO)]


def _load_adapter(endpoint: Endpoint, name: str, path: Path) -> None:
    if not endpoint.is_vllm:
        raise UserError(
            f"generator.endpoints: {endpoint.url} is not a vLLM server: it cannot be given the trained adapter"
        )
    with readable(endpoint.url, "loading an adapter (needs --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=1)"):
        endpoint.client.post("/load_lora_adapter", body={"lora_name": name, "lora_path": str(path)}, cast_to=str)


def _unload_adapter(endpoint: Endpoint, name: str) -> None:
    with readable(endpoint.url, "unloading an adapter"):
        endpoint.client.post("/unload_lora_adapter", body={"lora_name": name}, cast_to=str)
