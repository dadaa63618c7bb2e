"""A wrong rule of an instruction is mended over a real server, within its calls, and only where a test supports it."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from loopback import Body, Fault, Loopback, prefers
from planted_rules import (
    RIGHT,
    WRONG,
    JudgeAndMind,
    accuracy,
    at_random,
    planted_lengths,
    planted_template,
    reading,
    right,
    rules_of,
)
from processes import finish, kill_after, start

from cyclealign.cli.main import main
from cyclealign.config.black_box import BlackBoxConfig
from cyclealign.config.schema import DemonstrationsConfig
from cyclealign.curation.accuracy import Paid
from cyclealign.curation.asking import Outcome, judge
from cyclealign.curation.improving import Improved, improve, last_word
from cyclealign.curation.instruction_search import ImprovePlan
from cyclealign.curation.metering import MeteredLedger
from cyclealign.curation.reflection import Reflector
from cyclealign.evaluation.labelled_pairs import labelled_pairs
from cyclealign.evaluation.result import read_result
from cyclealign.evaluation.statistics import paired_difference, share
from cyclealign.files.jsonl import write_jsonl
from cyclealign.judge.demonstrations import DemonstrationPool
from cyclealign.judge.template import RankTemplate, load_template, save_template
from cyclealign.types import RunStopped, UserError

PAIRS = labelled_pairs(planted_lengths(200), None)
CALLS = 400


def plan(template: RankTemplate, calls: int = CALLS) -> ImprovePlan:
    return ImprovePlan(template=template, calls=calls, passes=1, seed=3)


def found(
    path: Path, server: Loopback, template: RankTemplate, calls: int = CALLS, mind: str = "mind", **box: object
) -> Improved:
    pool = DemonstrationPool.start(DemonstrationsConfig(), static=(), template=template)
    section = BlackBoxConfig(model="judge", base_url=server.url, attempts=1, **box)
    with MeteredLedger(path, most_calls=calls) as ledger:
        return improve(
            plan(template, calls),
            PAIRS,
            pool,
            lambda made: judge(section, ledger, seed=3, template=made),
            Reflector(section.model_copy(update={"model": mind}), ledger).propose,
            ledger,
        )


def test_a_wrong_rule_is_mended_within_the_calls_and_the_gain_is_of_unseen_pairs(tmp_path: Path) -> None:
    template = planted_template()
    with Loopback(judge=JudgeAndMind(reading)) as server:
        first = found(tmp_path / "l.sqlite", server, template)
        assert len(server.requests) == first.paid.calls <= CALLS
        again = found(tmp_path / "l.sqlite", server, template)  # all is on the ledger
        assert len(server.requests) == first.paid.calls == sum(server.counts().values()) == len(server.counts())
    assert again == replace(first, paid=Paid(0, 0.0))
    rules = rules_of(first.best.instruction)
    assert WRONG not in rules
    assert set(RIGHT) <= set(rules)
    assert first.kept
    # The last word is on pairs of its own, with chosen replies of both lengths.
    parts = plan(template).parts(PAIRS)
    assert first.pairs == tuple(parts.reporting)
    assert not {p.id for p in first.pairs} & {p.id for part in parts[:2] for p in part}
    reporting = [int(p.prompt.messages[0]["content"].split()[1].rstrip(":")) for p in first.pairs]
    assert len(reporting) == 50
    assert 15 < sum(i % 2 for i in reporting) < 35
    before = [float(right(i, rules_of(template.instruction))) for i in reporting]
    after = [float(right(i, rules)) for i in reporting]
    assert first.test == paired_difference(before, after)
    assert first.arms[1].accuracy.estimate == share(sum(after), len(after))
    assert accuracy(rules) == pytest.approx(0.9)


def test_an_instruction_that_is_right_already_stays_and_so_does_one_that_only_luck_changed(tmp_path: Path) -> None:
    fine = replace(planted_template(), instruction=planted_template().instruction.replace(f"{WRONG}\n", ""))
    with Loopback(judge=JudgeAndMind(at_random)) as server:
        result = found(tmp_path / "l.sqlite", server, fine)
    assert not result.kept
    assert result.test is None or result.test.low is None or result.test.low <= 0


def test_a_judge_that_is_right_everywhere_ends_the_search(tmp_path: Path) -> None:
    """No mistake, no proposal, no call that is new: only the count of rounds ends it."""

    with Loopback(judge=prefers(lambda text: text.startswith("good"))) as server:
        result = found(tmp_path / "l.sqlite", server, planted_template())
        assert {r["model"] for r in server.requests} == {"judge"}
    assert (result.proposals, result.test, len(result.candidates)) == (0, None, 1)


def test_proposals_that_cannot_be_used_are_asked_for_once_more_then_counted(tmp_path: Path) -> None:
    """First without tags each time, then never with a place for the answer; what repairs take is metered like all."""

    def sloppy(body: Body) -> str:
        return "I would drop the rule on length." if len(body["messages"]) == 2 else reading(body)

    with Loopback(judge=JudgeAndMind(sloppy)) as server:
        mended = found(tmp_path / "a.sqlite", server, planted_template())
        minds = [r for r in server.requests if r["model"] == "mind"]
        assert len(server.requests) <= CALLS
    assert mended.kept
    # A start that still leads on some pairs is read again, and the same rule is found again.
    assert set(mended.unusable) <= {"it was proposed before, or is what there was"}
    assert len(minds) == 2 * mended.proposals
    assert "no text between <instruction>" in minds[1]["messages"][-1]["content"]
    with Loopback(judge=JudgeAndMind(lambda _: "<instruction>No place for an answer.</instruction>")) as server:
        none = found(tmp_path / "b.sqlite", server, planted_template())
    assert not none.kept
    assert none.proposals == plan(planted_template()).proposals == len(none.unusable)
    assert "missing placeholder {answer}" in none.unusable[0]


def test_errors_of_the_reflecting_model_are_not_swallowed(tmp_path: Path) -> None:
    status = [401]

    def script(_: int, body: Body) -> Fault | None:
        return Fault(status=status[0], body="{}") if body["model"] == "mind" and status else None

    with Loopback(judge=JudgeAndMind(reading), script=script) as server:
        with pytest.raises(UserError, match="check the key"):
            found(tmp_path / "l.sqlite", server, planted_template())
        status[0] = 500
        with pytest.raises(RunStopped, match="--reflect mind: no reply"):
            found(tmp_path / "l.sqlite", server, planted_template())
        status.clear()
        before = len(server.requests)
        mended = found(tmp_path / "l.sqlite", server, planted_template())  # what the judge said is found again
        assert mended.paid.calls == len(server.requests) - before < mended.calls
    assert mended.kept


def test_no_verdict_is_a_wrong_one_in_the_last_word() -> None:
    """A template that makes a judge refuse what it got wrong has gained nothing; what calls ran out for is left out."""
    start = [Outcome(1.0)] * 6 + [Outcome(0.0)] * 6 + [Outcome(0.0)]
    refusing = [Outcome(1.0)] * 6 + [Outcome(None, "refusal")] * 6 + [Outcome(None, "budget")]
    assert last_word(start, refusing) == paired_difference([1.0] * 6 + [0.0] * 6, [1.0] * 6 + [0.0] * 6)


@pytest.mark.parametrize(
    ("calls", "pairs", "message"), [(239, 200, "at least 240"), (CALLS, 39, "pairs of at least 40 prompts, got 39")]
)
def test_what_cannot_be_searched_is_refused(calls: int, pairs: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        plan(planted_template(), calls).check(PAIRS[:pairs])


@pytest.mark.parametrize(("calls", "passes", "n"), [(240, 1, 40), (600, 1, 1000), (480, 2, 77), (5000, 2, 300)])
def test_no_pair_is_in_two_parts_and_the_calls_are_enough(calls: int, passes: int, n: int) -> None:
    made = ImprovePlan(template=planted_template(), calls=calls, passes=passes, seed=0)
    pairs = labelled_pairs(planted_lengths(n), None)
    made.check(pairs)
    parts = made.parts(pairs)
    ids = [p.id for part in parts for p in part]
    assert len(set(ids)) == len(ids)
    assert all(parts)
    needed = passes * len(parts.validation) + made.round_calls(parts) + made.kept_back(parts)
    assert needed <= calls


def test_pairs_of_one_prompt_stand_in_one_part_and_once() -> None:
    """A file with every pair twice, and with more replies to a prompt, must not let the search see the last word."""
    more = [replace(p, rejected=f"another poor reply {n}") for n, p in enumerate(planted_lengths(200))]
    crowded = labelled_pairs([*planted_lengths(200), *more, *planted_lengths(200)[::-1]], None)
    parts = plan(planted_template(), 5000).parts(crowded)
    prompts = [{p.prompt.id for p in part} for part in parts]
    assert [len(found) for found in prompts] == [50, 50, 100]
    assert len(set.union(*prompts)) == 200
    assert [len(part) for part in parts] == [100, 100, 200]
    with pytest.raises(UserError, match="pairs of at least 40 prompts, got 39"):
        plan(planted_template()).check(labelled_pairs(planted_lengths(39) * 3, None))


def files(tmp_path: Path) -> None:
    save_template(tmp_path / "wrong.yaml", planted_template())
    rows = [
        {"prompt": p.messages[0]["content"], "chosen": p.chosen, "rejected": p.rejected} for p in planted_lengths(200)
    ]
    write_jsonl(tmp_path / "pairs.jsonl", rows)


def command(server: Loopback, name: str, *more: str) -> list[str]:
    return [
        *("prompts", "improve", "wrong.yaml", "pairs.jsonl", "--ranker", "openai:judge", "--reflect", "mind"),
        *("--calls", str(CALLS), "--out", f"{name}.yaml", "--ledger", f"{name}.sqlite", "--result", f"{name}.json"),
        *(f"base_url={server.url}", "max_concurrency=4", *more),
    ]


def test_the_command_killed_goes_on_and_writes_a_template_with_its_figures(tmp_path: Path) -> None:
    files(tmp_path)
    with Loopback(judge=JudgeAndMind(reading), delay=0.005) as server:

        def improve(name: str) -> subprocess.Popen[str]:
            return start(*command(server, name), folder=tmp_path)

        kill_after(improve("first"), 120, server)
        assert not (tmp_path / "first.yaml").exists()
        before = len(server.requests)
        assert 120 <= before < CALLS
        assert finish(improve("first"))[0] == 0
        repeated = sum(n - 1 for n in server.counts().values())
        assert len(server.requests) <= CALLS
    assert repeated <= 4  # those in flight when it was killed
    made = load_template(str(tmp_path / "first.yaml"))
    assert made.name == "first"
    assert WRONG not in made.instruction
    result = read_result(tmp_path / "first.json")
    assert result.eval == "prompts improve"
    assert result.metrics["kept"] is True
    assert result.about["improved"] == {"name": "first", "version": made.version}
    head = [line for line in (tmp_path / "first.yaml").read_text().splitlines() if line.startswith("#")]
    assert planted_template().version in head[0]
    assert any("improved - start +" in line for line in head)
    assert result.arms == ("start", "improved")


def test_the_command_prices_itself_refuses_and_writes_nothing_where_nothing_is_better(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    files(tmp_path)
    with Loopback(judge=JudgeAndMind(reading)) as server:
        assert main([*command(server, "dry", "price.input=1", "price.output=2"), "--dry-run"]) == 2
        assert "--reflect mind: price is the judge's" in capsys.readouterr().err
        mind = tmp_path / "mind.yaml"
        mind.write_text(f"black_box: {{model: mind, base_url: '{server.url}', price: {{input: 10, output: 20}}}}\n")
        dry = command(server, "dry", "price.input=1", "price.output=2")
        dry[dry.index("mind")] = str(mind)
        assert main([*dry, "--dry-run"]) == 0
        out = capsys.readouterr().out
        assert "judge judge: paid calls: at most 400" in out
        assert "reflecting mind: paid calls: at most 32" in out
        assert server.requests == []
    assert not (tmp_path / "dry.yaml").exists()
    with Loopback(judge=JudgeAndMind(lambda _: "no idea")) as server:
        assert main(command(server, "none")) == 1
    out = capsys.readouterr().out
    assert "no instruction was better" in out
    assert not (tmp_path / "none.yaml").exists()
    assert read_result(tmp_path / "none.json").metrics["kept"] is False
