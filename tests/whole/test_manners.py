"""Judges of fourteen manners, each through ``judge``, ``rank`` and a small run: verdicts or one line, and every cent.

The servers speak as providers do (``helpers/manners.py``) and keep bills of their own; what is booked has to be what
they bill, token for token.
"""

from __future__ import annotations

import json
import os
import socket
import sqlite3
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fakes import config_in, make_cycle
from loopback import Body, Fault
from manners import CONTEXT, MANNERS, PRICE, SLY, Bill, Provider, Proxy
from processes import arguments, finish, start

from cyclealign.cli.main import main
from cyclealign.config.black_box import BlackBoxConfig
from cyclealign.judge.ledger import Ledger
from cyclealign.judge.limits import RetryPolicy
from cyclealign.judge.template import load_template
from cyclealign.rankers.black_box import BlackBoxRanker
from cyclealign.types import UserError

# gpt5 is met without its profile, so that the probe has to find all of it out.
PROVIDERS: Mapping[str, str] = {name: name for name in MANNERS} | {"gpt5": "other", "claude": "anthropic"}
# What the probe settles for.
FORMS = dict.fromkeys(MANNERS, "schema") | {"claude": "text", "llama_cpp": "text", "deepseek": "object"}
QUICK = RetryPolicy(first_wait=0.005, longest_wait=0.02)
LISTS = 6


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)


def box(name: str, url: str) -> dict[str, Any]:
    own = {"model": "judge", "base_url": url, "provider": PROVIDERS[name], "price": PRICE, "max_concurrency": 1}
    if name == "openrouter":  # whose bill is its own: no price that a user could give holds for all of its routes
        own |= {"model": "openai/gpt-5-mini", "price": "auto"}
    return own


def texts(n: int) -> list[str]:
    return [f"reply {n} {'more ' * length}end" for length in (2, 0, 1)][: 2 + n % 2]


def booked(ledger: Path) -> Bill:
    with Ledger(ledger, read_only=True) as book:
        spend = book.spend()
    assert spend.unfinished == 0
    return Bill(
        input=spend.input_tokens, cached=spend.cached_tokens, written=spend.written_tokens,
        output=spend.output_tokens, thinking=spend.thinking_tokens, usd=spend.usd,
    )  # fmt: skip


def same(found: Bill, billed: Bill) -> None:
    assert replace(found, usd=0.0) == replace(billed, usd=0.0)
    assert found.usd == pytest.approx(billed.usd, abs=1e-9)


@pytest.mark.parametrize("names", [tuple(MANNERS)[:5], tuple(MANNERS)[5:10], tuple(MANNERS)[10:]])
def test_every_manner_is_measured_side_by_side(names: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    """``cyclealign judge``: the longest reply is the best one, as all of them judge."""
    rows = [{"prompt": f"q{n}", "responses": texts(n), "grades": [len(t) for t in texts(n)]} for n in range(LISTS)]
    Path("lists.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with ExitStack() as stack:
        servers = {name: stack.enter_context(Provider(manner=MANNERS[name])) for name in names}
        for name, server in servers.items():
            Path(f"{name}.yaml").write_text(json.dumps({"black_box": box(name, server.url)}))
        assert main(["judge", *(f"{name}.yaml" for name in names), "--data", "lists.jsonl"]) == 0
    result = json.loads(Path("judges.json").read_text())
    capsys.readouterr()
    for name, server in servers.items():
        row = result["subsets"][name]
        assert (row["accuracy"]["value"], row["unranked"]) == (1.0, {}), name
        assert FORMS[name] in row["per_1000_lists"]["form"], name
        (ledger,) = (p for p in Path().glob("judges.json.*.ledger.sqlite") if endpoint(p) == server.url)
        same(booked(ledger), server.bill)


def endpoint(ledger: Path) -> str:
    with sqlite3.connect(ledger) as db:
        return str(db.execute("SELECT endpoint FROM calls LIMIT 1").fetchone()[0])


@pytest.mark.parametrize("name", MANNERS)
def test_every_manner_ranks_a_file_and_runs(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"prompt": f"q{n}", "candidates": texts(n)} for n in range(LISTS)]
    Path("sets.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with Provider(manner=MANNERS[name]) as server:
        options = [f"{key}={json.dumps(value)}" for key, value in box(name, server.url).items() if key != "model"]
        spec = f"openai:{box(name, server.url)['model']}"
        assert main(["rank", "sets.jsonl", "--ranker", spec, *options, "--out", "out.jsonl"]) == 0
        (ledger,) = Path().glob("sets.jsonl.*.ledger.sqlite")
        same(booked(ledger), server.bill)
        server.bill = Bill()
        loop = make_cycle(config_in(tmp_path, cycle={"batch_size": 4, "max_interactions": 2}), n_prompts=8)
        with Ledger(tmp_path / "run.sqlite") as opened:
            judge = BlackBoxRanker(BlackBoxConfig(**box(name, server.url)), load_template("rank"), opened, retry=QUICK)
            loop.parts = replace(loop.parts, black_box=judge)
            loop.run()
        same(booked(tmp_path / "run.sqlite"), server.bill)
    verdicts = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    assert len(verdicts) == LISTS
    assert all(v["tiers"][0] == ["0"] for v in verdicts), verdicts
    assert "6 sets ranked, 0 not" in capsys.readouterr().err
    trained = [i for i in loop.run_dir.interactions() if i.trained]
    assert trained
    assert len(trained[0].black_box.read_text().splitlines()) == 4


def sly(name: str, server: Provider, words: str) -> tuple[int, str, Bill]:
    """Exit code, what is said, and what is booked of a file whose third list holds something to stop at."""
    rows = [{"prompt": f"q{n}", "candidates": [*texts(n)[:1], f"{words if n == 2 else ''} x"]} for n in range(4)]
    Path("sets.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = [f"{key}={json.dumps(value)}" for key, value in box(name, server.url).items() if key != "model"]
    code = main(["rank", "sets.jsonl", "--ranker", "openai:judge", *options, "--out", "out.jsonl"])
    (ledger,) = Path().glob("sets.jsonl.*.ledger.sqlite")
    return code, Path("out.jsonl").read_text() if Path("out.jsonl").exists() else "", booked(ledger)


@pytest.mark.parametrize("words", [f"{SLY} before", f"{SLY} behind"])
def test_a_filter_refuses_one_list_and_the_others_go_on(words: str) -> None:
    with Provider(manner=MANNERS["azure"]) as server:
        code, out, found = sly("azure", server, words)
        same(found, server.bill)
    assert code == 0
    assert [json.loads(line).get("unranked") for line in out.splitlines()].count("refusal") == 1
    assert len(out.splitlines()) == 4


def test_a_prompt_that_was_cut_is_one_line_with_the_setting_and_no_verdict(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with Provider(manner=MANNERS["ollama"]) as server:
        code, out, found = sly("ollama", server, "word " * 5000)
    assert found.usd >= server.bill.usd  # what was under way when it ended is booked at its most
    with sqlite3.connect(next(Path().glob("sets.jsonl.*.ledger.sqlite"))) as db:
        cut = db.execute(
            "SELECT input_tokens, output_tokens, usd FROM calls WHERE error LIKE '%cut the rest%'"
        ).fetchall()
    assert cut == [(CONTEXT, 9, pytest.approx((CONTEXT * PRICE["input"] + 9 * PRICE["output"]) / 1e6, abs=1e-9))]
    said = capsys.readouterr().err
    assert code == 2
    (line,) = [line for line in said.splitlines() if line.startswith("error")]
    assert "it read 4,096 tokens of a prompt of 5," in line
    assert "OLLAMA_CONTEXT_LENGTH" in line
    assert "num_ctx" in line
    with Provider(manner=MANNERS["llama_cpp"], port=server.port) as wider:  # it has been started anew
        code, out, _ = sly("ollama", wider, "word " * 5000)
    assert code == 0
    assert [json.loads(line).get("unranked") for line in out.splitlines()] == [None] * 4


def test_a_limit_of_a_day_is_not_waited_for() -> None:
    with Provider(manner=MANNERS["groq"]) as server:
        code, out, found = sly("groq", server, SLY)
        same(found, server.bill)
    assert code == 1
    assert [json.loads(line).get("unranked") for line in out.splitlines()].count("error") == 1
    assert "tokens per day" in out


@pytest.mark.skipif(not socket.has_ipv6, reason="this machine has no IPv6")
def test_over_ipv6() -> None:
    with Provider(manner=MANNERS["claude"], host="::1") as server:
        code, out, found = sly("claude", server, "")
        same(found, server.bill)
    assert (code, len(out.splitlines())) == (0, 4)


def test_through_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_API_KEY", "sk-canary-0123456789abcdefXYZ")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    with Provider(manner=MANNERS["mistral"]) as server, Proxy(server.port) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("http_proxy", proxy.url)
        rows = [{"prompt": f"q{n}", "candidates": texts(n)} for n in range(3)]
        Path("sets.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        options = [
            "base_url=http://judge.example/v1",
            "provider=mistral",
            "plain_http=true",
            f"price={json.dumps(PRICE)}",
        ]
        key = ["api_key_env=JUDGE_API_KEY"]
        assert main(["rank", "sets.jsonl", "--ranker", "openai:judge", *options, *key, "--out", "out.jsonl"]) == 0
        (ledger,) = Path().glob("sets.jsonl.*.ledger.sqlite")
        same(booked(ledger), server.bill)
    assert set(proxy.asked) == {"http://judge.example"}
    assert len(Path("out.jsonl").read_text().splitlines()) == 3


def refuses_both(_: int, body: Body) -> tuple[Fault, Bill]:
    """One field of the user's own after the other."""
    for name in ("top_k", "reasoning_effort", "temperature"):
        if name in body:
            return Fault(status=400, body=json.dumps({"error": {"message": f"{name} is not allowed here"}})), Bill()
    return MANNERS["gpt5"](0, body)


def test_one_start_finds_all_that_a_server_does_not_take(capsys: pytest.CaptureFixture[str]) -> None:
    """What is the user's own is not dropped in silence, and not found out one start at a time."""
    Path("sets.jsonl").write_text(json.dumps({"prompt": "q", "candidates": texts(1)}) + "\n")
    with Provider(manner=refuses_both) as server:
        own = ["reasoning=low", "request={temperature: 0.2, top_k: 5, max_tokens: 900}"]
        assert main(["rank", "sets.jsonl", "--ranker", "openai:judge", f"base_url={server.url}", *own]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    for said in ("black_box.request.top_k", "black_box.reasoning=low", "black_box.request.temperature"):
        assert f"{said}: {server.url} refuses it" in line
    assert "max_tokens" not in line  # its other name says the same
    assert len(server.requests) <= 7


def test_all_faults_before_the_first_call_are_one_line(tmp_path: Path) -> None:
    config = BlackBoxConfig(
        model="nobodys", base_url="https://api.groq.com/v1", price="auto", budget_usd=1, request={"max_tokens": None},
        api_key_env="NOBODYS_API_KEY",
    )  # fmt: skip
    with Ledger(tmp_path / "l.sqlite") as ledger, pytest.raises(UserError) as error:
        BlackBoxRanker(config, load_template("rank"), ledger)
    for said in ("length of an answer must be limited", "finds no price of model 'nobodys'", "$NOBODYS_API_KEY: not"):
        assert said in str(error.value)


@pytest.mark.slow
def test_a_run_of_its_own_process_with_a_judge_that_thinks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "OPENAI_API_KEY" not in os.environ
    with Provider(manner=MANNERS["gpt5"]) as server:
        keys = [f"black_box.{key}={json.dumps(value)}" for key, value in box("gpt5", server.url).items()]
        more = ["data.limit=4", "cycle.max_interactions=1", "cycle.eval_every=0", *keys]
        code, said = finish(start("run", *arguments(tmp_path, server.url), *more))
        assert code == 0, said
        same(booked(tmp_path / "r" / "ledger.sqlite"), server.bill)
    assert main(["status", str(tmp_path / "r")]) == 0
    said = capsys.readouterr().out
    assert f"{server.bill.output:,} out ({server.bill.thinking / server.bill.output:.0%} thinking)" in said
