"""Packages that only some of what we do needs: they come with an extra of ours."""

from __future__ import annotations

import importlib.util

from cyclealign.types import UserError


def require_extra(module: str, extra: str, needed_by: str) -> None:
    """Check that a module is installed, without importing it.

    Args:
        extra: of ours, that brings it (``retrieval``, ``eval``, ...).
        needed_by: what the error begins with: a command, an option or a config key.

    Raises:
        UserError: it is not; names the extra to install.
    """
    if importlib.util.find_spec(module) is None:
        package = module.replace("_", "-")
        raise UserError(f"{needed_by} needs the package {package}: pip install 'cyclealign[{extra}]'")
