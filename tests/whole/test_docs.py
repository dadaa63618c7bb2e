"""The pages against the code and against each other: links, quoted messages, examples of data."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from links import ROOT, for_site, links, target_of
from messages import HOLE, messages, strings
from messages_page import KINDS, kind_of

from cyclealign.files.jsonl import write_jsonl
from cyclealign.files.labelled import load_labelled
from cyclealign.files.prompts import load_candidate_sets, load_prompts
from cyclealign.files.records import decode
from cyclealign.files.run_records import VerdictRecord
from cyclealign.judge.demonstration_files import load_demonstrations

PAGES = {p.relative_to(ROOT).as_posix(): p.read_text("utf-8") for p in (ROOT / "docs").glob("*.md")}
READ = PAGES | {name: (ROOT / name).read_text("utf-8") for name in ("README.md", "CONTRIBUTING.md")}
GENERATED = {"api.md", "commands.md", "config.md", "messages.md"}  # docs/generate/hooks.py, which needs mkdocs


def anchors(text: str) -> set[str]:
    """As GitHub and the site make them of headings."""
    headings = re.findall(r"^#+ (.*?)\s*$", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


@pytest.mark.parametrize("page", READ)
def test_every_link_leads_somewhere(page: str) -> None:
    for link in links(READ[page]):
        target = target_of(page, link)
        if target.removeprefix("docs/") in GENERATED:
            continue
        assert (ROOT / target).exists(), link
        if "#" in link and target.endswith(".md"):
            assert link.partition("#")[2] in anchors((ROOT / target).read_text("utf-8")), link


def test_links_out_of_the_docs_lead_to_the_site_s_own_copies() -> None:
    text = "[a](../evals/x.py) [b](judges.md#c) [d](https://e.f) `[g](../h)`\n```\n[i](../j)\n```\n"
    assert for_site("score.md", text).startswith("[a](files/evals/x.py) [b](judges.md#c) [d](https://e.f)")
    assert for_site("score.md", text).endswith("```\n[i](../j)\n```\n")
    assert for_site("files/README.md", "[a](docs/judges.md) [b](LICENSE)") == "[a](../judges.md) [b](LICENSE)"


def test_every_page_has_a_place_in_the_navigation() -> None:
    class Plain(yaml.SafeLoader):
        """mkdocs.yml names a function of Python, which only mkdocs calls."""

    Plain.add_multi_constructor("tag:yaml.org,2002:python/", lambda *_: None)
    nav = yaml.load((ROOT / "mkdocs.yml").read_text("utf-8"), Plain)["nav"]  # noqa: S506

    def pages(part: object) -> set[str]:
        if isinstance(part, str):
            return {part}
        below = part.values() if isinstance(part, dict) else part
        return {p for each in below for p in pages(each)} if isinstance(below, list) or below else set()

    assert pages(nav) == {p.removeprefix("docs/") for p in PAGES} | GENERATED | {"files/README.md"}


def test_every_message_has_a_kind_and_every_kind_a_section() -> None:
    found = list(messages())
    assert len(found) > 400
    assert {kind_of(m) for m in found} == set(KINDS.values())
    headings = re.findall(r"^## (.*)$", PAGES["docs/troubleshooting.md"], re.M)
    assert headings == list(dict.fromkeys(KINDS.values()))


def test_quoted_messages_are_in_the_code() -> None:
    def plain(text: str) -> str:
        return re.sub(f"{HOLE}+", HOLE, text)

    said = "\n".join(plain(text) for text in (*(m.text for m in messages()), *strings()))
    quoted = re.findall(r"^\| `(.*?)` \|", PAGES["docs/troubleshooting.md"], re.M)
    assert len(quoted) > 30
    assert [q for q in quoted if plain(q) not in said] == []


def test_the_examples_of_data_are_read(tmp_path: Path) -> None:
    doc = PAGES["docs/data.md"]
    blocks = dict(re.findall(r"^## ([\w ]+)\n\n```json\n(.*?)```", doc, re.M | re.S))
    files = {}
    for name, lines in blocks.items():
        files[name] = tmp_path / f"{name.replace(' ', '_')}.jsonl"
        write_jsonl(files[name], [yaml.safe_load(line) for line in lines.splitlines()])
    assert len(load_prompts(str(files["Prompts"]))) == 1
    labelled = files["Labels"]
    rows = labelled.read_text("utf-8").splitlines()
    for number, row in enumerate(rows):
        (tmp_path / f"{number}.jsonl").write_text(row + "\n", encoding="utf-8")
        assert len(load_labelled(str(tmp_path / f"{number}.jsonl"))) == 1
    sets = blocks["Candidate sets"].splitlines()
    for number, row in enumerate(sets):
        (tmp_path / f"s{number}.jsonl").write_text(row + "\n", encoding="utf-8")
        assert len(load_candidate_sets(tmp_path / f"s{number}.jsonl")[0].candidates) == 2
    assert len(load_demonstrations(files["Demonstrations"])) == 1
    verdicts = [decode(VerdictRecord, yaml.safe_load(line)).verdict for line in blocks["Verdicts"].splitlines()]
    assert [type(v).__name__ for v in verdicts] == ["Ranking", "Unranked"]
