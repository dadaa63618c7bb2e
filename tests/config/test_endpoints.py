"""Which host a base URL names, and whether it is this machine."""

from __future__ import annotations

import pytest

from cyclealign.config.endpoints import host_of, is_loopback


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
