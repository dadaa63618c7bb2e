"""The reward-model ranker against one text at a time through transformers."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_encoders import dense
from tiny_policy import SPECIAL, WORDS, save_tiny, tiny_llama, tiny_tokenizer
from transformers import BertConfig, BertForSequenceClassification, LlamaForSequenceClassification

from cyclealign.rankers.reward_model import RewardModelRanker
from cyclealign.types import Candidate, CandidateSet, Message, Prompt, RankContext, Ranking, Unranked, UserError

NO_POOL: Any = None
CONTEXT = RankContext(run="r", interaction=0, seed=0, demonstrations=NO_POOL)
CHAT: tuple[Message, ...] = (
    {"role": "user", "content": "hello world"},
    {"role": "assistant", "content": "good"},
    {"role": "user", "content": "a b c"},
)
REPLIES = ["yes", "no no", "good bad a b c d e", "z", "hello hello hello", "w x y"]


def save_llama(directory: Path, *, template: bool = True, labels: int = 1, **settings: Any) -> Path:
    torch.manual_seed(3)
    config = tiny_llama(**settings).config
    config.num_labels = labels
    LlamaForSequenceClassification(config).save_pretrained(directory)
    tokenizer = tiny_tokenizer() if template else tiny_tokenizer(None)
    tokenizer.save_pretrained(directory)
    return directory


def save_bert(directory: Path) -> Path:
    """An encoder that reads a pair of texts, as most reward models of that kind do; 24 positions."""
    torch.manual_seed(4)
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = BertConfig(
        vocab_size=len(SPECIAL) + len(WORDS), max_position_embeddings=24, num_labels=1, initializer_range=0.3, **shape
    )
    BertForSequenceClassification(config).save_pretrained(directory)
    tiny_tokenizer(None).save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llama(tmp_path_factory.mktemp("llama"))


def one_by_one(path: Path, texts: list[str]) -> list[float]:
    model, tokenizer = LlamaForSequenceClassification.from_pretrained(path).eval(), tiny_tokenizer()
    with torch.inference_mode():
        ids = [torch.tensor([tokenizer(t, add_special_tokens=False)["input_ids"]]) for t in texts]
        return [float(model(i).logits[0, 0]) for i in ids]


def test_scores_are_the_classifiers_on_the_rendered_chat(llama: Path) -> None:
    pairs = [(CHAT[: 1 + 2 * (i // 6 % 2)], reply) for i, reply in enumerate(REPLIES * 8)]  # more than one batch
    texts = []
    for messages, reply in pairs:
        turns = [*messages, {"role": "assistant", "content": reply}]
        texts.append("".join(f"<|{m['role']}|> {m['content']}<|end|>" for m in turns))
    expected = one_by_one(llama, texts)
    assert RewardModelRanker(llama).score(pairs) == pytest.approx(expected, abs=1e-5)
    assert len(set(expected)) == 12  # else equal texts would hide a mixed-up order


def test_an_encoder_without_template_reads_prompt_and_reply_as_a_pair(tmp_path: Path) -> None:
    path = save_bert(tmp_path)
    model, tokenizer = BertForSequenceClassification.from_pretrained(path).eval(), tiny_tokenizer(None)
    ranker = RewardModelRanker(path)
    for messages, text in (
        (CHAT[:1], "hello world"),
        (CHAT, "Human: hello world\n\nAssistant: good\n\nHuman: a b c"),
    ):
        scores = ranker.score([(messages, reply) for reply in REPLIES])
        for reply, score in zip(REPLIES, scores, strict=True):
            with torch.inference_mode():
                expected = model(**tokenizer(text, reply, return_tensors="pt")).logits[0, 0]
            assert score == pytest.approx(float(expected), abs=1e-5)


def test_too_long_texts_lose_their_oldest_part(tmp_path: Path) -> None:
    path = save_llama(tmp_path / "llama", max_position_embeddings=12)
    ranker = RewardModelRanker(path)
    words = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n"]
    [score] = ranker.score([([{"role": "user", "content": " ".join(words)}], "good yes")])
    kept = " ".join([*words[-7:], "<|end|>", "<|assistant|>", "good", "yes", "<|end|>"])
    assert score == pytest.approx(one_by_one(path, [kept])[0], abs=1e-5)
    [pair] = RewardModelRanker(save_bert(tmp_path / "bert")).score([(CHAT * 5, "yes no " * 20)])
    assert math.isfinite(pair)


def sets(count: int) -> list[CandidateSet]:
    """Prompts with 2 to 4 candidates; one has none and one a single one."""
    found = []
    for i in range(count):
        texts = REPLIES[i % 3 : i % 3 + 2 + i % 3]
        texts = [] if i == 2 else texts[:1] if i == 4 else texts
        candidates = tuple(Candidate(str(j), text) for j, text in enumerate(texts))
        found.append(CandidateSet(Prompt(({"role": "user", "content": " ".join(WORDS[i : i + 3])},)), candidates))
    return found


@pytest.mark.parametrize("device", ["cpu", "several sets at once"])
def test_rankings_put_the_higher_score_first(llama: Path, device: str) -> None:
    ranker = RewardModelRanker(llama)
    if device != "cpu":
        ranker._device = "meta: anything but cpu"
        ranker.score = RewardModelRanker(llama).score  # type: ignore[method-assign]
    items = sets(20)
    verdicts = list(ranker.rank(iter(items), CONTEXT))
    assert [v.prompt_id for v in verdicts] == [s.prompt.id for s in items]
    for item, verdict in zip(items, verdicts, strict=True):
        if len(item.candidates) < 2:
            assert isinstance(verdict, Unranked)
            assert verdict.reason == "too_few"
            continue
        assert isinstance(verdict, Ranking)
        own = dict(zip(item.ids, ranker.score([(item.prompt.messages, c.text) for c in item.candidates]), strict=True))
        assert verdict.scores == pytest.approx(own, abs=1e-5)
        assert list(verdict.order) == sorted(own, key=lambda i: -own[i])


def test_the_same_set_scores_the_same_whatever_else_is_ranked(llama: Path) -> None:
    ranker, items = RewardModelRanker(llama), sets(20)
    whole = {v.prompt_id: v for v in ranker.rank(items, CONTEXT)}
    for part in (items[::-1], items[3:11], items[::2]):
        assert all(v == whole[v.prompt_id] for v in ranker.rank(part, CONTEXT))


def test_a_set_is_ranked_before_the_next_is_made(llama: Path) -> None:
    made: list[int] = []

    def source() -> Iterator[CandidateSet]:
        for i, item in enumerate(sets(5)):
            made.append(i)
            yield item

    for i, _ in enumerate(RewardModelRanker(llama).rank(source(), CONTEXT)):
        assert made == list(range(i + 1))


def broken_llama(folder: Path) -> Path:
    (save_llama(folder) / "model.safetensors").write_text("garbage")
    return folder


def saved_dense(folder: Path) -> Path:
    dense(folder / "encoder").save_pretrained(str(folder / "dense"))
    return folder / "dense"


def test_what_is_no_reward_model_is_one_readable_line(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for path, complaint in (
        (tmp_path / "empty", "black_box.path: cannot load a reward model"),
        (tmp_path / "gone", "black_box.path: cannot load a reward model"),
        (save_tiny(tmp_path / "causal"), "expected a sequence classifier in .*, got a LlamaForCausalLM"),
        (save_llama(tmp_path / "two", labels=2), "expected a classifier with one output .*, got 2 labels"),
        (broken_llama(tmp_path / "broken"), "black_box.path: cannot load a reward model"),
        (saved_dense(tmp_path), "black_box.path:.*: expected a cross-encoder, got an encoder without a trained head"),
    ):
        with pytest.raises(UserError, match=complaint) as caught:
            RewardModelRanker(path)
        assert "\n" not in str(caught.value)
    headless = save_tiny(tmp_path / "headless")
    settings = json.loads((headless / "config.json").read_text())
    settings |= {"architectures": ["LlamaForSequenceClassification"], "num_labels": 1, "id2label": {"0": "reward"}}
    (headless / "config.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match=r"lacks weights: score\.weight"):
        RewardModelRanker(headless)
