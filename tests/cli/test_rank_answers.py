"""``cyclealign rank`` and ``eval ranker`` with a judge that gives scores and reasons, from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from answering import grader, length_grade
from loopback import Loopback, shown

from cyclealign.cli.main import main

SETS = [
    {"prompt": "Q1", "responses": ["a" * 40, "b" * 5], "rubric": "Long is good."},
    {"prompt": "Q2", "responses": ["c" * 20, "d" * 21, "e" * 59], "reference": "eee"},
]


def test_rank_writes_scores_and_reasons_and_pays_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("sets.jsonl").write_text("".join(json.dumps(s) + "\n" for s in SETS))
    with Loopback(judge=grader(length_grade)) as server:
        words = [
            "rank",
            "sets.jsonl",
            "--ranker",
            "openai:judge",
            f"base_url={server.url}",
            "answer=scores",
            "explain=true",
        ]
        assert main([*words, "--out", "v.jsonl"]) == 0
        paid = len(server.requests)
        assert main([*words, "--out", "w.jsonl"]) == 0
        assert len(server.requests) == paid == 3
        last = {len(shown(b)): b["messages"][-1]["content"] for b in server.requests[1:]}
    assert "Long is good." in last[2]
    assert "Long is good." not in last[3]
    assert "<reference>\neee\n</reference>" in last[3]
    for name in ("v.jsonl", "w.jsonl"):
        first, second = sorted(map(json.loads, Path(name).read_text().splitlines()), key=lambda v: len(v["scores"]))
        assert first["scores"] == {"0": 7.0, "1": 1.0}
        assert second["scores"] == {"0": 4.0, "1": 4.0, "2": 10.0}
        assert second["tiers"] == [["2"], ["0", "1"]]
        assert second["passes"] == [["2", ["0", "1"]]]
        (reason,) = second["reasons"]
        assert sorted(reason["shown"]) == ["0", "1", "2"]
        assert reason["text"].startswith("I saw 3 of them")


def test_eval_ranker_keeps_reasons_and_its_page_shows_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [
        {"prompt": "Q", "chosen": "a" * 40, "rejected": "b" * 5},
        {"prompt": "R", "chosen": "c" * 9, "rejected": "d"},
    ]
    Path("pairs.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    with Loopback(judge=grader(length_grade)) as server:
        asked = ["openai:judge", f"base_url={server.url}", "answer=scores", "explain=true"]
        assert main(["eval", "ranker", "pairs.jsonl", "--ranker", *asked, "--out", "r.json"]) == 0
    result = json.loads(Path("r.json").read_text())
    assert result["metrics"]["accuracy"]["value"] == 1.0
    assert result["metrics"]["position_bias"]["tau_between_orders"]["value"] == 1.0
    assert all(len(item["reasons"]) == len(item["passes"]) == 2 for item in result["items"])
    page = Path("r.html").read_text()
    assert "why, where 1 is response chosen, 2 is response rejected" in page
    assert "score 7" in page
