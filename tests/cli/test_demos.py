"""``cyclealign demos`` from the command line, with a real server on loopback for what pays."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from loopback import Loopback
from planted_judge import PlantedJudge, planted_pairs, planted_pool

from cyclealign.cli.main import main
from cyclealign.curation.sets import open_set
from cyclealign.files.jsonl import read_json, write_jsonl
from cyclealign.judge.demonstration_files import load_demonstrations, save_demonstrations
from cyclealign.judge.ledger import Ledger

Captured = pytest.CaptureFixture[str]
POOL = planted_pool(4)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """``pool.jsonl`` and ``pairs.jsonl`` (40 labelled pairs) in the current directory."""
    monkeypatch.chdir(tmp_path)
    save_demonstrations(tmp_path / "pool.jsonl", POOL)
    rows = [{"prompt": p.messages[0]["content"], "chosen": p.chosen, "rejected": p.rejected} for p in planted_pairs(40)]
    write_jsonl(tmp_path / "pairs.jsonl", rows)
    return tmp_path


def test_sets_are_listed_changed_and_compared(folder: Path, capsys: Captured) -> None:
    assert main(["demos", "export", "pool.jsonl", "mine.jsonl"]) == 0
    assert main(["demos", "remove", "mine.jsonl", POOL[0].id[:8]]) == 0
    assert main(["demos", "add", "mine.jsonl", "builtin:rank", open_set("builtin:rank").demonstrations[2].id]) == 0
    capsys.readouterr()
    assert main(["demos", "diff", "pool.jsonl", "mine.jsonl"]) == 0
    out = capsys.readouterr().out
    assert f"removed  {POOL[0].id}  plant 0: what comes to mind?" in out
    assert "added    3552440ae0776198  I'm a teacher" in out
    assert main(["demos", "show", "mine.jsonl"]) == 0
    assert f"version: {open_set('mine.jsonl').version}" in capsys.readouterr().out
    assert main(["demos", "show", "mine.jsonl", POOL[1].id[:6]]) == 0
    assert "1. shown as [2]: another thought on 1" in capsys.readouterr().out
    assert main(["demos", "export", "mine.jsonl", "rows.jsonl", "--format", "preference"]) == 0
    assert main(["demos", "import", "rows.jsonl", "back.jsonl"]) == 0
    assert len(load_demonstrations(folder / "back.jsonl")) == 4


def test_lint_tells_by_its_exit_code(folder: Path, capsys: Captured) -> None:
    assert main(["demos", "lint", "builtin:rank", "--token-budget", "10000"]) == 0
    assert "0 errors, 0 warnings" in capsys.readouterr().out
    row = json.dumps({"prompt": POOL[2].prompt.messages[0]["content"]})
    (folder / "eval.jsonl").write_text(row + "\n")
    assert main(["demos", "lint", "pool.jsonl", "--held-out", "eval.jsonl"]) == 1
    assert f"error  {POOL[2].id}: leak: the prompt is in the eval data" in capsys.readouterr().out


def test_files_that_are_there_are_not_written_over(folder: Path, capsys: Captured) -> None:
    for command in (
        ["demos", "export", "builtin:rank", "pool.jsonl"],
        ["demos", "import", "pairs.jsonl", "pool.jsonl"],
        ["demos", "build", "pairs.jsonl", "--size", "2", "--encoder", "tfidf", "--out", "pool.jsonl"],
    ):
        assert main(command) == 2
        assert "pool.jsonl: exists; choose another name or give --force" in capsys.readouterr().err
    assert load_demonstrations(folder / "pool.jsonl") == POOL
    assert main(["demos", "export", "builtin:rank", "pool.jsonl", "--force"]) == 0
    assert len(load_demonstrations(folder / "pool.jsonl")) == 16


def test_build_takes_what_a_judge_missed(folder: Path) -> None:
    judged = PlantedJudge({}, base=0.0)
    with Loopback(judge=judged) as server:
        command = ["demos", "eval", "pool.jsonl", "pairs.jsonl", "--ranker", "openai:judge", f"base_url={server.url}"]
        assert main([*command, "--result", "r.json", "--no-leave-one-out"]) == 0
    missed = {i["id"] for i in read_json(folder / "r.json")["items"] if i["values"]["none"] == 0}
    assert 10 <= len(missed) <= 30
    build = ["demos", "build", "pairs.jsonl", "--size", "4", "--encoder", "tfidf", "--out", "new.jsonl"]
    assert main([*build, "--missed", "r.json"]) == 0
    assert {d.prompt.id for d in load_demonstrations(folder / "new.jsonl")} <= missed
    assert main([*build, "--force", "--missed", "pairs.jsonl"]) == 2


def test_dry_runs_call_and_write_nothing(folder: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    """They need no key either."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    asked = ["pool.jsonl", "pairs.jsonl", "--ranker", "openai:m", "--dry-run", "price.input=1", "price.output=1"]
    before = sorted(p.name for p in folder.rglob("*"))
    assert main(["demos", "eval", *asked]) == 0
    out = capsys.readouterr().out
    assert "40 labelled pairs, 6 arms" in out
    assert "paid calls: at most 483;" in out  # 6 arms of 40 pairs, each with a repair, and three probes
    assert main(["demos", "search", *asked, "--size", "2", "--calls", "100", "--out", "best.jsonl"]) == 0
    assert "paid calls: at most 100;" in capsys.readouterr().out
    prompts = ["prompts", "eval", "pairs.jsonl", "--template", "rank", "--template", "rank_terse", *asked[2:]]
    assert main(prompts) == 0
    assert capsys.readouterr().out.count("paid calls: at most 83;") == 2
    assert sorted(p.name for p in folder.rglob("*")) == before
    assert main(["demos", "eval", *asked[:4]]) == 2
    assert "$OPENAI_API_KEY: not set" in capsys.readouterr().err


def test_eval_and_search_end_to_end(folder: Path, capsys: Captured) -> None:
    """One ledger serves both; what the first paid for, the second does not pay again."""
    judged = PlantedJudge({0: 2.5, 3: 2.0, 1: -1.0}, base=-0.5)
    with Loopback(judge=judged) as server:
        box = ["--ranker", "openai:judge", f"base_url={server.url}", "price.input=1.0", "price.output=1.0"]
        assert main(["demos", "eval", "pool.jsonl", "pairs.jsonl", *box, "--result", "eval.json"]) == 0
        assert len(server.requests) == 1 + 6 * 40
        assert main(["demos", "eval", "pool.jsonl", "pairs.jsonl", *box]) == 0
        assert len(server.requests) == 1 + 6 * 40
        assert "paid now: 0 calls, $0.0000" in capsys.readouterr().out
        found = ["--size", "2", "--calls", "250", "--out", "best.jsonl", "--result", "search.json"]
        assert main(["demos", "search", "pool.jsonl", "pairs.jsonl", *box, *found]) == 0
    result = read_json(folder / "eval.json")
    assert result["eval"] == "demos eval"
    assert result["about"]["set"]["version"] == open_set("pool.jsonl").version
    assert result["about"]["judge"] == {"model": "judge", "endpoint": server.url, "passes": 1}
    assert {"hardware", "commit"} <= set(result)
    truth = {s: sum(judged.right(i, s) for i in range(40)) / 40 for s in ((), (0, 1, 2, 3))}
    assert result["subsets"]["none"]["accuracy"]["value"] == truth[()]
    assert result["subsets"]["static"]["accuracy"]["value"] == truth[(0, 1, 2, 3)]
    searched = read_json(folder / "search.json")
    assert searched["metrics"]["calls"]["all"] <= 248
    assert searched["metrics"]["chosen"] == [POOL[0].id, POOL[3].id]
    assert load_demonstrations(folder / "best.jsonl") == (POOL[0], POOL[3])
    assert searched["about"]["chosen_version"] == open_set("best.jsonl").version
    for path in ("eval.json", "search.json"):  # compare has the intervals of the command itself
        assert main(["eval", "compare", path, "--out", "compared.json"]) == 0
        own, compared = read_json(folder / path), read_json(folder / "compared.json")
        gap = {n.replace(f"{path[:-5]}@", ""): d["difference"] for n, d in compared["differences"].items()}
        assert gap == {n: d["difference"] for n, d in own["differences"].items()}
        assert gap
        assert all(d["low"] is not None for d in gap.values())
        means = {n.split("@")[1]: s["accuracy"] for n, s in compared["subsets"].items()}
        assert means == {n: own["subsets"][n]["accuracy"] for n in own["arms"]}
        assert "paired differences" in (folder / path).with_suffix(".html").read_text()
    with Ledger(folder / "runs" / "demos.ledger.sqlite", read_only=True) as ledger:
        assert set(ledger.spend_by("purpose")) == {"eval", "probe"}


def test_a_budget_in_money_ends_it_with_code_1(folder: Path, capsys: Captured) -> None:
    assert folder
    with Loopback(judge=PlantedJudge({})) as server:
        box = ["--ranker", "openai:judge", f"base_url={server.url}", "price.input=10.0", "price.output=10.0"]
        assert main(["demos", "eval", "pool.jsonl", "pairs.jsonl", *box, "budget_usd=0.1"]) == 1
        assert "budget_usd=0.1 does not cover the next call" in capsys.readouterr().err
        assert 2 <= len(server.requests) < 100


def test_a_run_is_shown_and_measured_as_it_is(folder: Path, capsys: Captured) -> None:
    from fakes import config_in, make_cycle

    run = make_cycle(config_in(folder, demonstrations={"gate": -1.0, "capacity": 2}), n_prompts=4).run()
    save_demonstrations(run / "prompts" / "demonstrations.jsonl", POOL[:1])
    (run / "prompts" / "template.yaml").write_text(
        (Path(__file__).parents[2] / "prompts" / "rank_terse.yaml").read_text()
    )
    from cyclealign.config.loading import dump_config

    (run / "config.yaml").write_text(dump_config(config_in(folder, demonstrations={"gate": -1.0, "capacity": 2})))
    assert main(["demos", "show", str(run)]) == 0
    assert "demonstrations: 3 (1 static, 2 dynamic)" in capsys.readouterr().out
    with Loopback(judge=PlantedJudge({})) as server:
        command = ["demos", "eval", str(run), "pairs.jsonl", "--ranker", "openai:judge", f"base_url={server.url}"]
        assert main([*command, "--limit", "5", "--no-leave-one-out", "--result", "r.json"]) == 0
    result = read_json(folder / "r.json")
    assert result["arms"] == ["none", "static", "static+dynamic"]
    assert result["about"]["template"]["name"] == "rank_terse"
