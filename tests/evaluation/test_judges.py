"""``cyclealign judge``: real servers on loopback, each with a manner of its own; every column by value."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from loopback import Body, Fault, Loopback, prefers, same_slot

from cyclealign.cli.main import main
from cyclealign.evaluation.judges import busy_seconds, drawn, named_judges
from cyclealign.evaluation.result import read_result
from cyclealign.files.labelled import load_labelled
from cyclealign.judge.call import Answered
from cyclealign.reporting.judge_table import judge_cells

Captured = pytest.CaptureFixture[str]
LISTS = 8
PRICES = ("price.input=1.0", "price.output=2.0")
GRADES: dict[str, int] = {}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def lists() -> str:
    """Four lists of two and four of three; in every other two of them the longer reply is the better one."""
    rows = []
    for n in range(LISTS):
        texts = [f"reply {n} {'more ' * length}end" for length in range(2 if n < 4 else 3)]
        grades = list(range(len(texts)))
        if n % 4 >= 2:
            grades.reverse()
        GRADES.update(zip(texts, grades, strict=True))
        rows.append({"prompt": f"q{n}", "subset": ("b plain", "a hard")[n % 2], "responses": texts, "grades": grades})
    Path("lists.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return "lists.jsonl"


def grade(text: str) -> int:
    return GRADES.get(text, 0)  # the probe has texts of its own


def refuses(number: int, _: Body) -> Fault | None:
    return Fault(message={"refusal": "No."}) if number else None


def thinks(number: int, _: Body) -> Fault | None:
    return Fault(usage={"completion_tokens_details": {"reasoning_tokens": 2}}) if number else None


SERVERS: Mapping[str, Callable[[], Loopback]] = {
    "right": lambda: Loopback(judge=prefers(grade), script=thinks),
    "slot": lambda: Loopback(judge=same_slot),
    "length": lambda: Loopback(judge=prefers(len), structured="refused"),
    "refuses": lambda: Loopback(script=refuses),
    "breaks": lambda: Loopback(script=lambda *_: Fault(status=500, body="{}")),
}


def asked(names: tuple[str, ...], data: str, *more: str) -> tuple[int, dict[str, Loopback]]:
    """The exit code, and the servers with what they were asked."""
    with ExitStack() as stack:
        servers = {name: stack.enter_context(SERVERS[name]()) for name in names}
        for name, server in servers.items():
            Path(f"{name}.yaml").write_text(f"black_box: {{model: {name}, base_url: '{server.url}', passes: 7}}\n")
        return main(["judge", *(f"{n}.yaml" for n in names), "--data", data, *more]), servers


def value(estimate: Mapping[str, Any]) -> float:
    return float(estimate["value"])


def words(server: Loopback) -> int:
    """Tokens as the server counts them, of all but its probe."""
    return sum(len(m["content"].split()) for body in server.requests[1:] for m in body["messages"])


def test_every_column_of_every_judge_by_value(lists: str, capsys: Captured) -> None:
    code, servers = asked(tuple(SERVERS), lists, *PRICES)
    said = capsys.readouterr()
    assert code == 2
    errors = [line for line in said.err.splitlines() if line.startswith("error")]
    assert len(errors) == 1
    assert errors[0].startswith("error: judge breaks: black_box: http://127.0.0.1:")
    result = json.loads(Path("judges.json").read_text())
    rows = result["subsets"]
    assert result["arms"] == ["right", "slot", "length", "refuses"]
    assert result["warnings"][0].startswith("judge breaks: ")
    assert result["metrics"] == {
        "items": LISTS, "hard": 4, "judges": 4, "accuracy_of_chance": pytest.approx((1 / 2 + 1 / 3) / 2),
    }  # fmt: skip
    assert Path("judges.html").exists()

    def column(name: str) -> dict[str, float | None]:
        return {arm: None if rows[arm][name] is None else value(rows[arm][name]) for arm in result["arms"]}

    # By slot every list is a tie of all: 1/2 of the pairs and 1/3 of the lists of three.
    tied = pytest.approx((4 / 2 + 4 / 3) / LISTS)
    assert column("accuracy") == {"right": 1.0, "slot": tied, "length": 0.5, "refuses": None}
    assert column("accuracy_hard") == {"right": 1.0, "slot": tied, "length": 0.5, "refuses": None}
    assert rows["right"]["accuracy_hard"]["n"] == LISTS / 2
    assert column("consistency") == {"right": 1.0, "slot": -1.0, "length": 1.0, "refuses": None}
    assert value(rows["slot"]["position_bias"]["first_slot_share"]) == 1.0
    chances = [rows[arm]["position_bias"]["first_slot_chance"] for arm in ("right", "slot", "length")]
    assert chances == [pytest.approx((1 / 2 + 1 / 3) / 2)] * 3
    excess = {arm: (rows[arm]["length_bias"] or {}).get("excess") for arm in result["arms"]}
    assert excess == {"right": 0.0, "slot": 0.0, "length": 0.5, "refuses": None}
    assert [rows[arm]["unranked"] for arm in result["arms"]] == [{}, {}, {}, {"refusal": LISTS}]
    costs = {arm: rows[arm]["per_1000_lists"] for arm in result["arms"]}
    assert {arm: cost["form"] for arm, cost in costs.items()} == {
        "right": "schema", "slot": "schema", "length": "text", "refuses": "schema",
    }  # fmt: skip
    assert {arm: cost["thinking_tokens"] for arm, cost in costs.items()} == {
        "right": 4000, "slot": None, "length": None, "refuses": None,
    }  # fmt: skip
    for arm in ("right", "slot"):
        inputs, outputs = 1000 * words(servers[arm]) / LISTS, 1000 * 2 * 4  # two words and two marks
        assert costs[arm]["input_tokens"] == pytest.approx(inputs)
        assert costs[arm]["output_tokens"] == outputs
        assert costs[arm]["usd"] == pytest.approx((inputs + 2 * outputs) / 1e6, abs=1e-9)
        assert costs[arm]["calls"] == 2000
        assert 0 < costs[arm]["seconds"] < 60_000
    assert all(len(item["values"]) == 4 for item in result["items"])
    for cell in ("100.0%", "-1.00", "0, 8, 0", "4,000", "schema"):
        assert cell in said.out


def test_rows_differ_by_paired_differences_and_compare_reads_them(lists: str) -> None:
    assert asked(("right", "length"), lists)[0] == 0
    (name,) = json.loads(Path("judges.json").read_text())["differences"].items()
    assert name[0] == "length - right"
    assert name[1]["difference"]["value"] == -0.5
    assert name[1]["difference"]["high"] < 0
    assert main(["eval", "compare", "judges.json"]) == 0
    compared = json.loads(Path("eval_compare.json").read_text())
    assert {n: value(s["accuracy"]) for n, s in compared["subsets"].items()} == {
        "judges@right": 1.0,
        "judges@length": 0.5,
    }
    gap = compared["differences"]["judges@length - judges@right"]
    assert gap["difference"] == name[1]["difference"]
    # An eval ranker of the same lists is of the same kind.
    assert main(["eval", "ranker", lists, "--ranker", "overlap"]) == 0
    assert main(["eval", "compare", "judges.json", "eval_ranker.json"]) == 0


def test_a_second_start_pays_nothing_and_says_the_same(lists: str) -> None:
    with Loopback(judge=prefers(grade)) as server:
        words = ["judge", "some-model", f"base_url={server.url}", *PRICES, "--data", lists]
        assert main(words) == 0
        calls, first = len(server.requests), json.loads(Path("judges.json").read_text())
        assert main(words) == 0
        again = json.loads(Path("judges.json").read_text())
        assert len(server.requests) == calls == 2 * LISTS + 1
        assert main([*words, "--limit", "4"]) == 0
        fewer = json.loads(Path("judges.json").read_text())
        assert len(server.requests) == calls
    assert again["subsets"] == first["subsets"]
    assert again["items"] == first["items"]
    assert all(item["passes"] and item["shown"][0] == item["shown"][1][::-1] for item in first["items"])
    shown = [
        (order[0], answer[0]) for i in first["items"] for order, answer in zip(i["shown"], i["passes"], strict=True)
    ]
    share = sum(a == b for a, b in shown) / len(shown)
    assert value(first["subsets"]["some-model"]["position_bias"]["first_slot_share"]) == share
    assert len(fewer["items"]) == 4
    per = [r["subsets"]["some-model"]["per_1000_lists"]["usd"] for r in (first, fewer)]
    assert per[0] == per[1]  # told from all that was asked, however few are looked at


def test_a_dry_run_prices_every_judge_and_calls_nobody(lists: str, capsys: Captured) -> None:
    assert (
        main(["judge", "model:a", "local", "base_url=http://127.0.0.1:9/v1", *PRICES, "--data", lists, "--dry-run"])
        == 0
    )
    out = capsys.readouterr().out
    assert f"model:a: {LISTS} sets, {2 * LISTS} paid calls" in out
    assert "model:a: money: about $" in out
    assert "local: paid calls: none" in out
    assert not list(Path().glob("judges*"))


def test_a_spent_budget_is_its_own_line_and_exit_code_1(lists: str, capsys: Captured) -> None:
    with Loopback() as server:
        options = [f"base_url={server.url}", *PRICES, "budget_usd=0.01", "max_concurrency=1"]
        assert main(["judge", "some-model", "overlap", *options, "--data", lists]) == 1
    assert "error: judge some-model: black_box.budget_usd=0.01" in capsys.readouterr().err
    assert json.loads(Path("judges.json").read_text())["arms"] == ["overlap"]


def test_a_few_lists_are_drawn_evenly_and_more_hold_fewer(lists: str) -> None:
    items = load_labelled(lists)
    few, more = drawn(items, 4, seed=1), drawn(items, 6, seed=1)
    assert sorted(i.subset for i in few) == ["a hard"] * 2 + ["b plain"] * 2
    assert {i.id for i in few} < {i.id for i in more}
    assert [i.id for i in few] == sorted(i.id for i in few)
    assert {tuple(i.id for i in drawn(items, 4, seed=s)) for s in range(8)} != {tuple(i.id for i in few)}
    assert drawn(items, 100, seed=1) == items


def test_a_run_config_names_its_judge_with_all_that_it_is_asked_with() -> None:
    Path("mine.yaml").write_text(
        "name: x\ndata: {prompts: p}\nblack_box:\n  backend: cascade\n  cascade: {keep: 2}\n  model: m\n"
        "  passes: 3\n  base_url: http://h:1/v1\n  price: {input: 1.5, output: 1.0e-05}\n"
        "  answers: true\n  request: {seed: 3, stop: ['\"']}\n"
    )
    (found,) = named_judges(["mine.yaml", "max_concurrency=3"], seed=1)
    box = found.judge.ranker().box
    assert (found.name, found.judge.spec) == ("mine", "openai:m")
    assert (box.passes, box.base_url, box.max_concurrency) == (2, "http://h:1/v1", 3)
    assert box.price is not None
    assert (box.price.input, box.price.output) == (1.5, 1e-05)
    assert box.request == {"seed": 3, "stop": ['"']}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["passes=3", "local"], "leave it out"),
        (["price.input=1"], "expected a model"),
        (["local", "local"], "two judges are named local"),
        (["openai", "judges=[{model: a}, {model: b}]"], "black_box.judges: several judges; name each by itself"),
        (["none.yaml"], "none.yaml"),
        (["flat.yaml"], "flat.yaml: expected a section black_box"),
        (["typo.yaml"], "typo.yaml: unknown key black_box.modle"),
        (["local", "--data", "builtin:lists"], "expected builtin:judge-lists"),
        (["reward_model"], "expected reward_model:PATH"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(capsys: Captured, arguments: list[str], said: str) -> None:
    Path("flat.yaml").write_text("model: x\n")
    Path("typo.yaml").write_text("black_box: {modle: x}\n")
    assert main(["judge", *arguments]) == 2
    error = capsys.readouterr().err.strip()
    assert said in error
    assert len([line for line in error.splitlines() if line.startswith("error")]) == 1


def test_time_is_that_in_which_a_call_was_under_way() -> None:
    spans = [(0.0, 2.0), (1.0, 2.0), (1.5, 0.5), (10.0, 1.0)]
    assert busy_seconds([Answered("p", 0, "text", at, took, None) for at, took in spans]) == 4.0


def test_who_sees_no_order_has_dashes(lists: str) -> None:
    assert main(["judge", "overlap", "--data", lists]) == 0
    cells = judge_cells(read_result(Path("judges.json")).subsets["overlap"])
    assert cells[2:4] == ("-", "-")
    assert cells[6] == "- / - / -"
    assert cells[-2:] == ("-", "-")
