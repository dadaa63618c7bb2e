"""The key that goes to a judge, and to which judge it may go."""

from __future__ import annotations

import os

from cyclealign.config.black_box import BlackBoxConfig
from cyclealign.config.endpoints import host_of, in_the_clear, is_loopback
from cyclealign.types import UserError


def api_key(config: BlackBoxConfig, endpoint: str) -> str:
    """The key from the environment; a server on this machine needs none.

    Raises UserError where it is missing, or would go to another machine in the clear.
    """
    key = os.environ.get(config.api_key_env, "").strip()
    if key and not (key.isascii() and key.isprintable()):
        raise UserError(f"${config.api_key_env}: holds characters that no key has; set it again")
    if key and in_the_clear(endpoint) and not config.plain_http:
        raise UserError(
            f"black_box.base_url: {endpoint} would get the key in ${config.api_key_env} over plain http, which all on"
            " the way can read; use https, or set black_box.plain_http=true where the network is your own"
        )
    if key or is_loopback(host_of(endpoint)):
        return key
    raise UserError(
        f"${config.api_key_env}: not set; {endpoint} needs a key (black_box.api_key_env names its variable)"
    )
