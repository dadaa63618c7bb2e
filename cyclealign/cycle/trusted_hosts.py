"""Which hosts this user has sent which key to: a run directory from elsewhere must not choose a new one."""

from __future__ import annotations

from cyclealign.config.endpoints import host_of, is_loopback
from cyclealign.files.user_state import Agreed
from cyclealign.types import UserError

HOSTS = "hosts.json"


def remember_host(base_url: str | None, key_env: str) -> None:
    """The user started a run, or resumed one with --trust-host: this key may go to this host from now on."""
    host = host_of(base_url)
    if not is_loopback(host):
        Agreed(HOSTS).add(host, key_env)


def check_host(base_url: str | None, key_env: str) -> None:
    """UserError unless the host is this machine, or this user has used it with this key before."""
    host = host_of(base_url)
    if not is_loopback(host) and key_env not in Agreed(HOSTS).names(host):
        raise UserError(
            f"this run would send ${key_env} to {host}, where you have not sent it before;"
            " if you trust that host, resume with --trust-host"
        )
