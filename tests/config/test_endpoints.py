"""Which host a base URL names, and whether it is this machine."""

from __future__ import annotations

import pytest

from cyclealign.config.endpoints import address_of, host_of, in_the_clear, is_loopback


@pytest.mark.parametrize(
    ("url", "host", "here"),
    [
        (None, "api.openai.com", False),
        ("", "api.openai.com", False),
        ("http://127.0.0.1:8000/v1", "127.0.0.1", True),
        ("http://localhost:8000", "localhost", True),
        ("http://[::1]:8000/v1", "::1", True),
        ("https://localhost.example.com/v1", "localhost.example.com", False),
        ("http://127.0.0.1.example.com", "127.0.0.1.example.com", False),
        ("http://10.0.0.1/v1", "10.0.0.1", False),
    ],
)
def test_host_and_loopback(url: str | None, host: str, here: bool) -> None:
    assert host_of(url) == host
    assert is_loopback(host_of(url)) is here


@pytest.mark.parametrize(
    ("url", "address"),
    [
        (None, ("https://api.openai.com/v1", {})),
        ("http://127.0.0.1:8000/v1", ("http://127.0.0.1:8000/v1", {})),
        ("https://x.example/v1?api-version=1&b=%20c", ("https://x.example/v1", {"api-version": "1", "b": " c"})),
        ("https://[::1]:8/v1/?a=1#top", ("https://[::1]:8/v1/", {"a": "1"})),
    ],
)
def test_the_query_of_an_address_goes_with_each_call(url: str | None, address: tuple[str, dict[str, str]]) -> None:
    assert address_of(url) == address


@pytest.mark.parametrize(
    ("url", "clear"),
    [
        (None, False),
        ("http://127.0.0.1:8/v1", False),
        ("http://localhost/v1", False),
        ("http://[::1]:8/v1", False),
        ("http://10.0.0.2:8000/v1", True),
        ("http://judge.example/v1", True),
        ("HTTP://judge.example/v1", True),
        ("https://judge.example/v1", False),
    ],
)
def test_plain_http_to_another_machine_is_in_the_clear(url: str | None, clear: bool) -> None:
    assert in_the_clear(url) == clear
