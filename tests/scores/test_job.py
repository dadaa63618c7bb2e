"""``cyclealign score`` end to end: every kind of teacher, resuming, averaging, calibrating, writing, refusing."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_encoders
import torch
from loopback import Body, Fault, Loopback, prefers, shown
from tiny_policy import save_tiny

from cyclealign.cli.main import main
from cyclealign.rankers.encoders import CrossEncoderScorer
from cyclealign.scores.store import ScoreStore
from cyclealign.types import Message, Prompt, sha256_hex

Captured = pytest.CaptureFixture[str]
TRIPLES = [
    ("the red cat ?", "a red cat sleeps", "the dog runs"),
    ("the red cat ?", "a red cat sleeps", "a bird"),
    ("a dog", "the dog runs", "a bird sings"),
]


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The triples lie in the current directory; the libraries' own warnings are no concern here."""
    import warnings

    monkeypatch.chdir(tmp_path)
    Path("triples.tsv").write_text("".join("\t".join(t) + "\n" for t in TRIPLES))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def score(*arguments: str, file: str = "triples.tsv") -> int:
    return main(["score", file, "--store", "s.sqlite", *arguments])


def write_rows(path: str, *rows: object) -> None:
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows))


def read_rows(path: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def read_tsv(path: str) -> list[list[str]]:
    return [line.split("\t") for line in Path(path).read_text().splitlines()]


def test_a_cross_encoder_scores_each_pair_once_and_writes_its_logits(capsys: Captured) -> None:
    tiny_encoders.save_encoder(Path("ce"), head=True)
    assert score("--teacher", "cross_encoder:ce", "--write", "margin_mse_text:out.tsv") == 0
    assert "5 pairs scored" in capsys.readouterr().err
    from sentence_transformers import CrossEncoder

    model = CrossEncoder("ce", device="cpu")
    for row, (query, positive, negative) in zip(read_tsv("out.tsv"), TRIPLES, strict=True):
        logits = model.predict([(query, positive), (query, negative)], activation_fn=torch.nn.Identity())
        assert [float(v) for v in row[:2]] == pytest.approx(logits.tolist(), abs=1e-5)
        assert row[2:] == [query, positive, negative]
    meta = json.loads(Path("out.tsv.meta.json").read_text())
    assert meta["gives"] == "magnitude"
    (teacher,) = meta["teachers"]
    assert teacher["provenance"]["output"] == "logit"
    assert len(teacher["provenance"]["sha256"]) == 64
    assert teacher["calibration"] == {"method": "raw", "shift": 0.0, "scale": 1.0, "pairs": 5}
    assert score("--teacher", "cross_encoder:ce") == 0
    assert "0 pairs scored, 5 were there" in capsys.readouterr().err
    # Only what this file asks for, not all that the store has heard of.
    Path("more.tsv").write_text("a dog\tthe cat\tthe bird\n")
    tiny_encoders.save_encoder(Path("other"), head=True, seed=1)
    assert score("--teacher", "cross_encoder:other", file="more.tsv") == 0
    assert "2 pairs scored" in capsys.readouterr().err


def test_a_killed_run_goes_on_where_it_stopped(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_encoders.save_encoder(Path("ce"), head=True)
    monkeypatch.setattr("cyclealign.scores.job.COMMIT", 2)
    whole = CrossEncoderScorer.score
    calls: list[int] = []

    def killed(self: CrossEncoderScorer, pairs: object) -> list[float]:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return whole(self, pairs)  # type: ignore[arg-type]

    monkeypatch.setattr(CrossEncoderScorer, "score", killed)
    assert score("--teacher", "cross_encoder:ce") == 130
    assert score("--teacher", "cross_encoder:ce") == 0
    assert "3 pairs scored" in (err := capsys.readouterr().err)
    assert "2 were there" in err


def test_another_model_at_the_same_place_is_refused(capsys: Captured) -> None:
    tiny_encoders.save_encoder(Path("ce"), head=True)
    assert score("--teacher", "cross_encoder:ce") == 0
    Path("ce").rename("old")
    tiny_encoders.save_encoder(Path("ce"), head=True, seed=1)
    Path("more.tsv").write_text("a dog\tthe cat\tthe bird\n")
    assert score("--teacher", "cross_encoder:ce", file="more.tsv") == 2
    assert "was another teacher when it scored before (sha256" in capsys.readouterr().err


def test_bi_encoder_and_mean_of_teachers() -> None:
    """The ensemble is the mean of the raw scores; calibrated, of the calibrated ones."""
    tiny_encoders.save_encoder(Path("ce"), head=True)
    tiny_encoders.dense(Path("bert")).save("bi")
    both = ("--teacher", "cross_encoder:ce", "--teacher", "bi_encoder:bi")
    assert score(*both, "--write", "margin_mse_text:t2.tsv") == 0
    for name, teacher in (("ce", both[:2]), ("bi", both[2:])):
        assert score(*teacher, "--write", f"margin_mse_text:{name}.tsv") == 0
    for mean, one, other in zip(read_tsv("t2.tsv"), read_tsv("ce.tsv"), read_tsv("bi.tsv"), strict=True):
        for column in (0, 1):
            assert float(mean[column]) == pytest.approx((float(one[column]) + float(other[column])) / 2, abs=1e-12)
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer("bi", device="cpu")
    query, positive, _ = TRIPLES[0]
    cosine = model.similarity(model.encode([query]), model.encode([positive])).item()
    assert float(read_tsv("bi.tsv")[0][0]) == pytest.approx(cosine, abs=1e-5)
    assert score(*both, "--calibrate", "zscore", "--write", "bge:z.jsonl") == 0
    rows = [json.loads(line) for line in Path("z.jsonl").read_text().splitlines()]
    assert rows[0]["pos"] == [TRIPLES[0][1]]
    store = ScoreStore(Path("s.sqlite"))
    parts = [store.calibration(n, "zscore") for n in ("cross_encoder:ce", "bi_encoder:bi")]
    store.close()
    raw = [float(read_tsv(f"{n}.tsv")[0][0]) for n in ("ce", "bi")]
    expected = sum(c(v) for c, v in zip(parts, raw, strict=True)) / 2
    assert rows[0]["pos_scores"][0] == pytest.approx(expected, abs=1e-9)


def test_a_multi_vector_teacher_gives_maxsim() -> None:
    tiny_encoders.multi_vector(Path("bert")).save("colbert")
    assert score("--teacher", "multi_vector:colbert", "--write", "margin_mse_text:out.tsv") == 0
    from sentence_transformers import MultiVectorEncoder

    model = MultiVectorEncoder("colbert", device="cpu")
    for row, (query, *documents) in zip(read_tsv("out.tsv"), TRIPLES, strict=True):
        tokens = torch.as_tensor(model.encode_query([query])[0])
        expected = [
            (tokens @ torch.as_tensor(d).T).max(dim=1).values.sum().item() for d in model.encode_document(documents)
        ]
        assert [float(v) for v in row[:2]] == pytest.approx(expected, abs=1e-5)


def test_a_kernel_model_is_a_cross_encoder_among_teachers() -> None:
    from sentence_transformers import CrossEncoder
    from transformers import AutoModel, AutoTokenizer

    from cyclealign.models.tk import TK

    path = tiny_encoders.save_encoder(Path("bert"))
    encoder, tokenizer = AutoModel.from_pretrained(path), AutoTokenizer.from_pretrained(path)
    model = CrossEncoder(modules=[TK(encoder, tokenizer, max_query_tokens=8, max_document_tokens=16)], device="cpu")
    model.save_pretrained("tk")
    assert score("--teacher", "cross_encoder:tk", "--write", "margin_mse_text:out.tsv") == 0
    query, *documents = TRIPLES[0]
    logits = model.predict([(query, d) for d in documents], activation_fn=torch.nn.Identity())
    assert [float(v) for v in read_tsv("out.tsv")[0][:2]] == pytest.approx(logits.tolist(), abs=1e-5)


def test_a_causal_model_and_a_reward_model() -> None:
    save_tiny(Path("lm"))
    tiny_encoders.save_encoder(Path("rm"), head=True)
    both = ("--teacher", "policy:lm", "--teacher", "reward_model:rm")
    assert score(*both, "--write", "ntuples:both.jsonl") == 0
    rows = [json.loads(line) for line in Path("both.jsonl").read_text().splitlines()]
    assert [row["query"] for row in rows] == [t[0] for t in TRIPLES]
    store = ScoreStore(Path("s.sqlite"))
    assert {t.gives for t in store.teachers().values()} == {"magnitude"}
    store.close()


def test_a_black_box_ranks_whole_lists_and_gives_an_order(capsys: Captured) -> None:
    with Loopback(judge=prefers(len)) as server:
        judge = ("--teacher", "openai:judge", f"base_url={server.url}")
        assert score(*judge, "--write", "trec:out.run") == 0
        asked = len(server.requests)
        assert score(*judge) == 0
        assert len(server.requests) == asked  # each list is paid for once
        lines = Path("out.run").read_text().splitlines()
        scores = [float(line.split()[4]) for line in lines]
        # Three distinct documents of the first query, from its lists of two into one list: by length, 2 > 1 > 0.
        assert scores == [2.0, 1.0, 0.0, 1.0, 0.0]
        capsys.readouterr()
        assert score(*judge, "--for", "margin_mse") == 2
        message = capsys.readouterr().err
        assert "--for margin_mse: needs magnitudes, but openai:judge gives an order alone; it can feed rrhf" in message
        assert score(*judge, "--for", "cprd") == 0
        assert score(*judge, "--write", "bge:x.jsonl") == 2
        assert "its readers take scores for magnitudes" in capsys.readouterr().err
        Path("more.tsv").write_text("the red cat ?\ta cat\ta dog\n")
        assert score(*judge, file="more.tsv") == 2
        assert "has been ranked with fewer documents" in capsys.readouterr().err
        assert score("--teacher", "openai:judge", f"base_url={server.url}", "passes=3", "--for", "margin_mse") == 2
        assert "gave order, now magnitude" in capsys.readouterr().err


def refusing(*texts: str) -> Callable[[int, Body], Fault | None]:
    """No verdict on the lists that hold one of these texts."""

    def script(_: int, body: Body) -> Fault | None:
        try:
            found = set(shown(body))
        except ValueError:  # the probe has no candidates
            return None
        return Fault(text="I will not say.") if found & set(texts) else None

    return script


LISTS = [
    {"query": "a", "documents": ["one", "three"]},
    {"query": "b", "documents": ["four", "fourteen"]},
    {"query": "c", "documents": ["alone"]},
]


def test_lists_without_a_verdict_are_left_out_of_what_is_written(capsys: Captured) -> None:
    write_rows("lists.jsonl", *LISTS)
    with Loopback(judge=prefers(len), script=refusing("four")) as server:
        judge = ("--teacher", "openai:judge", f"base_url={server.url}", "passes=2")
        assert score(*judge, "--write", "ntuples:out.jsonl", file="lists.jsonl") == 0
        (row,) = read_rows("out.jsonl")
        assert (row["query"], row["documents"]) == ("a", ["one", "three"])
        assert row["scores"][1] > row["scores"][0]
        assert json.loads(Path("out.jsonl.meta.json").read_text())["queries_left_out"] == 2
        err = capsys.readouterr().err
        assert "2 pairs scored" in err
        assert "2 queries without a verdict (1 refusal, 1 too_few)" in err
        assert "out.jsonl: openai:judge, raw, as ntuples; left out, without a verdict: 2 of 3 queries" in err
        # The recorded replies are read again, and stay unusable.
        asked = len(server.requests)
        assert score(*judge, "--calibrate", "zscore", "--write", "bge:again.jsonl", file="lists.jsonl") == 0
        assert len(server.requests) == asked
        assert [row["pos_scores"] + row["neg_scores"] for row in read_rows("again.jsonl")] == [
            pytest.approx([-1.0, 1.0])
        ]


def test_where_no_list_has_a_verdict_nothing_is_written(capsys: Captured) -> None:
    write_rows("lists.jsonl", *LISTS[1:])
    with Loopback(judge=prefers(len), script=refusing("four")) as server:
        judge = ("--teacher", "openai:judge", f"base_url={server.url}")
        assert score(*judge, "--write", "trec:out.run", file="lists.jsonl") == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last == "error: --write: nothing to write: no query has a verdict of openai:judge"
    assert not list(Path().glob("out*"))


def test_a_list_that_one_of_several_teachers_lacks_is_left_out() -> None:
    tiny_encoders.save_encoder(Path("ce"), head=True)
    write_rows("lists.jsonl", *LISTS[:2])
    prompt = Prompt((Message(role="user", content="b"),))
    write_rows("verdicts.jsonl", {"prompt_id": prompt.id, "scores": {"four": 1.5, "fourteen": -0.5}})
    both = ("--teacher", "cross_encoder:ce", "--teacher", "replay:verdicts.jsonl")
    assert score(*both, "--write", "ntuples:both.jsonl", file="lists.jsonl") == 0
    assert score(*both[:2], "--write", "ntuples:one.jsonl", file="lists.jsonl") == 0
    (row,) = read_rows("both.jsonl")
    _, alone = read_rows("one.jsonl")
    assert row["query"] == alone["query"] == "b"
    expected = [(a + b) / 2 for a, b in zip(alone["scores"], [1.5, -0.5], strict=True)]
    assert row["scores"] == pytest.approx(expected, abs=1e-12)
    # What the cross-encoder alone has written lacks nothing.
    assert json.loads(Path("one.jsonl.meta.json").read_text())["queries_left_out"] == 0


CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Do you like cats?"},
    {"role": "assistant", "content": "I do."},
    {"role": "user", "content": "Why the red cat?"},
]
REPLIES = ["The red cat sleeps all day.", "It rains.", "I like how the red cat sings to me."]


def test_chats_are_scored_as_they_are_ranked() -> None:
    """``cyclealign rank`` on the same sets: the same numbers from who takes chats, and its verdicts are found again."""
    save_tiny(Path("lm"))
    write_rows("sets.jsonl", {"messages": CHAT, "candidates": REPLIES})
    for teacher in ("local", "policy:lm"):
        name = teacher.partition(":")[0]
        assert main(["rank", "sets.jsonl", "--ranker", teacher, "--out", f"{name}.ranked.jsonl"]) == 0
        (verdict,) = read_rows(f"{name}.ranked.jsonl")
        for again in (teacher, f"replay:{name}.ranked.jsonl"):
            out = f"{name}.{again.partition(':')[0]}.jsonl"
            assert score("--teacher", again, "--write", f"ntuples:{out}", file="sets.jsonl") == 0
            (row,) = read_rows(out)
            assert row["documents"] == REPLIES
            assert row["scores"] == pytest.approx([verdict["scores"][str(n)] for n in range(3)], abs=1e-5)
    # The chat as one user message is another question.
    write_rows("flat.jsonl", {"prompt": "\n\n".join(m["content"] for m in CHAT), "candidates": REPLIES})
    assert score("--teacher", "policy:lm", "--write", "ntuples:flat.out.jsonl", file="flat.jsonl") == 0
    assert read_rows("flat.out.jsonl")[0]["scores"] != pytest.approx(row["scores"], abs=1e-5)


def test_text_teachers_read_a_chat_as_one_text() -> None:
    tiny_encoders.save_encoder(Path("ce"), head=True)
    context = ["a dog", "the red cat", "a bird ?"]
    write_rows("d.jsonl", {"context": context, "response": "a bird sings"}, {"context": context, "response": "the dog"})
    assert score("--teacher", "cross_encoder:ce", "--write", "trec:out.run", file="d.jsonl") == 0
    from sentence_transformers import CrossEncoder

    model = CrossEncoder("ce", device="cpu")
    text = "a dog\n\nthe red cat\n\na bird ?"
    for line, reply in zip(Path("out.run").read_text().splitlines(), ("a bird sings", "the dog"), strict=True):
        query, _, document, _, value, _ = line.split()
        roles = ("user", "assistant", "user")
        asked = Prompt(tuple(Message(role=r, content=c) for r, c in zip(roles, context, strict=True)))
        assert (query, document) == (asked.id, sha256_hex(reply)[:32])
        expected = model.predict([(text, reply)], activation_fn=torch.nn.Identity()).item()
        assert float(value) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("kind", ["cross_encoder", "coherence", "bi_encoder", "multi_vector", "reward_model"])
def test_a_missing_package_is_named_before_any_work(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    Path("m").mkdir()
    write_rows("m/modules.json", [])
    assert score("--teacher", f"{kind}:m") == 2
    expected = f"error: --teacher {kind} needs the package sentence-transformers: pip install 'cyclealign[retrieval]'"
    assert capsys.readouterr().err.strip() == expected
    assert not Path("s.sqlite").exists()


def test_scores_of_a_file_are_taken_over_with_what_is_known_of_them(capsys: Captured) -> None:
    Path("t1.tsv").write_text("3\t1\tq1\td1\td2\n3.5\t0\tq1\td1\td3\n")
    assert score("--teacher", "file", "--format", "margin_mse", "--write", "trec:a.run", file="t1.tsv") == 0
    assert "3 scores taken over; 1 repeats differed, by 0.5 at most" in capsys.readouterr().err
    assert Path("a.run").read_text().split()[4] == "3.0"
    # A run of a re-ranker whose scores are ranks in disguise, said so.
    assert score("--teacher", "file", "--file-gives", "order", "--for", "kl", file="a.run") == 2
    assert "gives an order alone" in capsys.readouterr().err
    # What was written as an order says so itself later.
    Path("judged.jsonl").write_text(
        json.dumps({"query": {"text": "q", "qid": "1"}, "candidates": [{"docid": d, "score": 9.0} for d in "abc"]})
        + "\n"
    )
    assert score("--teacher", "file", "--write", "trec:b.run", file="judged.jsonl") == 0
    assert score("--teacher", "file", "--for", "listnet", file="b.run") == 2
    assert "--for listnet: needs magnitudes, but file gives an order alone" in capsys.readouterr().err


def test_levels_of_a_file(capsys: Captured) -> None:
    row = {"query": "q", "docs": ["good", "bad", "worse"], "labels": [0, 1, 2]}
    Path("levels.jsonl").write_text(json.dumps(row) + "\n")
    levels = ("--teacher", "file", "--file-gives", "levels")
    assert score(*levels, "--for", "quantidce", "--write", "trec:l.run", file="levels.jsonl") == 0
    assert [line.split()[4] for line in Path("l.run").read_text().splitlines()] == ["0.0", "-1.0", "-2.0"]
    assert score(*levels, "--for", "pld", file="levels.jsonl") == 2
    assert "gives levels" in capsys.readouterr().err


def test_ids_get_their_texts_from_elsewhere(capsys: Captured) -> None:
    tiny_encoders.save_encoder(Path("ce"), head=True)
    Path("ids.tsv").write_text("0\t0\tq1\td1\td2\n")
    Path("queries.tsv").write_text("q1\tthe red cat ?\nq2\tunused\n")
    Path("docs.jsonl").write_text('{"_id": "d1", "text": "a red cat sleeps"}\n{"_id": "d2", "text": "the dog runs"}\n')
    assert score("--teacher", "cross_encoder:ce", "--format", "margin_mse", file="ids.tsv") == 2
    assert "no text for the query 'q1'; give --queries and --documents" in capsys.readouterr().err
    texts = ("--queries", "queries.tsv", "--documents", "docs.jsonl")
    assert score("--teacher", "cross_encoder:ce", *texts, "--write", "margin_mse:out.tsv", file="ids.tsv") == 0
    assert score("--teacher", "cross_encoder:ce", "--write", "margin_mse_text:texts.tsv") == 0
    assert [float(v) for v in read_tsv("out.tsv")[0][:2]] == pytest.approx(
        [float(v) for v in read_tsv("texts.tsv")[0][:2]], abs=1e-6
    )
    assert read_tsv("out.tsv")[0][2:] == ["q1", "d1", "d2"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--teacher", "oracle"), "--teacher: expected one of local, sentence_similarity"),
        (("--teacher", "cross_encoder"), "--teacher cross_encoder: expected cross_encoder:PATH"),
        (("--teacher", "local:x"), "--teacher local: expected local"),
        (("--teacher", "cross_encoder:nowhere/at/all"), "--teacher cross_encoder:nowhere/at/all: cannot be loaded"),
        (("--teacher", "local", "--for", "margin"), "--for: expected one of rrhf"),
        (("--teacher", "local", "--calibrate", "zcore"), "--calibrate: expected raw, zscore, minmax or temperature:T"),
        (("--teacher", "local", "--write", "csv:x"), "--write: expected FORMAT:PATH with one of margin_mse"),
        (("--teacher", "local", "--write", "bge:triples.tsv"), "--write: triples.tsv is there already"),
        (("--teacher", "local", "--format", "tsv"), "--format: expected auto, margin_mse"),
        (("--teacher", "file"), "triples.tsv:1: --teacher file: there are no scores"),
        (("--teacher", "replay:none.jsonl"), "--teacher replay: no file none.jsonl"),
        (
            ("--teacher", "file", "--file-gives", "order", "--teacher", "local"),
            "file gives an order alone, which cannot",
        ),
    ],
    ids=lambda v: " ".join(v)[:40] if isinstance(v, tuple) else "",
)
def test_mistakes_are_one_line(capsys: Captured, arguments: tuple[str, ...], message: str) -> None:
    assert score(*arguments) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.strip().splitlines()[-1].startswith("error: ")
