"""Several generation servers, one of which goes: stand-ins for vLLM's own, in this process."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_vllm import FakeVllm
from tiny_policy import save_tiny, tiny_config

from cyclealign.generation import endpoint
from cyclealign.generation.openai_server import ServerGenerator, canary_difference
from cyclealign.types import CanarySample, PolicyVersion, Prompt, RunStopped, UserError

PROMPTS = [Prompt(({"role": "user", "content": text},)) for text in "abcdefghijkl"]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("start"))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapter")
    (folder / "adapter_config.json").write_text('{"target_modules": ["q_proj"]}')
    (folder / "adapter_model.safetensors").write_bytes(b"weights")
    return folder


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a server that is gone is asked again for is not what these tests are about."""
    monkeypatch.setattr(endpoint, "RETRIES", 0)
    monkeypatch.setattr(endpoint, "RETRIES_BESIDE_OTHERS", 0)


@pytest.fixture
def generator(start: Path) -> Iterator[Callable[..., ServerGenerator]]:
    """Of the servers that it is given; closed at the end."""
    made: list[ServerGenerator] = []

    def make(*servers: FakeVllm) -> ServerGenerator:
        made.append(of_servers(start, *servers))
        return made[-1]

    yield make
    for one in made:
        one.close()


def of_servers(start: Path, *servers: FakeVllm) -> ServerGenerator:
    values = {"backend": "server", "candidates": 3, "endpoints": [s.url for s in servers]}
    config = tiny_config(start, generator=values)
    return ServerGenerator(config.generator, config.policy)


def texts(found: Any) -> dict[str, Any]:
    return {s.prompt.id: ([(c.id, c.text) for c in s.candidates], s.drawn) for s in found}


@pytest.mark.parametrize("killed", [0, 1])
def test_a_chunk_is_the_same_when_either_server_dies_in_its_middle(
    generator: Callable[..., ServerGenerator], start: Path, weights: Path, killed: int, caplog: pytest.LogCaptureFixture
) -> None:
    version = PolicyVersion("t-v0001", str(start), weights)
    with FakeVllm() as one, FakeVllm() as two:
        whole = texts(generator(one, two).generate(PROMPTS, version, seed=3))
        assert one.completions
        assert two.completions
    with FakeVllm(delay=0.05) as one, FakeVllm(delay=0.05) as two, caplog.at_level(logging.WARNING):
        under = generator(one, two)
        sets = under.generate(PROMPTS, version, seed=3)
        first = next(sets)
        dying, other = ((one, two), (two, one))[killed]
        dying.die()
        found = texts([first, *sets])
        assert texts(under.generate(PROMPTS, version, seed=3)) == found  # and the next chunk knows
        assert not [b for b in other.completions if b["model"] not in other.adapters]
    assert found == whole
    lines = [r.getMessage() for r in caplog.records]
    assert lines == [f"generator.endpoints: no server answers at {dying.url}; 1 other takes over"]


def test_a_server_that_comes_back_is_given_the_adapter_again(
    generator: Callable[..., ServerGenerator], start: Path, weights: Path, caplog: pytest.LogCaptureFixture
) -> None:
    version = PolicyVersion("t-v0001", str(start), weights)
    with FakeVllm() as one, FakeVllm() as two:
        under = generator(one, two)
        before = texts(under.generate(PROMPTS, version, seed=3))
        # It was away and is back between two requests, with nothing loaded.
        two.adapters.clear()
        assert texts(under.generate(PROMPTS, version, seed=3)) == before
        assert list(two.adapters) == list(one.adapters)
        port = two.server.server_address[1]
        two.die()
        assert texts(under.generate(PROMPTS, version, seed=3)) == before
        with FakeVllm(port=port) as again, caplog.at_level(logging.WARNING):
            assert texts(under.generate(PROMPTS, version, seed=3)) == before
            assert again.completions
            assert list(again.adapters) == list(one.adapters)
        assert caplog.records[-1].getMessage() == f"generator.endpoints: {two.url} answers again"


def test_when_none_is_left_the_run_stops_and_can_be_resumed(
    generator: Callable[..., ServerGenerator], start: Path
) -> None:
    version = PolicyVersion("t-start", str(start))
    with FakeVllm(delay=0.05) as one, FakeVllm(delay=0.05) as two:
        under = generator(one, two)
        sets = under.generate(PROMPTS, version, seed=3)
        next(sets)
        one.die()
        two.die()
        with pytest.raises(RunStopped, match=r"no server answers at http.*; no other server is left: start them again"):
            list(sets)
    with pytest.raises(UserError, match="no server answers at"):
        endpoint.check_endpoints([one.url])


def test_a_stale_adapter_is_caught_on_whichever_server(
    generator: Callable[..., ServerGenerator], start: Path, weights: Path, tmp_path: Path
) -> None:
    first = PolicyVersion("t-start", str(start))
    trained = PolicyVersion("t-v0001", str(start), weights)
    for stale in (0, 1):
        with FakeVllm(stale=stale == 0) as one, FakeVllm(stale=stale == 1) as two:
            under = generator(one, two)
            assert under.canary(PROMPTS[0], first).token_ids == (5, 6, 7)
            with pytest.raises(RunStopped, match=r"differ by \d\.\d+ nats a token .*does not serve t-v0001"):
                under.canary(PROMPTS[0], trained)
    with FakeVllm() as one, FakeVllm() as two:
        under = generator(one, two)
        assert under.canary(PROMPTS[0], trained) != under.canary(PROMPTS[0], first)
        # Another run of the same name has another adapter: it is never served by the name's old one.
        other = tmp_path / "other"
        shutil.copytree(weights, other)
        (other / "adapter_model.safetensors").write_bytes(b"other weights")
        again = under.canary(PROMPTS[0], PolicyVersion("t-v0001", str(start), other))
        assert again != under.canary(PROMPTS[0], trained)


def test_greedy_continuations_are_compared_up_to_where_they_part() -> None:
    def sample(tokens: tuple[int, ...], logprobs: tuple[float, ...]) -> CanarySample:
        return CanarySample(PROMPTS[0], tokens, logprobs)

    one = sample((1, 2, 3), (-0.5, -0.7, -0.1))
    assert canary_difference(one, one) == 0
    assert canary_difference(one, sample((1, 2, 3), (-0.5, -0.7, -0.4))) == pytest.approx(0.1)
    # A near tie: what comes after it says nothing of the weights.
    assert canary_difference(one, sample((1, 9, 8), (-0.5, -0.71, -5.0))) == pytest.approx(0.005)
    assert canary_difference(one, sample((9, 2, 3), (-2.5, -0.7, -0.1))) == pytest.approx(2.0)
