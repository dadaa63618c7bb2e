"""What an installation brings: packages and bytes on disk, of the base and on top of it for each extra.

    python benchmarks/install_size.py [--out benchmarks/results/install_size.json]

From the metadata of the environment that runs it: what an extra asks for, and what that asks for in turn. A package
that is not installed here is named and counts nothing.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from cyclealign.files.environment import environment
from cyclealign.files.records import encode


@dataclass(frozen=True, kw_only=True)
class Brought:
    """By an extra, beyond what the base brings. largest: megabytes of the five largest packages."""

    extra: str
    packages: int
    megabytes: float
    largest: dict[str, float]
    missing: tuple[str, ...]


def asked_by(name: str, extras: frozenset[str]) -> list[Requirement]:
    try:
        lines = metadata.requires(name) or []
    except metadata.PackageNotFoundError:
        return []
    wanted = [Requirement(line) for line in lines]
    return [r for r in wanted if r.marker is None or any(r.marker.evaluate({"extra": e}) for e in extras | {""})]


def closure(name: str, extra: str) -> set[str]:
    """Names of all packages that cyclealign with an extra asks for, itself left out."""
    found: set[str] = set()
    seen: set[tuple[str, frozenset[str]]] = set()
    left = [(canonicalize_name(name), frozenset([extra] if extra else []))]
    while left:
        one = left.pop()
        if one in seen:
            continue
        seen.add(one)
        for requirement in asked_by(*one):
            package = canonicalize_name(requirement.name)
            found.add(package)
            left.append((package, frozenset(requirement.extras)))
    return found - {canonicalize_name(name)}


def megabytes(name: str) -> float | None:
    """Of the files that its record names; None where it is not installed."""
    try:
        files = metadata.files(name) or []
    except metadata.PackageNotFoundError:
        return None
    return sum(f.size or 0 for f in files) / 2**20


def brought(extra: str, base: set[str]) -> Brought:
    sizes = {name: megabytes(name) for name in closure("cyclealign", extra) - base}
    there = {name: size for name, size in sizes.items() if size is not None}
    largest = sorted(there, key=lambda name: -there[name])[:5]
    return Brought(
        extra=extra or "(none)",
        packages=len(there),
        megabytes=round(sum(there.values()), 1),
        largest={name: round(there[name], 1) for name in largest},
        missing=tuple(sorted(name for name, size in sizes.items() if size is None)),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/install_size.json"))
    out = parser.parse_args().out
    base, extras = closure("cyclealign", ""), metadata.metadata("cyclealign").get_all("Provides-Extra", [])
    found = [brought(extra, base if extra else set()) for extra in ("", *extras)]
    for row in found:
        absent = f", {len(row.missing)} not installed"
        print(f"{row.extra:12} {row.packages:4} packages{absent} {row.megabytes:9.1f} MB  {row.largest}")
    result = {"extras": [asdict(row) for row in found], "environment": encode(environment())}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
