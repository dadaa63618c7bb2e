"""The cascade in the real program: killed and resumed it asks nothing twice and gives the same verdicts."""

from __future__ import annotations

from pathlib import Path

import pytest
from loopback import Fault, Loopback, prefers
from processes import (
    arguments,
    done_calls,
    finish,
    judge_server,
    ledger_content,
    records,
    requests_answered,
    run_with_kills,
    start,
)

from cyclealign.cli.main import main
from cyclealign.files.jsonl import read_json
from cyclealign.files.run_dir import RunDir
from cyclealign.files.run_records import read_rankings
from cyclealign.types import Ranking

pytestmark = pytest.mark.slow
CASCADE = (
    "black_box.backend=cascade",
    "black_box.cascade={keep: 2, audit: 0.25, warm_up: 15}",
    "generator.candidates=4",
    "data.limit=24",
)


@pytest.mark.timeout(900)
def test_kills_change_nothing_and_repeat_only_what_was_in_flight(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    with judge_server(log, judge="length", delay=0.2) as url:
        code, output = finish(start("run", *arguments(tmp_path / "whole", url, *CASCADE)))
        assert code == 0, output
        whole, calls = tmp_path / "whole" / "r", requests_answered(log)
        assert calls == done_calls(whole)
        assert "lists pruned" in output
        flying = run_with_kills(
            arguments(tmp_path / "killed", url, *CASCADE), tmp_path / "killed" / "r", kills=1, seed=1, spread=0.4
        )
        repeated = requests_answered(log) - 2 * calls
    killed = tmp_path / "killed" / "r"
    assert flying
    assert records(killed) == records(whole)
    assert ledger_content(killed) == ledger_content(whole)
    assert 0 <= repeated <= sum(flying)
    for number in (1, 2):
        fits = [read_json(RunDir(run).interaction(number).cascade) for run in (whole, killed)]
        assert fits[0] == fits[1]
    check_what_was_asked(RunDir(whole))


def check_what_was_asked(run: RunDir) -> None:
    """The first interaction goes whole; later ones are pruned, and their summaries count what the records say."""
    assert all(r.cascade is None for r in read_rankings(run.interaction(0).black_box).values())
    assert read_json(run.interaction(1).cascade)["useful"]  # a judge that goes by length is easily learned from
    later: list[Ranking] = []
    for number in (1, 2):
        found = list(read_rankings(run.interaction(number).black_box).values())
        figures = read_json(run.interaction(number).summary).get("cascade", {"pruned": 0, "alone": 0, "audited": 0})
        assert figures["pruned"] == sum(0 < len(r.judged) < len(r.order) for r in found)
        assert figures["alone"] == sum(not r.judged for r in found)
        later += found
    assert any(0 < len(r.judged) < len(r.order) for r in later)
    assert any(r.cascade is not None and r.cascade.audited for r in later)


def test_dry_run_counts_every_list_as_sent_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = arguments(tmp_path, "http://127.0.0.1:9/v1", "generator.candidates=4", "data.limit=24")
    said = []
    for options in (whole, [*whole, *CASCADE]):
        assert main(["run", *options, "--dry-run"]) == 0
        said.append(capsys.readouterr().out)
    assert "paid calls: at most" in said[0]
    assert said[0].partition("interactions: ")[2] == said[1].partition("interactions: ")[2]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", ["jury", "first"])
def test_a_run_of_several_judges_by_the_command(tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    refused = Fault(status=401, body='{"error": {"message": "Incorrect API key provided"}}')
    with (
        Loopback(judge=prefers(len)) as good,
        Loopback(judge=prefers(len)) as other,
        Loopback(script=lambda *_: refused) as broken,
    ):
        urls = (good.url, broken.url, other.url)
        judges = [{"model": f"m{n}", "base_url": url} for n, url in enumerate(urls)]
        first = {"model": "cheap", "base_url": other.url}
        options = {
            "jury": (
                "black_box.model=null",
                "black_box.base_url=null",
                "black_box.quorum=2",
                f"black_box.judges={judges}",
            ),
            "first": ("black_box.backend=cascade", f"black_box.cascade={{first: {first}, keep: 2}}"),
        }[kind]
        command = ["run", *arguments(tmp_path, good.url, *options, "data.limit=6", "cycle.max_interactions=1")]
        assert main(command) == 0
        said = capsys.readouterr()
    rankings = read_rankings(RunDir(tmp_path / "r").interaction(0).black_box).values()
    assert len(rankings) == 6
    if kind == "jury":
        assert all([bool(v.passes) for v in r.jury] == [True, False, True] for r in rankings)
        assert "judge m1: BROKEN, no vote on any of 6 lists" in said.out + said.err
        assert "m1 is broken" in (tmp_path / "r" / "report.html").read_text()
    else:
        assert all(len(r.judged) == 2 for r in rankings if r.cascade is not None and not r.cascade.audited)
        assert any(len(r.judged) == 2 for r in rankings)
