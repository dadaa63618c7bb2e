"""The evals that judge nothing: reward, text, likelihood, retrieval, coherence, compare. By hand and by brute force."""

from __future__ import annotations

import gzip
import json
import math
import random
import string
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
from finished_run import finished_run, metrics, prompt
from tiny_policy import save_tiny

from cyclealign.cli.main import main
from cyclealign.evaluation.compare import paired_p
from cyclealign.evaluation.likelihood import divergence
from cyclealign.evaluation.retrieval import measured
from cyclealign.evaluation.reward import sigmoid
from cyclealign.evaluation.statistics import Estimate
from cyclealign.evaluation.text import bleu_char_pro_compat, overlap_figures, repetition, self_bleu, text_figures
from cyclealign.evaluation.words import words
from cyclealign.files.jsonl import write_jsonl
from cyclealign.files.records import write_record
from cyclealign.files.run_records import prompt_record
from cyclealign.types import UserError

Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)


def write(name: str, rows: list[dict[str, Any]]) -> str:
    Path(name).write_text("".join(json.dumps(r) + "\n" for r in rows))
    return name


def evaluated(name: str, *arguments: str) -> dict[str, Any]:
    assert main(["eval", name, *arguments]) == 0
    result: dict[str, Any] = json.loads(Path(f"eval_{name}.json").read_text())
    return result


def refused(capsys: Captured, *arguments: str) -> str:
    assert main(["eval", *arguments]) == 2
    return capsys.readouterr().err


# Text ----------------------------------------------------------------------------------------------------------


def test_pros_bleu_has_its_worked_examples() -> None:
    """58.2 over characters where sacreBLEU over words says 45.5; and nearly 20 for two unrelated sentences."""
    import sacrebleu

    hypothesis, reference = "the cat sat on a mat", "the cat sat on the mat today"
    assert round(bleu_char_pro_compat(hypothesis, reference), 1) == 58.2
    assert round(sacrebleu.sentence_bleu(hypothesis, [reference]).score, 1) == 45.5
    unrelated = (
        "The committee will announce its decision about the new library on Monday.",
        "She poured the coffee slowly while the children were playing in the garden.",
    )
    assert round(bleu_char_pro_compat(*unrelated), 1) == 18.0
    assert bleu_char_pro_compat("", "x") == 0.0
    assert bleu_char_pro_compat("abcd", "wxyz") == 0.0


def test_text_figures_by_hand() -> None:
    figures = text_figures(["a b a b", "I'm sorry, I can't help.", "", "x y z w x y z w x y z w"], seed=0)
    assert figures["empty_rate"].value == 0.25
    assert figures["refusal_rate"].value == 0.25
    assert repetition(["x", "y", "z", "w", "x", "y", "z", "w", "x", "y", "z", "w"]) == pytest.approx(1 - 4 / 9)
    assert figures["repetitive_rate"].value == 0.25


def test_self_bleu_is_high_for_copies_and_low_for_strangers() -> None:
    assert self_bleu(["the same words in here"] * 3, seed=0) == pytest.approx(100.0)
    low = self_bleu(["one two three four five", "red green blue black white"], seed=0)
    assert low is not None
    assert low < 20
    assert self_bleu(["alone"], seed=0) is None


def test_eval_text_with_references(capsys: Captured) -> None:
    rows = [{"prompt": f"q{n}", "response": t} for n, t in enumerate(("the cat sat on a mat", "all the same words"))]
    references = [{"prompt": "q0", "response": "the cat sat on the mat today"}]
    references.append({"prompt": "q1", "response": "all the same words"})
    paths = write("r.jsonl", rows), write("ref.jsonl", references)
    metrics = evaluated("text", paths[0], "--references", paths[1])["metrics"]
    assert metrics["with_reference"] == 2
    assert metrics["bleu_char_pro_compat"]["value"] == pytest.approx((58.24844 + 100) / 2, abs=1e-4)
    assert metrics["rougeL"]["value"] == pytest.approx((2 * 5 / 13 + 1) / 2)
    assert "nrefs:1" in metrics["sacrebleu_signature"]
    other = write("other.jsonl", [{"prompt": "elsewhere", "response": "x"}])
    assert "none of its prompts" in refused(capsys, "text", paths[0], "--references", other)
    assert "rougeL" not in evaluated("text", paths[0])["metrics"]


# Reward ----------------------------------------------------------------------------------------------------------


def test_eval_reward(capsys: Captured) -> None:
    rows = [{"prompt": "red blue", "response": "red"}, {"prompt": "green", "response": "black white"}]
    result = evaluated("reward", write("r.jsonl", rows), "--scorer", "overlap")
    assert result["metrics"]["reward"]["value"] == 0.5
    assert "reward_sigmoid_100" not in result["metrics"]
    assert [sigmoid(x) for x in (0.0, -800.0, 800.0)] == [0.5, 0.0, 1.0]
    refusal = refused(capsys, "reward", "r.jsonl", "--scorer", "taste")
    assert "expected one of local, sentence_similarity, overlap, reward_model:PATH" in refusal
    assert "name --prompts" in refused(capsys, "reward", "builtin:tiny-chat", "--scorer", "overlap")


# Likelihood ------------------------------------------------------------------------------------------------------


def test_likelihood_agrees_with_transformers(tmp_path: Path) -> None:
    """Accuracy and NLL against the model's own loss on the same tokens."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    policy = save_tiny(tmp_path / "policy")
    rows = [{"prompt": "hello world", "chosen": "good yes", "rejected": "bad no a b"}]
    rows.append({"prompt": "a b", "chosen": "no", "rejected": "yes"})
    result = evaluated("likelihood", str(policy), write("d.jsonl", rows))
    model, tokenizer = AutoModelForCausalLM.from_pretrained(policy), AutoTokenizer.from_pretrained(policy)
    wanted = []
    for row in rows:
        prompt = tokenizer(f"<|user|> {row['prompt']}<|end|><|assistant|> ")["input_ids"]
        losses = []
        for side in ("chosen", "rejected"):
            reply = tokenizer(f"{row[side]}<|end|>")["input_ids"]
            labels = torch.tensor([[-100] * len(prompt) + reply])
            losses.append(model(torch.tensor([prompt + reply]), labels=labels).loss.item())
        wanted.append(losses)
    metrics = result["metrics"]
    assert metrics["nll_of_best"]["value"] == pytest.approx(fmean(a for a, _ in wanted), abs=1e-4)
    assert metrics["nll_of_others"]["value"] == pytest.approx(fmean(b for _, b in wanted), abs=1e-4)
    assert metrics["accuracy"]["value"] == fmean(float(a < b) for a, b in wanted)


def test_kl_of_a_run_to_its_start(tmp_path: Path, capsys: Captured) -> None:
    run = finished_run(tmp_path / "made")
    data = write("d.jsonl", [{"prompt": "hello", "chosen": "good yes", "rejected": "bad no"}])
    prompts = write("p.jsonl", [{"prompt": p} for p in ("hello", "good", "a b c", "world")])
    keys = [f"--generator={k}" for k in ("backend=transformers", "max_new_tokens=8", "temperature=1.0", "top_p=1.0")]
    kl = evaluated("likelihood", str(run.path), data, "--prompts", prompts, *keys)["metrics"]["kl_to_start"]
    assert kl["k3"]["value"] > 0.001
    assert kl["per_reply"]["n"] == 4
    base = str(tmp_path / "made" / "policy")
    assert "is not known" in refused(capsys, "likelihood", base, data, "--prompts", prompts)


def _value(figure: object) -> float:
    assert isinstance(figure, Estimate)
    return figure.value


def test_divergence_by_hand() -> None:
    same = [[[-1.0, -2.0]], [[-0.5]]]
    assert _value(divergence(same, same, seed=0)["per_reply"]) == 0.0
    moved = divergence([[[-1.0, -2.0]]], [[[-1.5, -1.8]]], seed=0)
    assert _value(moved["per_reply"]) == pytest.approx(0.3)
    assert _value(moved["per_token"]) == pytest.approx(0.15)
    k3 = [math.exp(-d) - 1 + d for d in (0.5, -0.2)]
    assert _value(moved["k3"]) == pytest.approx(fmean(k3))


# Retrieval -------------------------------------------------------------------------------------------------------


def test_retrieval_by_hand(capsys: Captured) -> None:
    Path("qrels").write_text("q1 0 a 2\nq1 0 b 1\nq2 0 c 1\nq3 0 d 1\n")
    Path("run").write_text("q1 Q0 b 1 9 me\nq1 Q0 a 2 8 me\nq2 Q0 x 1 5 me\nq2 Q0 c 2 4 me\nq9 Q0 a 1 1 me\n")
    result = evaluated("retrieval", "qrels", "run")
    metrics = result["metrics"]
    first = (1 + 2 / math.log2(3)) / (2 + 1 / math.log2(3))
    assert metrics["nDCG@10"]["value"] == pytest.approx((first + 1 / math.log2(3) + 0) / 3)
    assert metrics["RR@10"]["value"] == pytest.approx((1 + 0.5 + 0) / 3)
    assert metrics["queries_without_documents"] == 1
    assert [i["key"] for i in result["items"]] == ["q1", "q2", "q3"]
    assert "expected names like" in refused(capsys, "retrieval", "qrels", "run", "--measure", "taste@3")
    Path("bad").write_text("q1 a\n")
    assert "bad:1: expected a line of TREC qrels" in refused(capsys, "retrieval", "bad", "run")
    assert measured({"q": {"d": 1}}, {"q": {"d": 0.5}}, ["P@1"]) == {"P@1": {"q": 1.0}}


FLOATS = "q1 0 d1 0.5\nq1 0 d2 2.5\nq1 0 d3 0\nq2 0 d1 0.9\nq2 0 d4 0.1\n"
FLOAT_RUN = "q1 Q0 d3 1 3 x\nq1 Q0 d1 2 2 x\nq1 Q0 d2 3 1 x\nq2 Q0 d4 1 2 x\nq2 Q0 d1 2 1 x\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "gzip"])
def test_grades_need_not_be_whole_and_files_not_plain(encoding: str) -> None:
    for name, text in (("qrels", FLOATS), ("run", FLOAT_RUN)):
        Path(name).write_bytes(gzip.compress(text.encode()) if encoding == "gzip" else text.encode(encoding))
    metrics = evaluated("retrieval", "qrels", "run")["metrics"]
    assert metrics["queries"] == 2
    assert metrics["nDCG@10"]["value"] == pytest.approx(0.6247, abs=5e-5)
    assert metrics["RR@10"]["value"] == pytest.approx((1 / 2 + 1) / 2)
    assert metrics["AP"]["value"] == pytest.approx(((1 / 2 + 2 / 3) / 2 + 1) / 2)


def test_grades_of_any_size_are_measured_as_their_whole_multiples() -> None:
    rng = random.Random(0)
    whole = {f"q{q}": {f"d{d}": float(rng.randrange(-1, 5)) for d in range(20)} for q in range(9)}
    run = {q: {f"d{d}": float(rng.randrange(6)) for d in range(25)} for q in whole}
    half = {q: {d: g / 2 for d, g in grades.items()} for q, grades in whole.items()}
    names = ["nDCG@5", "nDCG", "AP", "RR", "P@5", "R@10"]
    ours, theirs = measured(half, run, names), measured(whole, run, names)
    for name in names:
        assert ours[name] == pytest.approx(theirs[name])
    assert measured(half, run, ["AP(rel=2)"])["AP(rel=2)"] == pytest.approx(
        measured(whole, run, ["AP(rel=4)"])["AP(rel=4)"]
    )
    with pytest.raises(UserError, match=r"--measure ERR@10: needs whole numbers as grades, got .*; nDCG takes any"):
        measured(half, run, ["ERR@10"])


def test_equal_scores_have_one_order_for_all_measures() -> None:
    """trec_eval's: the greater id first, so d3, d2, d1; also where scores differ by less than 32 bits hold."""
    for scores in ({"d3": 1.0, "d1": 1.0, "d2": 1.0}, {"d3": 1 + 2e-12, "d1": 1.0, "d2": 1 + 1e-12}):
        found = measured({"q": {"d1": 1.0, "d2": 2.0}}, {"q": scores}, ["RR@10", "AP", "nDCG@10", "P@2"])
        ideal = 2 + 1 / math.log2(3)
        assert {name: values["q"] for name, values in found.items()} == pytest.approx(
            {"RR@10": 1 / 2, "AP": (1 / 2 + 2 / 3) / 2, "nDCG@10": (2 / math.log2(3) + 1 / 2) / ideal, "P@2": 1 / 2}
        )


# Words ----------------------------------------------------------------------------------------------------------

EQUAL = (
    "你好，世界。",
    "日本語のテキスト",
    "สวัสดีชาวโลก",
    "नमस्ते दुनिया",
    "안녕하세요 세계",
    "Привет мир",
    "مرحبا بالعالم",
    "🙂🙂",
    "!!!",
)


@pytest.mark.parametrize("text", EQUAL)
def test_equal_texts_overlap_wholly_in_every_script(text: str) -> None:
    figures, rouge_l = overlap_figures([text], [text], seed=0)
    assert rouge_l == [1.0]
    assert _value(figures["rouge1"]) == _value(figures["rouge2"]) == 1.0
    other, _ = overlap_figures([text], ["something else"], seed=0)
    assert _value(other["rouge1"]) == 0.0


def test_words_of_scripts_without_spaces_and_with_marks() -> None:
    assert words("你好, ok!") == ["你", "好", ",", "ok", "!"]
    assert words("नमस्ते दुनिया") == ["नमस्ते", "दुनिया"]
    assert words("It's 3.5 naïve_x") == ["it", "'", "s", "3", ".", "5", "naïve_x"]
    assert words("cafe\u0301") == ["café"]
    long = "这是一个很长的句子，用来测试。"
    assert overlap_figures([long], [long], seed=0)[0]["sacrebleu"] == pytest.approx(100)
    assert _value(text_figures(["哈哈哈哈哈哈哈哈哈哈"], seed=0)["repetition"]) == pytest.approx(6 / 7)


def test_english_has_the_rouge_of_the_library() -> None:
    from rouge_score.rouge_scorer import RougeScorer

    rng = random.Random(0)
    for _ in range(50):
        first, second = ("".join(rng.choices(string.printable, k=40)) + " the running_cats'" for _ in range(2))
        theirs = RougeScorer(["rougeL"], use_stemmer=True).score(second, first)["rougeL"].fmeasure
        assert overlap_figures([first], [second], seed=0)[1] == [theirs]


# Coherence -------------------------------------------------------------------------------------------------------


def test_coherence_by_hand(capsys: Captured) -> None:
    rows = [{"score": s, "human": h} for s, h in ((0.1, [1, 1]), (0.4, [2, 3]), (0.3, [4, 4]), (0.9, [5, 5]))]
    metrics = evaluated("coherence", write("c.jsonl", rows))["metrics"]
    assert metrics["spearman"]["value"] == pytest.approx(0.8)
    assert metrics["kendall"]["value"] == pytest.approx(4 / 6)
    x, y = [0.1, 0.4, 0.3, 0.9], [1.0, 2.5, 4.0, 5.0]
    mx, my = fmean(x), fmean(y)
    r = sum((a - mx) * (b - my) for a, b in zip(x, y, strict=True))
    r /= math.sqrt(sum((a - mx) ** 2 for a in x) * sum((b - my) ** 2 for b in y))
    assert metrics["pearson"]["value"] == pytest.approx(r)
    chat = ["hi", "yes?", "red blue"]
    spoken = [{"context": chat, "response": w, "human": n} for n, w in enumerate(("x", "red", "blue"))]
    scored = evaluated("coherence", write("s.jsonl", spoken), "--scorer", "overlap")
    assert [i["values"]["score"] for i in scored["items"]] == [0.0, 1.0, 1.0]
    assert "c2.jsonl:1: expected score" in refused(capsys, "coherence", write("c2.jsonl", [{"human": 1}]))
    assert "c3.jsonl:1: expected human" in refused(capsys, "coherence", write("c3.jsonl", [{"score": 1}]))
    assert "three items" in refused(capsys, "coherence", write("c4.jsonl", rows[:2]))


# Compare ---------------------------------------------------------------------------------------------------------


def test_compare_pairs_items_and_corrects(capsys: Captured) -> None:
    texts = [("red blue", "red"), ("green", "black"), ("one two", "one"), ("big", "small"), ("q", "w"), ("e r", "e")]
    for name, hits in (("low", 1), ("mid", 3), ("high", 6)):
        rows = [{"prompt": p, "response": p if n < hits else r} for n, (p, r) in enumerate(texts)]
        result = evaluated("reward", write(f"{name}.jsonl", rows), "--scorer", "overlap")
        Path(f"{name}.json").write_text(json.dumps(result))
    found = evaluated("compare", "low.json", "mid.json", "high.json")
    gaps = found["differences"]
    assert set(gaps) == {"mid - low", "high - low", "high - mid"}
    assert gaps["high - low"]["difference"]["value"] == pytest.approx(
        found["subsets"]["high"]["reward"]["value"] - found["subsets"]["low"]["reward"]["value"]
    )
    assert all(g["p_holm"] >= g["p"] for g in gaps.values())
    assert "differences" in Path("eval_compare.html").read_text()
    assert "two results at least" in refused(capsys, "compare", "low.json")
    newer = json.loads(Path("low.json").read_text()) | {"format": 2}
    Path("newer.json").write_text(json.dumps(newer))
    assert "format 2 is newer than this version" in refused(capsys, "compare", "low.json", "newer.json")
    Path("none.json").write_text("[]")
    assert "expected a result" in refused(capsys, "compare", "low.json", "none.json")


def test_the_randomisation_test_is_exact_where_it_can_be() -> None:
    # Three differences of one sign: of 8 sign patterns the two extremes are as large.
    assert paired_p([0.0, 0.0, 0.0, 1.0], [1.0, 1.0, 1.0, 1.0], 0) == pytest.approx(2 / 8)
    assert paired_p([0.5, 0.5], [0.5, 0.5], 0) == 1.0
    assert paired_p([0.0] * 40, [1.0] * 30 + [-1.0] * 10, 0) == pytest.approx(0.0022, abs=0.002)


def test_compare_reads_runs(tmp_path: Path, capsys: Captured) -> None:
    run = finished_run(tmp_path / "made")
    assert "its evaluations have no reward" in refused(capsys, "compare", str(run.path))
    write_jsonl(run.prompts / "eval.jsonl", [prompt_record(prompt(f"q{n}")) for n in range(8)])
    ids = [prompt(f"q{n}").id for n in range(8)]
    for trained, gain in ((0, 0.0), (2, 0.5)):
        rewards = {i: n + gain for n, i in enumerate(ids)}
        write_record(run.evaluation(trained) / "metrics.json", replace(metrics(trained, 3.0), reward_by_prompt=rewards))
    found = evaluated("compare", str(run.path))
    assert found["subsets"]["run@start"]["reward"]["value"] == 4.0  # places 1, 3, 5 and 7: the others chose
    assert found["differences"]["run@kept - run@start"]["difference"]["value"] == pytest.approx(0.5)
