"""What an API's base URL says of the host that it names. Standard library only."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import parse_qsl, urlsplit, urlunsplit

OPENAI_URL = "https://api.openai.com/v1"
SERVER_KEY = "VLLM_API_KEY"  # the variable with the key of generation servers that want one


def host_of(base_url: str | None) -> str:
    """Host name of an API base URL; the SDK's default where none is given."""
    url = base_url or OPENAI_URL
    return urlsplit(url).hostname or url


def is_loopback(host: str) -> bool:
    """Whether a host name is this machine."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def judge_names(asked: Sequence[tuple[str | None, str]]) -> tuple[str, ...]:
    """A name for each (base URL, model) that is asked: the model, with its host, or its URL, where others have it."""
    models = [model for _, model in asked]
    hosts = [(urlsplit(url or OPENAI_URL).netloc, model) for url, model in asked]
    return tuple(
        model
        if models.count(model) == 1
        else f"{model} at {url or OPENAI_URL}"
        if hosts.count(host) > 1
        else f"{model} at {host[0]}"
        for (url, model), host in zip(asked, hosts, strict=True)
    )


class Address(NamedTuple):
    """A base URL as it is called: without its query, whose values go with each call; in Azure's manner, say."""

    url: str
    query: dict[str, str]


def address_of(base_url: str | None) -> Address:
    """Where calls go."""
    parts = urlsplit(base_url or OPENAI_URL)
    return Address(urlunsplit(parts._replace(query="", fragment="")), dict(parse_qsl(parts.query)))


def in_the_clear(base_url: str | None) -> bool:
    """Whether what is sent there can be read on the way: plain http to another machine."""
    return urlsplit(base_url or OPENAI_URL).scheme == "http" and not is_loopback(host_of(base_url))


def named_like_a_key(variable: str) -> str:
    """The name itself. ValueError where any other variable is named: it could be a secret of something else, that a
    foreign config sends to its own host."""
    if not variable.endswith("_API_KEY"):
        raise ValueError(f"must name an environment variable that ends in _API_KEY, got {variable!r}")
    return variable


_SECRET = re.compile(r"(?:\A|[_-])(?:key|token|secret|sig|signature|password|auth)\Z", re.IGNORECASE)


def check_url(key: str, url: str) -> None:
    """ValueError unless ``url`` is http(s) with a host and without a password (it is written to the run directory);
    ``key``: what the message begins with, empty where its section says so."""
    key = f"{key}: " if key else ""
    try:
        parts = urlsplit(url)
        port_is_fine = parts.port is None or parts.port > 0
    except ValueError:
        port_is_fine = False
    if not port_is_fine or parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{key}expected a URL like http://127.0.0.1:8000/v1, got {url!r}")
    if parts.username or parts.password:
        raise ValueError(f"{key}a user name or password in it would be written to the run directory; use api_key_env")
    secret = [name for name, _ in parse_qsl(parts.query) if _SECRET.search(name)]
    if secret:
        raise ValueError(f"{key}{secret[0]} in it would be written to the run directory; use api_key_env")
