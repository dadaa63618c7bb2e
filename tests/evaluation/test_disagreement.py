"""The lists that are disputed most, of a run and of results, by value; and back from what people mark."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from report_run import CONFIG

from cyclealign.cli.main import main
from cyclealign.evaluation.disagreement import most_contested
from cyclealign.evaluation.result import Item, item_key, make_result, read_result, write_result
from cyclealign.evaluation.statistics import Figures
from cyclealign.files.jsonl import read_jsonl, write_jsonl
from cyclealign.files.labelled import load_labelled
from cyclealign.files.run_dir import RunDir
from cyclealign.files.run_records import set_record, verdict_record
from cyclealign.judge.demonstration_files import load_demonstrations
from cyclealign.types import Candidate, CandidateSet, Prompt, Ranking, UserError

ABCD = ("a", "b", "c", "d")


def chat(n: int) -> Prompt:
    """Two turns before the last: a result's item alone could not name this prompt."""
    return Prompt(
        (
            {"role": "user", "content": f"hello {n}"},
            {"role": "assistant", "content": "yes?"},
            {"role": "user", "content": "why?"},
        )
    )


def listed(n: int) -> CandidateSet:
    return CandidateSet(chat(n), tuple(Candidate(i, f"reply {i} to {n}") for i in ABCD))


def order(n: int, ids: str, **more: Any) -> Ranking:
    return Ranking.from_order(chat(n).id, ids, **more)


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """Of lists 0 to 4 judge and policy have 0, 1, 3 and 6 of 6 pairs otherwise, and 4 disagrees within the judge."""
    made = RunDir(tmp_path / "run")
    made.create(CONFIG.format(name="r"))
    files = made.interaction(0)
    files.path.mkdir(parents=True)
    black = [order(0, "abcd"), order(1, "abcd"), order(2, "abcd"), order(3, "abcd")]
    black.append(order(4, "abcd", passes=(tuple("abcd"), tuple("badc"))))  # 2 of 6
    white = [order(0, "abcd"), order(1, "bacd"), order(2, "dabc"), order(3, "dcba"), order(4, "abcd")]
    write_jsonl(files.candidates, [set_record(listed(n)) for n in range(5)])
    write_jsonl(files.black_box, [verdict_record(v) for v in black])
    write_jsonl(files.white_box, [verdict_record(v) for v in white])
    return made


def test_of_a_run_the_lists_come_by_the_share_of_pairs_ordered_otherwise(run: RunDir) -> None:
    found = most_contested(run.path, 50)
    number = {chat(n).id: n for n in range(5)}
    assert [number[c.item.prompt.id] for c in found] == [3, 2, 4, 1]  # 0 is not disputed
    assert [c.furthest[0] for c in found] == pytest.approx([1.0, 3 / 6, 2 / 6, 1 / 6])
    assert [c.furthest[1] for c in found] == [("judge", "policy")] * 2 + [("pass 1", "pass 2"), ("judge", "policy")]
    assert most_contested(run.path, 2) == found[:2]


def test_names_and_places_of_the_candidates_say_nothing(run: RunDir) -> None:
    firsts = []
    for one in most_contested(run.path, 50):
        assert {c.id for c in one.item.candidates} == {"1", "2", "3", "4"}
        best = one.rankings["judge"].order[0]
        assert one.item.text(best).startswith("reply a")
        firsts.append(best)
    assert len(set(firsts)) > 1


def test_of_one_prompt_in_several_interactions_the_most_disputed_list_is_shown(run: RunDir) -> None:
    files = run.interaction(1)
    files.path.mkdir(parents=True)
    write_jsonl(files.candidates, [set_record(listed(1))])
    write_jsonl(files.black_box, [verdict_record(order(1, "abcd"))])
    write_jsonl(files.white_box, [verdict_record(order(1, "dcba"))])
    found = [c for c in most_contested(run.path, 50) if c.item.prompt.id == chat(1).id]
    assert [c.furthest[0] for c in found] == [1.0]


def graded(n: int, *grades: float) -> dict[str, Any]:
    rows = zip(listed(n).candidates, grades, strict=False)
    candidates = [{"id": c.id, "text": c.text, "grade": g} for c, g in rows]
    return {"messages": list(chat(n).messages), "candidates": candidates}


@pytest.fixture
def result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """``eval ranker`` of recorded verdicts: as labelled, one pair otherwise, reversed, and a tie."""
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "data.jsonl", [graded(n, 4, 3, 2, 1) for n in range(4)])
    verdicts = [["a", "b", "c", "d"], ["b", "a", "c", "d"], ["d", "c", "b", "a"]]
    tiers = [*([[i] for i in v] for v in verdicts), [["a", "b"], ["c"], ["d"]]]
    rows = [{**graded(n, 0, 0, 0, 0), "tiers": given} for n, given in enumerate(tiers)]
    write_jsonl(tmp_path / "judge.jsonl", rows)
    assert main(["eval", "ranker", "data.jsonl", "--ranker", "replay:judge.jsonl", "--out", "r.json"]) == 0
    return tmp_path / "r.json"


def test_of_a_result_judge_and_labels_are_compared_over_the_whole_chat(result: Path, tmp_path: Path) -> None:
    found = most_contested(result, 50)
    assert [c.item.prompt.id for c in found] == [chat(2).id, chat(1).id, chat(3).id]
    tau_tied = 5 / (6 * 5) ** 0.5
    assert [c.furthest[0] for c in found] == pytest.approx([1.0, 1 / 6, (1 - tau_tied) / 2])
    (tmp_path / "data.jsonl").rename(tmp_path / "moved.jsonl")
    with pytest.raises(UserError, match=r"data\.jsonl"):
        most_contested(result, 50)
    assert most_contested(result, 50, data="moved.jsonl") == found
    write_jsonl(tmp_path / "other.jsonl", [graded(9, 2, 1)])
    with pytest.raises(UserError, match="none of its lists is in other"):
        most_contested(result, 50, data="other.jsonl")


def test_what_is_marked_comes_back_as_demonstrations_verdicts_and_labels(
    result: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demos", "review", str(result), "--most", "2", "--out", "review.jsonl"]) == 0
    assert "2 lists" in capsys.readouterr().out
    rows = list(read_jsonl(tmp_path / "review.jsonl"))
    assert [row["disagreement"] for row in rows] == [1.0, 0.1667]
    assert rows[0]["between"] == ["judge", "labels"]
    assert [row["messages"] for row in rows] == [list(chat(n).messages) for n in (2, 1)]
    # People say: b, then a and c alike, then d.
    for row in rows:
        ids = {c["text"].split()[1]: c["id"] for c in row["candidates"]}
        row["tiers"] = [[ids["b"]], [ids["a"], ids["c"]], [ids["d"]]]
    write_jsonl(tmp_path / "marked.jsonl", rows)
    # Verdicts: people against the labels. In both lists the best by label is not their first.
    assert main(["eval", "ranker", "data.jsonl", "--ranker", "replay:marked.jsonl", "--out", "people.json"]) == 0
    people = [i.tiers for i in read_result(tmp_path / "people.json").items if i.tiers]
    assert [[set(tier) for tier in tiers] for tiers in people] == [[{"b"}, {"a", "c"}, {"d"}]] * 2
    # Labels: a judge against people.
    assert main(["eval", "ranker", "marked.jsonl", "--ranker", "replay:judge.jsonl", "--out", "judge.json"]) == 0
    found = read_result(tmp_path / "judge.json")
    accuracy: Any = found.metrics["accuracy"]
    assert (accuracy.value, accuracy.n) == (0.5, 2)  # "dcba" is wrong of people's b, "bacd" is right
    # Demonstrations: whole lists, without an order among equals.
    assert main(["demos", "import", "marked.jsonl", "mine.jsonl"]) == 0
    demos = load_demonstrations(tmp_path / "mine.jsonl")
    assert [d.prompt.id for d in demos] == [chat(2).id, chat(1).id]
    for demo in demos:
        told = [demo.responses[i].split()[1] for i in demo.order]
        assert told[0] == "b"
        assert told[1] in ("a", "c")
        assert told[2:] == ["d"]


def test_the_rubric_and_reference_of_a_list_are_labels_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    row = graded(0, 4, 3, 2, 1) | {"rubric": "the shorter one", "reference": "none"}
    write_jsonl(tmp_path / "data.jsonl", [row])
    write_jsonl(tmp_path / "judge.jsonl", [{**graded(0, 0, 0, 0, 0), "tiers": [["d"], ["c"], ["b"], ["a"]]}])
    assert main(["eval", "ranker", "data.jsonl", "--ranker", "replay:judge.jsonl", "--out", "r.json"]) == 0
    assert main(["demos", "review", "r.json"]) == 0
    (found,) = read_jsonl(tmp_path / "review.jsonl")
    write_jsonl(tmp_path / "marked.jsonl", [found | {"tiers": [["2"], ["1", "3"], ["4"]]}])
    (marked,) = load_labelled("marked.jsonl")
    assert (marked.set.prompt.rubric, marked.set.prompt.reference) == ("the shorter one", "none")


def test_the_page_does_not_take_the_place_of_the_lists(result: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demos", "review", str(result), "--out", "review.html"]) == 2
    assert "the page would take its place" in capsys.readouterr().err
    assert not Path("review.html").exists()


def test_arms_without_orders_are_compared_by_their_first_choices(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "pairs.jsonl", [{"prompt": f"q{n}", "chosen": "yes", "rejected": "no"} for n in range(3)])
    items = []
    for n, values in enumerate([{"none": 1.0, "all": 1.0}, {"none": 1.0, "all": 0.5}, {"none": 1.0, "all": 0.0}]):
        prompt = Prompt(({"role": "user", "content": f"q{n}"},))
        pair = CandidateSet(prompt, (Candidate("chosen", "yes"), Candidate("rejected", "no")))
        items.append(Item(key=item_key(pair), value=values["all"], values=values))
    about: Figures = {"pairs": {"source": str(tmp_path / "pairs.jsonl")}}
    made = make_result(
        "demos eval", about=about, seed=0, metrics={}, items=items, primary="accuracy", arms=["none", "all"]
    )
    write_result(tmp_path / "r.json", made)
    found = most_contested(tmp_path / "r.json", 9)
    assert [c.item.prompt.messages[0]["content"] for c in found] == ["q2", "q1"]
    assert [c.furthest[0] for c in found] == [1.0, 0.5]


def test_what_is_neither_run_nor_result_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.json").write_text("{}")
    assert main(["demos", "review", str(tmp_path / "x.json"), "--out", str(tmp_path / "o.jsonl")]) == 2
    assert "expected a result" in capsys.readouterr().err
    assert not (tmp_path / "o.jsonl").exists()
