"""`cyclealign rank` with a paid judge: one ledger a file and judge, exit codes, and no key in anything it leaves."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from asking import by_length, item
from loopback import Body, Fault, Loopback, after_probe, prefers

from cyclealign.cli.main import main
from cyclealign.config.black_box import BlackBoxConfig
from cyclealign.files.outputs import output
from cyclealign.rankers.by_name import ledger_of_judge
from cyclealign.rankers.rank_file import RankJob, rank_file
from cyclealign.types import CandidateSet, UserError

KEY = "sk-canary-0123456789abcdefXYZ"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "sets.jsonl"
    path.write_text("".join(row(item(n)) for n in range(5)))
    return path


def row(of: CandidateSet) -> str:
    return json.dumps({"messages": list(of.prompt.messages), "candidates": [c.text for c in of.candidates]}) + "\n"


def rank(file: Path, server: Loopback, *more: str) -> int:
    return main(["rank", str(file), "--ranker", "openai:judge", f"base_url={server.url}", *more])


def test_one_ledger_for_a_file_and_a_judge_wherever_the_verdicts_go(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = file.with_name("out.jsonl")
    with Loopback(judge=prefers(len)) as server:
        assert rank(file, server) == 0
        first = capsys.readouterr()
        assert rank(file, server, "--out", str(out), "max_concurrency=2", "request={max_tokens: 200}") == 0
        assert len(server.requests) == 6
        assert rank(file, server, "request={seed: 1}") == 0  # another question
        assert len(server.requests) == 12
        assert rank(file, server, "--ledger", str(file.with_name("own.sqlite"))) == 0
        assert len(server.requests) == 18
    assert sorted(first.out.splitlines()) == sorted(out.read_text().splitlines())
    ledger = ledger_of_judge(file, BlackBoxConfig(model="judge", base_url=server.url))
    assert ledger.exists()
    assert "5 sets ranked, 0 not" in first.err
    expected = {s.prompt.id: list(by_length(s)) for s in map(item, range(5))}
    assert len(expected) == len(out.read_text().splitlines())


def test_one_endpoint_in_other_words_has_the_same_ledger(file: Path) -> None:
    def ledger(**box: Any) -> Path:
        return ledger_of_judge(file, BlackBoxConfig(model="judge", **box))

    assert ledger() == ledger(base_url="https://api.openai.com/v1") == ledger(request={"stop": None})
    assert ledger() not in (ledger(base_url="https://api.openai.com/v2"), ledger(request={"stop": "."}))


def test_an_output_is_gone_on_with(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Verdicts on record stay, what is missing is asked, and a start that fails changes nothing."""
    out = file.with_name("out.jsonl")
    bad = Fault(status=400, body='{"error": {"message": "too long"}}')
    with Loopback(judge=prefers(len), script=after_probe(bad)) as server:
        assert rank(file, server, "--out", str(out)) == 1
        assert len(out.read_text().splitlines()) == 5
        assert rank(file, server, "--out", str(out)) == 0
        whole = out.read_text()
        assert len({json.loads(line)["prompt_id"] for line in whole.splitlines()}) == 5
        assert "unranked" not in whole
        asked = len(server.requests)
        for gone in file.parent.glob("*.sqlite*"):
            gone.unlink()
        assert rank(file, server, "--out", str(out)) == 0  # without the ledger, the verdicts still are on record
        assert len(server.requests) <= asked + 1  # its probe
        assert "5 sets ranked, 0 not" in capsys.readouterr().err
        out.write_text(whole[: whole.index("\n") + 20])  # a kill in the middle of a line
        assert rank(file, server, "--out", str(out)) == 0
        assert sorted(out.read_text().splitlines()) == sorted(whole.splitlines())
        whole = out.read_text()
        assert rank(file, server, "--out", str(out), "passes=2") == 2
        assert "verdicts of another job (its settings differs)" in capsys.readouterr().err
    assert main(["rank", str(file), "--ranker", "openai:judge", "base_url=http://127.0.0.1:9", "--out", str(out)]) == 2
    assert out.read_text() == whole
    assert not list(file.parent.glob(".*"))


def test_an_output_that_is_an_input_or_somebody_elses_is_left(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = file.read_bytes()
    link, hard, other = (file.with_name(n) for n in ("link.jsonl", "hard.jsonl", "other.jsonl"))
    link.symlink_to(file)
    hard.hardlink_to(file)
    other.write_text("a diary\n")
    for out, said in (
        (file, "is an input"),
        (link, "is an input"),
        (hard, "is an input"),
        (other, "not from cyclealign"),
    ):
        assert main(["rank", str(file), "--ranker", "overlap", "--out", str(out)]) == 2
        assert said in capsys.readouterr().err
    assert main(["rank", str(file), "--ranker", "overlap", "--out", "/dev/null"]) == 2
    assert file.read_bytes() == hard.read_bytes() == before
    assert other.read_text() == "a diary\n"


def test_of_two_processes_on_one_output_one_goes_on(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = file.with_name("out.jsonl")
    with Loopback(judge=prefers(len)) as server, output(out, [file]):
        assert rank(file, server, "--out", str(out)) == 2
        assert len(server.requests) == 0
    assert capsys.readouterr().err == f"error: --out {out} is in use by another process\n"
    assert main(["rank", str(file), "--ranker", "overlap", "--out", str(out)]) == 0


def test_of_two_processes_that_ask_the_same_one_pays_wherever_their_verdicts_go(file: Path) -> None:
    other, refused = file.with_name("other.jsonl"), []
    other.write_text(row(item(7)))
    own = file.with_name("deep") / "own.sqlite"

    def meanwhile(number: int, _: Body) -> None:
        if number == 2:  # while five calls of the first are in flight
            job = RankJob(file=file, ranker="openai:judge", options=(f"base_url={server.url}",), ledger=own)
            with pytest.raises(UserError, match=r"own\.sqlite, for this input, is in use by another process") as caught:
                rank_file(job)
            refused.append(caught)
            assert "1 sets ranked" in rank_file(replace(job, file=other))  # another file may share the ledger

    with Loopback(judge=prefers(len), script=meanwhile) as server:
        assert rank(file, server, "--ledger", str(own)) == 0
        assert len(refused) == 1
        assert len(server.requests) == 7
    assert not list(own.parent.glob(".*"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_where_nothing_can_be_written_a_ledger_must_be_named(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.parent.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        with Loopback() as server:
            assert rank(file, server) == 2
    finally:
        file.parent.chmod(stat.S_IRWXU)
    assert "--ledger PATH" in capsys.readouterr().err


def test_why_a_set_is_not_ranked_is_said(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Loopback(judge=prefers(len), script=after_probe(*[Fault(text="{}")] * 10)) as server:
        assert rank(file, server) == 0
    said = 'the last: unusable: it is not a JSON object with the one key "ranking")'
    assert f"0 sets ranked, 5 not ({said}" in capsys.readouterr().err


def test_sets_that_are_left_because_calls_failed_are_an_exit_code_and_asked_again(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = Fault(status=400, body='{"error": {"message": "context \\u001b[31m too long"}}')
    with Loopback(judge=prefers(len), script=after_probe(bad, bad)) as server:
        assert rank(file, server) == 1
        said = capsys.readouterr()
        assert "3 sets ranked, 2 not: 2 of them because calls failed; start again" in said.err
        assert "\x1b" not in said.out + said.err
        assert rank(file, server) == 0
    assert len(server.requests) == 1 + 5 + 2


CANARIES = [
    ("401", Fault(status=401, body='{"error": {"message": "bad key KEY"}}')),
    ("status line", Fault(wire=b"HTTP/1.1 Bearer KEY\r\n\r\n")),
    ("headers", Fault(status=500, headers={"X-Echo": "Bearer KEY"}, body="KEY")),
    ("redirect", Fault(status=307, headers={"Location": "http://127.0.0.2:9/?key=KEY"}, body="")),
    ("reply", Fault(text="KEY <think>KEY")),
    ("error in 200", Fault(body='{"error": {"message": "KEY", "code": "KEY"}}')),
    ("finish", Fault(text="x", finish="KEY")),
    ("usage", Fault(usage={"prompt_tokens": "KEY"})),
    ("json escape", Fault(status=400, body='{"error": {"message": "\\u0073k-canary-0123456789abcdefXYZ"}}')),
]


@pytest.mark.parametrize(("place", "fault"), CANARIES, ids=[name for name, _ in CANARIES])
@pytest.mark.parametrize("probe", [True, False])
def test_a_key_is_in_nothing_that_is_written_or_printed(
    file: Path,
    place: str,
    fault: Fault,
    probe: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with_key = {
        name: (value.replace(b"KEY", KEY.encode()) if isinstance(value, bytes) else value.replace("KEY", KEY))
        for name in ("body", "text", "finish", "wire")
        if (value := getattr(fault, name)) is not None
    }
    given = Fault(
        status=fault.status,
        headers={n: v.replace("KEY", KEY) for n, v in fault.headers.items()},
        usage=json.loads(json.dumps(fault.usage).replace("KEY", KEY)),
        **with_key,
    )
    with Loopback(script=lambda n, _: given if probe or n else None) as server:
        code = rank(file, server, "--out", str(file.with_name("out.jsonl")), "outage_minutes=0.02", "passes=2")
    assert code in (0, 1, 2), place
    said = capsys.readouterr()
    assert KEY not in said.out + said.err
    assert "Traceback" not in said.err
    written = [f for f in file.parent.iterdir() if KEY.encode() in f.read_bytes()]
    assert written == []


def test_debug_logs_and_tracebacks_have_no_key(file: Path) -> None:
    """A whole process, the SDK's and HTTP's debug logs on, and a fault of our own in the middle."""
    program = (
        "import logging, sys\n"
        "import cyclealign.cli.main as cli\n"
        "import cyclealign.judge.paid_calls as calls\n"
        "def broken(raw, **_): raise RuntimeError('header: ' + __import__('os').environ['OPENAI_API_KEY'])\n"
        "calls.read_reply = broken\n"
        "before = cli._keep_foreign_text_harmless\n"
        "def loud():\n"
        "    before()\n"
        "    logging.getLogger().setLevel(logging.DEBUG)\n"
        "cli._keep_foreign_text_harmless = loud\n"
        "sys.exit(cli.main(sys.argv[1:]))\n"
    )
    with Loopback(script=lambda *_: Fault(headers={"X-Echo": KEY}, text="x")) as server:
        command = [sys.executable, "-c", program, "rank", str(file), "--ranker", "openai:judge"]
        done = subprocess.run(
            [*command, f"base_url={server.url}"],
            env=os.environ | {"OPENAI_API_KEY": KEY, "OPENAI_LOG": "debug"},
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert "RuntimeError: header: [key]" in done.stderr
    assert KEY not in done.stdout + done.stderr
    assert "Using selector" in done.stderr  # asyncio's own line: debug logs are on
