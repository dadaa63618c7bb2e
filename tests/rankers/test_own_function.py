"""The user's own Python as a ranker and scorer: every way in which a function can answer, and go wrong."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from cyclealign.cli.main import main
from cyclealign.files.jsonl import read_jsonl
from cyclealign.rankers.by_name import open_ranker, open_scorer, ranker_spec, scorer_by_name
from cyclealign.rankers.own_code import read_code
from cyclealign.rankers.own_function import OwnFunction
from cyclealign.types import Candidate, CandidateSet, Prompt, RankContext, Ranking, Unranked, UserError
from tests.helpers.replayed import NoDemonstrations

CONTEXT = RankContext(run="r", interaction=0, seed=0, demonstrations=NoDemonstrations())
DOCS = (Path(__file__).resolve().parents[2] / "docs" / "judges.md").read_text(encoding="utf-8")
HEAD = "def judge(messages, replies) -> list[float]:\n    "
MUTE = "class Mute(Exception):\n    def __repr__(self): return 1 / 0\n    __str__ = __repr__\n"
ORDER = "def judge(messages, replies) -> list[str]:\n    "


def asked(*texts: str) -> CandidateSet:
    prompt = Prompt(({"role": "user", "content": "a red cat?"},))
    return CandidateSet(prompt, tuple(Candidate(f"c{n}", text) for n, text in enumerate(texts)))


def own(tmp_path: Path, source: str, function: str = "judge") -> OwnFunction:
    file = tmp_path / "mine.py"
    file.write_text(source)
    return OwnFunction(read_code(f"{file}:{function}", "--ranker python"), "--ranker python")


def verdict(ranker: OwnFunction, *texts: str) -> Ranking | Unranked:
    item = asked(*texts)
    (found,) = ranker.rank([item], CONTEXT)
    assert found.set_id == item.id
    assert found.prompt_id == item.prompt.id
    return found


@pytest.mark.parametrize(
    ("returned", "tiers"),
    [
        ("[len(r) for r in replies]", (("c1",), ("c0",), ("c2",))),
        ("(1.5, 2, 1.5)", (("c1",), ("c0", "c2"))),
        ("(len(r) for r in replies)", (("c1",), ("c0",), ("c2",))),
        ("__import__('numpy').array([0.25, -1, 2])", (("c2",), ("c0",), ("c1",))),
        ("__import__('torch').tensor([0, 1, 2])", (("c2",), ("c1",), ("c0",))),
        ("[messages[0].update(role='x') or replies.pop() and 1.0, 2, 3]", (("c2",), ("c1",), ("c0",))),
    ],
)
def test_numbers_are_scores(tmp_path: Path, returned: str, tiers: tuple[tuple[str, ...], ...]) -> None:
    found = verdict(own(tmp_path, f"{HEAD}return {returned}\n"), "bb", "ccc", "a")
    assert isinstance(found, Ranking)
    assert found.tiers == tiers
    assert found.scores is not None
    assert set(found.scores) == {"c0", "c1", "c2"}


@pytest.mark.parametrize(
    ("texts", "returned", "tiers"),
    [
        (("bb", "ccc", "a"), "sorted(replies, key=len)", (("c2",), ("c0",), ("c1",))),
        (("same", "b", "same"), "sorted(replies, key=len)", (("c1",), ("c0", "c2"))),
    ],
)
def test_texts_are_an_order(
    tmp_path: Path, texts: tuple[str, ...], returned: str, tiers: tuple[tuple[str, ...], ...]
) -> None:
    ranker = own(tmp_path, f"{ORDER}return {returned}\n")
    found = verdict(ranker, *texts)
    assert isinstance(found, Ranking)
    assert (found.tiers, found.scores, ranker.gives) == (tiers, None, "order")


@pytest.mark.parametrize(
    ("source", "detail"),
    [
        (f"{HEAD}return 1 / 0", r"mine\.py, line 2: ZeroDivisionError: division by zero"),
        (f"{HEAD}raise SystemExit(3)", r"line 2: SystemExit: 3"),
        (f"{HEAD}return judge(messages, replies)", "RecursionError"),
        (f"{HEAD}return [1.0]", "expected 2 scores, got 1"),
        (f"{HEAD}return [1, 2, 3]", "expected 2 scores, got more"),
        (f"{HEAD}return iter(int, 1)", "expected 2 scores, got more"),
        (f"{HEAD}return [1.0, float('nan')]", "score 1: expected a finite number, got nan"),
        (f"{HEAD}return [10**400, 1]", "score 0: expected a number, got 1000"),
        (f"{HEAD}return [10**5000, 1]", "score 0: expected a number, got int"),
        (f"{MUTE}{HEAD}return [Mute(), 1]", "score 0: expected a number, got Mute"),
        (f"{MUTE}{HEAD}raise Mute", "line 5: Mute: Mute"),
        (f"{HEAD}return [True, 1]", "score 0: expected a finite number, got True"),
        (f"{HEAD}return [None, 1]", "score 0: expected a number, got None"),
        (f"{HEAD}return replies", r"says so: -> list\[str\]"),
        (f"{HEAD}return None", "expected a list, got NoneType"),
        (f"{HEAD}return 'ab'", "expected a list, got str"),
        (f"{HEAD}return {{1.0, 2.0}}", "expected a list, got set"),
        (f"{HEAD}return dict(zip(replies, (1, 2)))", "expected a list, got dict"),
        (f"{HEAD}yield 1.0\n    raise KeyError('k')", "line 3: KeyError: 'k'"),
        (f"{ORDER}return [replies[0]] * 2", "expected each reply once, got one 2 times: first"),
        (f"{ORDER}return replies[:1]", "expected 2 replies, best first, got 1"),
        (f"{ORDER}return [r.upper() for r in replies]", "something that is none of them"),
        (f"{ORDER}return [1, 0]", "something that is none of them"),
    ],
)
def test_what_is_no_answer_is_an_unusable_verdict_that_says_why(tmp_path: Path, source: str, detail: str) -> None:
    found = verdict(own(tmp_path, f"{source}\n"), "first", "second")
    assert isinstance(found, Unranked)
    assert found.reason == "unusable"
    assert re.search(detail, found.detail), found.detail
    assert "\n" not in found.detail


def test_equal_replies_apart_are_no_order(tmp_path: Path) -> None:
    found = verdict(own(tmp_path, f"{ORDER}return replies\n"), "same", "b", "same")
    assert isinstance(found, Unranked)
    assert "side by side" in found.detail


def test_one_candidate_is_not_asked_about(tmp_path: Path) -> None:
    found = verdict(own(tmp_path, f"{HEAD}return 1 / 0\n"), "alone")
    assert isinstance(found, Unranked)
    assert found.reason == "too_few"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def judge(:\n", r"--ranker python: .*mine\.py, line 1: SyntaxError: "),
        ("x = 1\nimport no_such_module\n", r"mine\.py, line 2: ModuleNotFoundError: No module named 'no_such_module'"),
        ("import neighbour\n", r"line 1: ModuleNotFoundError: No module named 'neighbour'"),
        ("print(__file__)\n", r"NameError: name '__file__' is not defined"),
        ("raise SystemExit\n", "line 1: SystemExit"),
        ("x = b'\\xff'.decode()\n", "UnicodeDecodeError"),
        ("other = 1\n", r"mine\.py: judge: expected a function .*; got none"),
        ("judge = 3\n", "expected a function .*; got int"),
        ("async def judge(messages, replies): ...\n", "expected a function .*; got function"),
        ("def judge(messages): ...\n", "expected a function .*: too many positional arguments"),
        ("def judge(messages, replies, *, k): ...\n", "missing a required .*argument: 'k'"),
        ("def judge(messages, replies) -> list[int]: ...\n", r"expected a function .*got -> list"),
        ("def judge(messages, replies) -> str: ...\n", "got -> str"),
        ("def judge(messages, replies) -> 'Lost[float]': ...\n", "its annotations cannot be read: name 'Lost'"),
    ],
)
def test_a_mistake_in_the_file_is_one_line_at_the_start(tmp_path: Path, source: str, message: str) -> None:
    (tmp_path / "neighbour.py").write_text("raise AssertionError('imported')\n")
    with pytest.raises(UserError, match=message) as raised:
        own(tmp_path, source)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("place", ["mine.py", "mine:judge", "mine.py:", "mine.py:a-b", ":judge", "mine.txt:judge"])
def test_a_name_that_is_none_is_refused_everywhere(place: str) -> None:
    with pytest.raises(UserError, match=r"--ranker python: expected python:FILE\.py:FUNCTION"):
        ranker_spec(f"python:{place}")


def test_a_file_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    for place in (tmp_path / "none.py", tmp_path):
        with pytest.raises(UserError, match=r"no file|expected python"):
            open_ranker(ranker_spec(f"python:{place}:judge"), lambda: pytest.fail("no ledger"))


def test_the_kind_serves_as_ranker_and_as_scorer(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(f"{HEAD}return [len(r) for r in replies]\n\ndef order(m, r) -> list[str]:\n    return r\n")
    spec = ranker_spec(f"python:{file}:judge")
    assert spec.gives == "magnitude"
    assert scorer_by_name(spec.name).score([((), "four"), ((), "")]) == [4.0, 0.0]
    assert ranker_spec(f"python:{file}:order").gives == "order"
    with pytest.raises(UserError, match="expected scores of single replies, and it gives an order alone"):
        open_scorer(ranker_spec(f"python:{file}:order"))
    file.write_text(f"{HEAD}return [1 / len(r) for r in replies]\n")
    with pytest.raises(UserError, match=r"line 2: ZeroDivisionError"):
        scorer_by_name(spec.name).score([((), "four"), ((), "")])


def test_rank_puts_nothing_but_verdicts_on_the_terminal_and_refuses_another_file_at_a_second_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, sets = tmp_path / "mine.py", tmp_path / "sets.jsonl"
    file.write_text(f"print('loading')\n{HEAD}print('judging'); return [len(r) for r in replies]\n")
    rows = [{"prompt": f"p{n}", "candidates": ["a", "bb"]} for n in range(2)]
    sets.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["rank", str(sets), "--ranker", f"python:{file}:judge"]
    assert main(words) == 0
    said = capsys.readouterr()
    assert [json.loads(line)["tiers"] for line in said.out.splitlines()] == [[["1"], ["0"]]] * 2
    assert "judging" in said.err
    out = tmp_path / "verdicts.jsonl"
    assert main([*words, "--out", str(out)]) == 0
    assert len(list(read_jsonl(out))) == 2
    file.write_text(f"{HEAD}return [1 / 0]\n")
    assert main([*words, "--out", str(out)]) == 2  # the other function is not asked, and not mixed in
    assert "settings differs" in capsys.readouterr().err


def test_the_example_of_the_page_runs(tmp_path: Path) -> None:
    (example,) = re.findall(r"## Your own function.*?```python\n(.*?)```", DOCS, flags=re.DOTALL)
    assert len(example.splitlines()) <= 30
    texts = ("It is a red cat.", "A very long reply about nothing in particular.", "Yes.")
    by_score, by_length = (own(tmp_path, example, name) for name in ("judge", "shortest"))
    found = verdict(by_score, *texts)
    assert isinstance(found, Ranking)
    assert found.order == ("c0", "c1", "c2")
    found = verdict(by_length, *texts)
    assert isinstance(found, Ranking)
    assert found.order == ("c2", "c0", "c1")
