"""What an API's base URL says of the host that it names. Standard library only."""

from __future__ import annotations

import ipaddress
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
