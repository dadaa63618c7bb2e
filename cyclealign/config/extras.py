"""Packages that only some of what we do needs: they come with an extra of ours."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

from cyclealign.files.environment import own_requirements
from cyclealign.types import UserError

if TYPE_CHECKING:
    from packaging.specifiers import SpecifierSet


def wanted_version(package: str, *, extra: str) -> SpecifierSet | None:
    """The versions of a package that an extra of ours asks for; None where cyclealign is not installed, or no extra of
    that name asks for it."""
    for asked in own_requirements():
        if asked.name == package and asked.marker is not None and asked.marker.evaluate({"extra": extra}):
            return asked.specifier
    return None


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
