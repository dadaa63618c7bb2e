"""What an API's base URL says of the host that it names. Standard library only."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

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
