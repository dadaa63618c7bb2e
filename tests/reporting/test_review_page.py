"""The page to mark lists by hand: whole, safe against what models wrote, and it saves what was clicked."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import replace
from pathlib import Path
from time import monotonic, sleep

import pytest
from browser import chromium, missing
from report_page import Page

from cyclealign.evaluation.disagreement import Contested
from cyclealign.files.jsonl import read_jsonl, write_jsonl
from cyclealign.reporting.review_page import render_review, write_review
from cyclealign.types import Candidate, CandidateSet, Prompt, Ranking

HARM = "</script><script>window.harm = 1</script><img src=x onerror='window.harm = 2'>\x7f\u202e\x00 \"'"


def contested(n: int, *texts: str) -> Contested:
    prompt = Prompt(({"role": "user", "content": f"question {n} {HARM}"},))
    item = CandidateSet(prompt, tuple(Candidate(str(i), t) for i, t in enumerate(texts, start=1)))
    ids = list(item.ids)
    given = {"judge": Ranking.from_order(prompt.id, ids), "policy": Ranking.from_order(prompt.id, ids[::-1])}
    return Contested(item=item, rankings=given)


LISTS = [contested(0, HARM, "second", "third"), contested(1, "x" * 9000, f"two {HARM}")]


def test_the_page_is_whole_and_lets_no_script_run_but_its_own() -> None:
    text = render_review(LISTS, "runs/<b>")
    root = Page(text).root
    (script,) = root.all("script")
    (policy,) = root.all("meta", **{"http-equiv": "Content-Security-Policy"})
    digest = base64.b64encode(hashlib.sha256(script.text.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in str(policy.attributes["content"])
    assert "unsafe-inline" not in str(policy.attributes["content"]).replace("style-src 'unsafe-inline'", "")
    assert root.all("img") == []
    articles = root.all("article")
    assert [len(a.all("input")) for a in articles] == [9, 4]
    shown = articles[1].all("div", class_="text")
    assert shown[1].text == "x" * 9000  # nobody can judge what was cut
    held = [json.loads(str(a.attributes["data-list"])) for a in articles]
    assert held == [one.question() for one in LISTS]


def test_people_see_what_a_judge_goes_by_and_it_comes_back_with_their_marks() -> None:
    plain = contested(0, "first", "second")
    prompt = replace(plain.item.prompt, rubric=f"Be short. {HARM}", reference="two words")
    told = replace(plain, item=replace(plain.item, prompt=prompt))
    (article,) = Page(render_review([told], "x")).root.all("article")
    shown = [" ".join(d.text.split()) for d in article.all("div", class_="prompt")]
    assert shown[1].startswith("rubricBe short. </script>")
    assert shown[2] == "referencetwo words"
    held = json.loads(str(article.attributes["data-list"]))
    assert (held["rubric"], held["reference"]) == (prompt.rubric, prompt.reference)
    assert held == told.question()
    assert not {"rubric", "reference"} & plain.question().keys()


def test_the_file_holds_every_character(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "review.jsonl", [one.record() for one in LISTS])
    rows = list(read_jsonl(tmp_path / "review.jsonl"))
    assert [row["candidates"] for row in rows] == [one.question()["candidates"] for one in LISTS]
    assert rows[0]["disagreement"] == 1.0
    assert rows[0]["rankings"] == {"judge": [["1"], ["2"], ["3"]], "policy": [["3"], ["2"], ["1"]]}


@pytest.mark.slow
@pytest.mark.skipif(missing() is not None, reason=str(missing()))
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_what_is_clicked_is_what_is_saved(tmp_path: Path) -> None:
    file = write_review(tmp_path / "review.html", LISTS, "runs/x")
    with chromium() as browser:
        browser.driver.execute_cdp_cmd(
            "Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path / "saved")}
        )
        browser.open(file)
        assert browser.said() == []
        assert browser.run("window.harm === undefined && document.images.length === 0")
        assert browser.run("marked()") == ""
        for name, place in (("list-0-1", 2), ("list-0-2", 1), ("list-0-3", 2), ("list-1-1", 1)):
            browser.driver.find_element("css selector", f'input[name="{name}"][value="{place}"]').click()
        assert browser.run("document.getElementById('count').textContent") == "1 of 2 lists marked"
        (row,) = [json.loads(line) for line in browser.run("marked()").splitlines()]
        assert row == LISTS[0].question() | {"tiers": [["2"], ["1", "3"]]}
        browser.open(file)  # marks are kept
        assert browser.run("document.getElementById('count').textContent") == "1 of 2 lists marked"
        browser.driver.find_element("id", "save").click()
        until = monotonic() + 20
        while not (saved := list(tmp_path.glob("saved/*.jsonl"))) and monotonic() < until:
            sleep(0.1)
        assert [list(read_jsonl(f)) for f in saved] == [[row]]
        assert browser.said() == []
