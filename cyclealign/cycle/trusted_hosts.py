"""Which hosts this user has sent which key to: a run directory from elsewhere must not choose a new one."""

from __future__ import annotations

import os
from pathlib import Path

from cyclealign.config.endpoints import host_of, is_loopback
from cyclealign.files.jsonl import read_json, write_json
from cyclealign.types import UserError


def _file() -> Path:
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "cyclealign" / "hosts.json"


def _known() -> dict[str, list[str]]:
    known = read_json(_file()) if _file().exists() else {}
    return {host: names for host, names in known.items() if isinstance(names, list)}


def remember_host(base_url: str | None, key_env: str) -> None:
    """The user started a run, or resumed one with --trust-host: this key may go to this host from now on."""
    host = host_of(base_url)
    known = _known()
    if is_loopback(host) or key_env in known.get(host, []):
        return
    write_json(_file(), known | {host: sorted([*known.get(host, []), key_env])})


def check_host(base_url: str | None, key_env: str) -> None:
    """UserError unless the host is this machine, or this user has used it with this key before."""
    host = host_of(base_url)
    if not is_loopback(host) and key_env not in _known().get(host, []):
        raise UserError(
            f"this run would send ${key_env} to {host}, where you have not sent it before;"
            " if you trust that host, resume with --trust-host"
        )
