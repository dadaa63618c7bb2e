"""``cyclealign eval ranker``: figures by hand, judges of known bias on a real server, resuming, prices, the page."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from loopback import Loopback, prefers, same_slot
from report_page import Page

from cyclealign.cli.main import main
from cyclealign.evaluation.labelled_pairs import credit
from cyclealign.evaluation.ranker import ndcg, pair_accuracy
from cyclealign.evaluation.result import Item, make_result
from cyclealign.reporting.eval_page import render_page
from cyclealign.types import Ranking

Captured = pytest.CaptureFixture[str]
PAIRS = 24


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)


def labelled(pairs: int = PAIRS) -> Path:
    """Pairs whose chosen reply is the longer one in the first half; prompts repeat, which rankers join by."""
    rows = []
    for n in range(pairs):
        short, long = f"no {n}", f"a reply of many more words {n}"
        chosen, rejected = (long, short) if n < pairs // 2 else (short, long)
        rows.append({"prompt": f"q{n // 2}", "chosen": chosen, "rejected": rejected, "subset": "ab"[n % 2]})
    path = Path("pairs.jsonl")
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


def evaluated(*arguments: str) -> dict[str, Any]:
    assert main(["eval", "ranker", str(labelled()), *arguments]) == 0
    result: dict[str, Any] = json.loads(Path("eval_ranker.json").read_text())
    return result


def value(estimate: Mapping[str, Any]) -> float:
    return float(estimate["value"])


def openai(server: Loopback, *more: str) -> list[str]:
    return ["--ranker", "openai:judge", f"base_url={server.url}", *more]


def test_a_judge_that_reads_length_is_right_on_half_and_never_flips() -> None:
    with Loopback(judge=prefers(len)) as server:
        result = evaluated(*openai(server))
    metrics = result["metrics"]
    assert value(metrics["accuracy"]) == 0.5
    assert metrics["accuracy"]["n"] == PAIRS
    assert {name: s["items"] for name, s in result["subsets"].items()} == {"a": 12, "b": 12}
    position = metrics["position_bias"]
    assert value(position["flip_rate"]) == 0.0
    assert value(position["first_slot_share"]) == 0.5
    assert value(position["tau_between_orders"]) == 1.0
    length = metrics["length_bias"]
    assert value(length["judge_prefers_longer"]) == 1.0
    assert value(length["labels_prefer_longer"]) == 0.5
    assert length["excess"] == 0.5
    assert value(length["accuracy_longer_is_better"]) == 1.0
    assert value(length["accuracy_shorter_is_better"]) == 0.0
    assert metrics["unranked"] == {}


def test_a_judge_that_answers_by_slot_always_flips() -> None:
    with Loopback(judge=same_slot) as server:
        metrics = evaluated(*openai(server))["metrics"]
    position = metrics["position_bias"]
    assert value(position["flip_rate"]) == 1.0
    assert value(position["first_slot_share"]) == 1.0
    assert value(position["first_slot_flips"]) == 1.0
    assert value(position["tau_between_orders"]) == -1.0
    assert value(metrics["accuracy"]) == 0.5  # every item is a tie


def test_judging_resumes_from_the_ledger_and_repeats_are_new_calls() -> None:
    with Loopback() as server:
        first = evaluated(*openai(server))
        asked = len(server.requests)
        again = evaluated(*openai(server))
        assert len(server.requests) == asked
        assert again["items"] == first["items"]
        repeated = evaluated(*openai(server), "--repeats", "2")
        assert len(server.requests) == asked + 2 * PAIRS
    assert asked == 2 * PAIRS + 1  # both orders, and the probe
    consistency = repeated["metrics"]["self_consistency"]
    assert consistency["rounds"] == 2
    assert value(consistency["same_first_choice"]) == 1.0
    assert repeated["metrics"]["cost"]["calls"] == 4 * PAIRS + 2 - 1


def test_lists_are_shown_in_the_orders_that_the_result_says() -> None:
    """A judge that answers by slot: every presentation's first choice must be what stood first in it."""
    lists = [[{"id": t, "text": f"{a} {t}", "grade": n} for n, t in enumerate("wxyz")] for a in ("text", "other")]
    rows = [{"prompt": f"q{n}", "candidates": lists[a]} for n, a in ((0, 0), (0, 1), (1, 0), (0, 0))]
    Path("lists.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    with Loopback(judge=same_slot) as server:
        assert main(["eval", "ranker", "lists.jsonl", *openai(server, "passes=3")]) == 0
    result = json.loads(Path("eval_ranker.json").read_text())
    assert result["metrics"]["position_bias"]["first_slot_share"] == {
        "value": 1.0,
        "low": pytest.approx(0.7575, abs=1e-4),
        "high": 1.0,
        "n": 12,
    }
    assert result["metrics"]["position_bias"]["first_slot_chance"] == pytest.approx(0.25)
    assert all(item["passes"] == item["shown"] for item in result["items"])
    shown = [item["shown"] for item in result["items"]]
    assert shown[0] != shown[1]  # the same prompt with other candidates is another question
    assert shown[0] == shown[3]  # with the same ones it is the same question, asked once
    assert result["metrics"]["cost"]["calls"] == 3 * 3 + 1


def test_a_spent_budget_ends_the_eval_and_a_larger_one_goes_on(capsys: Captured) -> None:
    prices = ("price.input=1.0", "price.output=2.0", "max_concurrency=1")
    with Loopback() as server:
        arguments = ["eval", "ranker", str(labelled()), *openai(server, *prices)]
        assert main([*arguments, "budget_usd=0.01"]) == 1
        assert "budget" in capsys.readouterr().err
        assert 0 < len(server.requests) < 2 * PAIRS
        assert not Path("eval_ranker.json").exists()
        assert main([*arguments, "budget_usd=1.0"]) == 0
        assert len(server.requests) == 2 * PAIRS + 1
        assert set(server.counts().values()) == {1}


def test_a_refusing_judge_leaves_items_unranked_and_guesses_nothing() -> None:
    with Loopback(judge=lambda _: "I cannot help with that.", structured=False) as server:
        result = evaluated(*openai(server))
    metrics = result["metrics"]
    assert metrics["accuracy"] is None
    assert value(metrics["unranked_rate"]) == 1.0
    assert value(metrics["accuracy_unranked_wrong"]) == 0.0
    assert sum(metrics["unranked"].values()) == PAIRS
    assert all("unranked" in item for item in result["items"])


def test_a_dry_run_prices_and_writes_nothing(capsys: Captured) -> None:
    prices = ("price.input=1.0", "price.output=2.0", "base_url=http://127.0.0.1:9/v1")
    assert main(["eval", "ranker", str(labelled()), "--ranker", "openai:judge", "--dry-run", *prices]) == 0
    out = capsys.readouterr().out
    assert f"{PAIRS} sets, {2 * PAIRS} paid calls" in out
    assert "money: about $" in out
    assert not list(Path().glob("eval_ranker*"))


def test_local_rankers_have_accuracy_but_no_position(capsys: Captured) -> None:
    result = evaluated("--ranker", "local", "--limit", "6")
    assert result["metrics"]["position_bias"] is None
    assert result["metrics"]["items"] == 6
    assert result["commit"]
    assert result["hardware"]["cores"]
    assert "page: eval_ranker.html" in capsys.readouterr().out


def test_replayed_lists_have_rank_figures() -> None:
    texts = ("w", "x", "y", "z")
    candidates = [{"id": t, "text": t, "grade": 3 - n} for n, t in enumerate(texts)]
    Path("lists.jsonl").write_text(json.dumps({"prompt": "q", "candidates": candidates}) + "\n")
    recorded = {"messages": [{"role": "user", "content": "q"}], "order": ["x", "w", "y", "z"]}
    Path("replay.jsonl").write_text(json.dumps(recorded) + "\n")
    assert main(["eval", "ranker", "lists.jsonl", "--ranker", "replay:replay.jsonl"]) == 0
    metrics = json.loads(Path("eval_ranker.json").read_text())["metrics"]
    assert value(metrics["accuracy"]) == 0.0
    assert value(metrics["pair_accuracy"]) == pytest.approx(5 / 6)
    assert value(metrics["kendall_tau"]) == pytest.approx(4 / 6)
    # (2 + 3/1.58496 + 1/2) / (3 + 2/1.58496 + 1/2)
    assert value(metrics["ndcg"]) == pytest.approx(0.922495, abs=1e-6)


def test_ties_share_credit_and_gain() -> None:
    tied = Ranking(prompt_id="p", tiers=(("a", "b"), ("c",)))
    grades = {"a": 2.0, "b": 0.0, "c": 1.0}
    assert credit(tied, grades) == 0.5
    assert pair_accuracy(tied, grades) == pytest.approx((0.5 + 1.0 + 0.0) / 3)
    both = [ndcg(Ranking.from_order("p", order), grades) for order in ("abc", "bac")]
    assert min(both) < ndcg(tied, grades) < max(both)
    assert ndcg(tied, dict.fromkeys("abc", 1.0)) == 1.0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--ranker", "oracle"], "expected one of local"),
        (["--ranker", "local", "--out", "result.txt"], "ends in .json"),
        (["--ranker", "local", "--subset", "nothing"], "no labelled item of subset nothing"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(capsys: Captured, arguments: list[str], said: str) -> None:
    assert main(["eval", "ranker", str(labelled()), *arguments]) == 2
    error = capsys.readouterr().err.strip()
    assert said in error
    assert len([line for line in error.splitlines() if line.startswith("error")]) == 1


def test_items_of_the_page_are_filtered_by_outcome_and_subset() -> None:
    def item(n: int, **more: Any) -> Item:
        subset = f"</style><b>{n % 2}" if n % 3 else None
        return Item(key=str(n), id=str(n), prompt="q", responses={"a": "x", "b": "y"}, subset=subset, **more)

    items = [item(n, value=n % 2) for n in range(5)] + [item(5, value=None, unranked="error")]
    about = {"data": "d"}
    result = make_result("ranker", about=about, seed=0, metrics={"items": 6}, items=items, primary="accuracy")
    root = Page(render_page(result)).root
    (section,) = root.all("section", id="items")
    articles = section.all("article")
    kinds = [str(a.attributes["data-kind"]) for a in articles]
    assert sorted(kinds) == ["highest"] * 2 + ["lowest"] * 3 + ["unranked"]
    labels = {str(i.attributes["value"]): i.attributes["name"] for i in section.all("input")}
    subsets = {str(a.attributes["data-subset"]) for a in articles}
    assert subsets == {"s0", "s1", "s2"}
    assert set(labels) == {"all", "lowest", "highest", "unranked", *subsets}
    (style,) = root.all("style")
    assert '#items:has(input[name="items-subset"][value="s2"]:checked)' in style.text
    assert not root.all("b")
