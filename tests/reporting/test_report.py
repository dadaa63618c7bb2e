"""The report: what it shows of a run, whole or half there, and that nothing a model wrote becomes markup."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from fakes import Fuse, Killed, config_in, make_cycle
from hostile_run import HOSTILE, hostile_run
from report_page import Node, Page, every, page
from report_run import demonstration, hand_made_run, state

from cyclealign.files.jsonl import read_jsonl, write_jsonl
from cyclealign.files.records import write_record
from cyclealign.files.run_dir import RunDir
from cyclealign.reporting.headline import headline
from cyclealign.reporting.markup import CUT, Html, passage, tag
from cyclealign.reporting.page import render_report, write_report
from cyclealign.reporting.samples import even_choice


def test_what_is_not_markup_is_escaped() -> None:
    assert (
        tag("p", "<b>&\"'", title='"><script>') == '<p title="&quot;&gt;&lt;script&gt;">&lt;b&gt;&amp;&quot;&#x27;</p>'
    )
    assert tag("p", Html("<b>x</b>"), None, 1.5, 2) == "<p><b>x</b>1.52</p>"
    assert tag("p", "a\ud800b\x00c\x9bd\u202ee\r\nf\tg") == "<p>a\ufffdb\u2400c\ufffdd[U+202E]e\nf\tg</p>"


def test_nothing_that_a_model_wrote_becomes_markup(tmp_path: Path) -> None:
    root = page(hostile_run(tmp_path))
    elements = every(root)
    assert {e.name for e in elements}.isdisjoint({"script", "img", "iframe", "link", "object", "embed", "base", "form"})
    for element in elements:
        assert not any(name.startswith("on") for name in element.attributes)
        assert set(element.attributes).isdisjoint({"src", "srcset", "action", "data", "xlink:href", "style"})
        assert (element.attributes.get("href") or "#").startswith("#")
    shown = HOSTILE.replace("\x00", "\u2400").replace("\x1b", "\u241b")
    boxes = [e.text for e in elements if e.attributes.get("class") == "text"]
    assert sum(text.startswith(shown) for text in boxes) > 100  # candidates, both samples and rankings
    assert sum(text.endswith(shown) for text in boxes) >= 8  # prompts
    assert shown in root.all("header")[0].text


def test_the_page_asks_nothing_of_anyone(tmp_path: Path) -> None:
    run = hand_made_run(tmp_path)
    assert write_report(run) == run.report
    text = run.report.read_text(encoding="utf-8")
    root = Page(text).root
    (policy,) = [m for m in root.all("meta") if "http-equiv" in m.attributes]
    assert (policy.attributes["content"] or "").startswith("default-src 'none'; style-src 'unsafe-inline'")
    style = root.all("style")[0].text
    assert "url(" not in style
    assert "@import" not in style
    assert "://" not in text
    targets = {e.attributes["id"] for e in every(root) if "id" in e.attributes}
    assert {(a.attributes["href"] or "")[1:] for a in root.all("a")} <= targets


def test_a_long_candidate_is_cut_and_says_so(tmp_path: Path) -> None:
    run = hand_made_run(tmp_path)
    for file in (run.evaluation(2) / "candidates.jsonl", run.interaction(2).candidates):
        records = list(read_jsonl(file))
        for record in records:
            record["candidates"][0]["text"] = "x" * 20_000
        write_jsonl(file, records)
    text = render_report(run)
    assert text.count("cut: the first 4,000 of 20,000 characters") == 20 + 8
    assert "x" * CUT in text
    assert "x" * (CUT + 1) not in text
    assert len(text.encode()) < 2_000_000
    assert "cut:" not in passage("x" * CUT)


def test_a_lone_surrogate_does_not_break_the_file(tmp_path: Path) -> None:
    run = hand_made_run(tmp_path)
    file = run.evaluation(0) / "candidates.jsonl"
    file.write_text(file.read_text().replace("I would start", "\\ud83d I would start"))
    assert "\ufffd I would start" in write_report(run).read_text(encoding="utf-8")


# Samples


def test_before_and_after_are_the_first_reporting_prompts_side_by_side(tmp_path: Path) -> None:
    run = hand_made_run(tmp_path)
    (section,) = page(run).all("section", id="samples")
    articles = section.all("article")
    odd = run.eval_prompts()[1::2][:24]
    assert len(articles) == 20
    start, kept = ({r["prompt_id"]: r for r in read_jsonl(run.evaluation(n) / "candidates.jsonl")} for n in (0, 2))
    rewards = run.evaluations()
    for prompt, article in zip(odd, articles, strict=True):
        assert prompt.messages[-1]["content"] in article.text
        before, after = article.all("section")
        assert [n.text for n in before.all("div", class_="text")] == [c["text"] for c in start[prompt.id]["candidates"]]
        assert [n.text for n in after.all("div", class_="text")] == [c["text"] for c in kept[prompt.id]["candidates"]]
        assert after.all("h4")[0].text == f"kept model, mean reward {rewards[2].rewards[prompt.id]:.3f}"


def test_rankings_show_both_orders_side_by_side(tmp_path: Path) -> None:
    run = hand_made_run(tmp_path)
    (section,) = page(run).all("section", id="rankings")
    articles = section.all("article")
    assert [a.attributes["data-interaction"] for a in articles] == ["2"] * 8 + ["1"] * 8 + ["0"] * 8
    files = run.interaction(2)
    black = {r["prompt_id"]: [t[0] for t in r["tiers"]] for r in read_jsonl(files.black_box)}
    white = {r["prompt_id"]: r for r in read_jsonl(files.white_box)}
    agreed = {r["prompt_id"]: r for r in read_jsonl(files.agreement)}
    sets = {r["messages"][-1]["content"]: r for r in read_jsonl(files.candidates)}
    for article in articles[:8]:
        asked = article.all("div", class_="prompt")[0].all("div", class_="text")[-1].text
        item = sets[asked]
        i, texts = item["prompt_id"], {c["id"]: c["text"] for c in item["candidates"]}
        cards = article.all("div", class_="pair ranked")[0].all("section")
        assert [card.all("div", class_="text")[0].text for card in cards] == [texts[c] for c in black[i]]
        places = {c: n for n, tier in enumerate(white[i]["tiers"], start=1) for c in tier}
        assert [card.all("h4")[0].text for card in cards] == [
            f"{'ABCD'[int(c)]} · black box {n} · white box {places[c]} ({white[i]['scores'][c]:.3f})"
            + (" · agreed" if c in agreed[i]["ids"] else "")
            for n, c in enumerate(black[i], start=1)
        ]
        spelled = " > ".join("ABCD"[int(c)] for c in black[i])
        assert f"interaction 2 · black box {spelled} · white box " in article.all("p", class_="note")[0].text
        above = agreed[i]["corrected"] > 0
        expected = "settled" if agreed[i]["settled"] else "agreed" if above else "apart"
        assert article.attributes["data-outcome"] == expected


def test_samples_can_be_filtered_without_a_script(tmp_path: Path) -> None:
    run = hand_made_run(tmp_path)
    metrics = run.evaluations()[2]
    fallen = dict(metrics.rewards) | {run.eval_prompts()[n].id: -1.0 for n in (1, 5)}
    write_record(run.evaluation(2) / "metrics.json", replace(metrics, reward_by_prompt=fallen))
    root = page(run)
    style = root.all("style")[0].text
    for section in ("samples", "rankings"):
        (part,) = root.all("section", id=section)
        articles, boxes = part.all("article"), part.all("fieldset")
        assert boxes
        for box in boxes:
            buttons = [(label.all("input")[0], label.text) for label in box.all("label")]
            key = (buttons[0][0].attributes["name"] or "").removeprefix(f"{section}-")
            assert [b.attributes["value"] for b, _ in buttons if "checked" in b.attributes] == ["all"]
            for button, label in buttons:
                value = button.attributes["value"]
                own = [a for a in articles if value in ("all", a.attributes[f"data-{key}"])]
                assert label.endswith(f"({len(own)})")
                rule = f'#{section}:has(input[name="{section}-{key}"][value="{value}"]:checked)'
                assert (rule + f' article:not([data-{key}="{value}"])' in style) == (value != "all")


def test_shown_prompts_are_spread_over_the_outcomes() -> None:
    outcomes = dict(zip("abcdefgh", ["apart"] * 5 + ["settled", "agreed", "settled"], strict=True))
    assert even_choice(outcomes, 4) == ["a", "b", "f", "g"]
    assert even_choice(outcomes, 6) == ["a", "b", "c", "f", "g", "h"]
    assert even_choice(outcomes, 99) == list("abcdefgh")


def test_demonstrations_and_how_they_changed(tmp_path: Path) -> None:
    run = hand_made_run(tmp_path)
    static = [demonstration("static"), demonstration("static") | {"responses": ["x", "y"]}]
    learned = {n: demonstration(str(n)) | {"responses": [f"worse {n}", f"better {n}"]} for n in range(3)}
    write_jsonl(run.prompts / "demonstrations.jsonl", static)
    for n, own in enumerate(([0], [0, 1], [1, 2])):
        write_jsonl(run.interaction(n).demonstrations, [*static, *(learned[i] for i in own)])
    (section,) = page(run).all("section", id="demonstrations")
    assert "2 static, 2 from agreement, after interaction 2." in section.text
    rows = [[c.text for c in row.children if isinstance(c, Node)] for row in section.all("tbody")[0].all("tr")]
    assert rows == [["0", "1", "1", "0"], ["1", "2", "1", "0"], ["2", "2", "1", "1"]]
    steps = {d.all("summary")[0].text: d for d in section.all("details")}
    last = steps["interaction 2: 1 added, 1 dropped"]
    assert [n.text for n in last.all("td")] == ["better 2", "worse 2", "better 0", "worse 0"]
    assert [n.text for n in steps["the latest pool: 2 from agreement"].all("td")][::2] == ["better 1", "better 2"]
    assert len(steps["static: 2"].all("article")) == 2


# Runs that are only half there


@pytest.mark.parametrize("steps", [0, 1, 3, 5, 7, 11, 14, 16, 20, 27, 35, 50, 70, 90, 110, 130])
def test_a_run_killed_anywhere_has_a_page(tmp_path: Path, steps: int) -> None:
    cycle = make_cycle(config_in(tmp_path, drift={"max_length_ratio": 1.5}), fuse=Fuse(steps))
    try:
        cycle.run()
    except Killed:
        assert headline(cycle.run_dir).status.startswith(("ended by Killed (stage ", "not finished: stage "))
    root = Page(write_report(cycle.run_dir).read_text(encoding="utf-8")).root
    assert root.all("h1")[0].text == cycle.run_dir.path.name


@pytest.mark.parametrize(
    "missing",
    ["best", "evaluations", "evaluations/0000", "evaluations/0002", "interactions", "ledger.sqlite", "timings.jsonl",
     "state.json", "prompts", "config.yaml", "environment.json", "interactions/0002/white_box.jsonl",
     "interactions/0002/candidates.jsonl", "interactions/0000/train.jsonl", "interactions/0001/agreement.jsonl"],
)  # fmt: skip
def test_whatever_is_missing_the_rest_is_shown(tmp_path: Path, missing: str) -> None:
    run = hand_made_run(tmp_path)
    path = run.path / missing
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    root = page(run)
    assert len(root.all("section")) >= 4


def test_an_empty_directory_has_a_page(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    assert headline(run).rows == ()
    text = page(run).text
    assert "not started" in text
    assert "There is no finished evaluation" in text


def test_before_the_end_the_latest_evaluation_stands_against_the_start(tmp_path: Path) -> None:
    run = hand_made_run(tmp_path)
    shutil.rmtree(run.best)
    write_record(run.state_file, state("train", 2))
    figures = headline(run)
    assert (figures.label, figures.compared, figures.kept) == ("latest", 3, None)
    assert figures.status == "not finished: stage train, interaction 2, last sign of life 2023-11-14 22:13 UTC"
    assert figures.rows[1].kept == 2.15


def test_a_kept_model_without_an_evaluation_has_no_figures_of_another_one(tmp_path: Path) -> None:
    run = hand_made_run(tmp_path)
    shutil.rmtree(run.evaluation(2))
    figures = headline(run)
    assert figures.compared is None
    assert {row.kept for row in figures.rows} == {None}
    assert "The kept model has not been evaluated." in page(run).text


def test_a_ledger_that_cannot_be_read_is_said_so(tmp_path: Path) -> None:
    run = hand_made_run(tmp_path)
    for extra in tmp_path.glob("ledger.sqlite*"):
        extra.unlink()
    run.ledger.write_bytes(b"not a database" * 100)
    assert "cannot be" in headline(run).spend
    assert page(run).all("h1")


def test_one_bad_evaluation_prompt_reports_on_itself(tmp_path: Path) -> None:
    run = hand_made_run(tmp_path, n_eval=2)
    write_jsonl(run.prompts / "eval.jsonl", list(read_jsonl(run.prompts / "eval.jsonl"))[:1])
    for n, metrics in run.evaluations().items():
        first = next(iter(metrics.rewards.items()))
        write_record(run.evaluation(n) / "metrics.json", replace(metrics, reward_by_prompt=dict([first])))
    reward = headline(run).rows[0]
    assert reward.change == pytest.approx(reward.kept - reward.start)
    assert reward.low is None  # one prompt has no interval
