"""Thinking: told from the answer by the template's tags, read and not scored, in prompts that begin it or not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from thinking_policy import MODES, save_thinker, thinker
from tiny_policy import TEMPLATE, save_tiny, tiny_config, tiny_tokenizer

from cyclealign.config.loading import load_config
from cyclealign.config.schema import GeneratorConfig, PolicyConfig
from cyclealign.cycle.doctor import examine
from cyclealign.files.thinking import KNOWN, Tags, answered, parted, recorded, tags_in
from cyclealign.models.chat_template import (
    begins_inside,
    check_template,
    render_prompt,
    reply_ids,
    tags_of,
    without_thinking,
)
from cyclealign.models.encoded_lists import Reading, encode, encode_set
from cyclealign.models.policy import load_tokenizer
from cyclealign.models.policy_files import TemplateText, template_text, with_arguments
from cyclealign.types import Candidate, CandidateSet, Message, Prompt, UserError

TAGS = Tags("<think>", "</think>")
CHAT: list[Message] = [{"role": "user", "content": "a b"}]


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_thinker(tmp_path_factory.mktemp("thinker") / "model")


def tokenizer_of(model_dir: Path, mode: str) -> Any:
    config = thinker(model_dir, mode)
    return load_tokenizer(config.policy, config.generator.thinking)


def spoken(tokenizer: Any, ids: list[int]) -> str:
    return " ".join(tokenizer.convert_ids_to_tokens(ids))


# Telling it apart ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "inside", "thinking", "answer", "unfinished"),
    [
        ("good", False, "", "good", False),
        ("<think>\na\n</think>\n\ngood", False, "<think>\na\n</think>\n\n", "good", False),
        ("a\n</think>\n\ngood", True, "a\n</think>\n\n", "good", False),
        ("a </think> good", False, "a </think> ", "good", False),  # a server's prompt has opened it
        ("<think> a", False, "<think> a", "", True),
        ("a b", True, "a b", "", True),
        ("<thi", False, "<thi", "", True),
        ("", True, "", "", True),
        ("", False, "", "", False),
        ("<think>a</think>", False, "<think>a</think>", "", False),  # empty, and not unfinished
        ("<think>a</think>bad<think>b</think> good", False, "<think>a</think>bad<think>b</think> ", "good", False),
        ("<think>a</think>bad<think>b", False, "<think>a</think>bad<think>b", "", True),
    ],
)
def test_a_reply_in_two(text: str, inside: bool, thinking: str, answer: str, unfinished: bool) -> None:
    reply = parted(text, TAGS, inside=inside)
    assert (reply.thinking, reply.answer, reply.unfinished) == (thinking, answer, unfinished)


@given(
    st.lists(st.sampled_from(["a", " ", "\n", "<think>", "</think>", "<", "good"]), max_size=9).map("".join),
    st.booleans(),
)
def test_nothing_is_lost_and_no_tag_is_in_an_answer(text: str, inside: bool) -> None:
    reply = parted(text, TAGS, inside=inside)
    assert reply.thinking + reply.answer == text
    assert not reply.unfinished or not reply.answer
    assert "</think>" not in reply.answer
    assert "<think>" not in reply.answer


@pytest.mark.parametrize("tags", KNOWN)
def test_every_family_is_found_in_its_template(tags: Tags) -> None:
    assert tags_in(f"{{{{ content.split('{tags.close}')[-1] }}}}") == tags
    assert recorded(f"{tags.open}a{tags.forced}good").answer == "good"


def test_recorded_replies_speak_of_tags_and_keep_them() -> None:
    assert answered(Candidate("0", "write <think> first, then </think>")).text == "write <think> first, then </think>"
    assert answered(Candidate("0", "a</think>good")) == Candidate("0", "good", thinking="a</think>")
    assert answered(Candidate("0", "<think> on and on")).text == ""
    assert answered(Candidate("0", "x </think> y", thinking="")).text == "x </think> y"  # it was told apart before


# Templates ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "prompt", "inside", "without"),
    [
        ("on", "<|user|> a b <|end|> <|assistant|>", False, "<think>\n\n</think>\n\n"),
        ("off", "<|user|> a b <|end|> <|assistant|> <think> </think>", False, ""),
        ("begun", "<|user|> a b <|end|> <|assistant|> <think>", True, "\n</think>\n\n"),
    ],
)
def test_the_prompt_and_what_stands_before_a_reply_without_thinking(
    model_dir: Path, mode: str, prompt: str, inside: bool, without: str
) -> None:
    tokenizer = tokenizer_of(model_dir, mode)
    ids = render_prompt(tokenizer, CHAT, 64)
    assert spoken(tokenizer, ids) == prompt
    assert begins_inside(tokenizer, ids) == inside
    assert without_thinking(tokenizer, ids) == without
    report = check_template(tokenizer)
    assert (report.problems, report.prefix_preserving, report.inside) == ((), True, inside)


@pytest.mark.parametrize("mode", MODES)
def test_a_reply_without_thinking_is_the_whole_dialogue_of_the_template(model_dir: Path, mode: str) -> None:
    tokenizer = tokenizer_of(model_dir, mode)
    ids = render_prompt(tokenizer, CHAT, 64)
    row, read = reply_ids(tokenizer, ids, "good c", ended=True, thinking=None)
    whole = tokenizer.apply_chat_template([*CHAT, {"role": "assistant", "content": "good c"}], tokenize=False)
    assert ids + row == tokenizer(whole, add_special_tokens=False)["input_ids"]
    assert spoken(tokenizer, row[read:]) == "good c <|end|>"


@pytest.mark.parametrize(("mode", "opened"), [("on", "<think>\n"), ("begun", "")])
def test_thinking_is_read_and_the_answer_scored(model_dir: Path, mode: str, opened: str) -> None:
    tokenizer = tokenizer_of(model_dir, mode)
    first = Candidate("0", "good c", thinking=f"{opened}a b\n</think>\n\n")
    item = CandidateSet(Prompt(tuple(CHAT)), (first, Candidate("1", "no", thinking="")))
    encoded = encode_set(tokenizer, item, Reading(64))
    (row, read), (plain, none) = encoded.rows
    assert spoken(tokenizer, row) == f"{opened.strip()} a b </think> good c <|end|>".strip()
    assert spoken(tokenizer, row[read:]) == "good c <|end|>"
    assert (spoken(tokenizer, plain), none) == ("no <|end|>", 0)  # it did not think: none is put there
    assert encode_set(tokenizer, item, Reading(64, all=True)).read == ()
    assert replace(encoded, read=()).responses == encode_set(tokenizer, item, Reading(64, all=True)).responses


@pytest.mark.parametrize(
    ("limit", "kept"), [(8, "a b c </think> good d <|end|>"), (5, "c </think> good d <|end|>"), (2, "good d")]
)
def test_what_is_too_long_loses_its_thinking_first(model_dir: Path, limit: int, kept: str) -> None:
    tokenizer = tokenizer_of(model_dir, "begun")
    found = encode(tokenizer, CHAT, ["good d"], [True], ["a b c </think> "], Reading(64, limit))
    ((row, read),) = found.rows
    assert spoken(tokenizer, row) == kept
    assert spoken(tokenizer, row[read:]) in ("good d <|end|>", "good d")


def test_variables_stand_in_the_template_for_whoever_renders_it(model_dir: Path, tmp_path: Path) -> None:
    tokenizer = tokenizer_of(model_dir, "off")
    tokenizer.save_pretrained(tmp_path)
    again = load_tokenizer(tiny_config(tmp_path).policy)
    assert render_prompt(again, CHAT, 64) == render_prompt(tokenizer, CHAT, 64)
    switched = tokenizer.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True, enable_thinking=True)
    assert "<think>" not in switched  # who says otherwise is heard
    policy = thinker(model_dir, "off").policy
    text = template_text(policy)
    assert text is not None
    rendered = text.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True)
    assert rendered == tokenizer.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True)
    twice = load_tokenizer(policy.model_copy(update={"model": str(tmp_path)}))
    assert render_prompt(twice, CHAT, 64) == render_prompt(tokenizer, CHAT, 64)


@pytest.mark.parametrize("value", [False, None, 3, 0.5, 'it\'s "{% raw %}" \n %}', ["a", {"b": True}]])
def test_any_value_of_json_is_the_same_in_the_template(value: object) -> None:
    template = with_arguments("{{ x | tojson }}", {"x": value})
    plain = TemplateText("{{ x | tojson }}", {})
    given = plain.environment.from_string("{{ x | tojson }}").render(x=value)
    assert TemplateText(template, {}).apply_chat_template([], tokenize=False, add_generation_prompt=True) == given


def test_a_variable_that_the_template_does_not_read_is_refused(model_dir: Path) -> None:
    policy = tiny_config(model_dir, policy={"chat_template_kwargs": {"enable_thinkin": False}}).policy
    with pytest.raises(UserError, match=r"kwargs\.enable_thinkin: the chat template reads no such variable; it reads"):
        load_tokenizer(policy)
    with pytest.raises(UserError, match="messages: expected a variable of the chat template"):
        load_config("quickstart", ["policy.chat_template_kwargs={messages: 1}"])


def test_tags_of_ones_own(tmp_path: Path) -> None:
    config = tiny_config(
        save_tiny(tmp_path), generator={"thinking": {"open": "a", "close": "b"}, "backend": "transformers"}
    )
    assert tags_of(load_tokenizer(config.policy, config.generator.thinking)) == Tags("a", "b")
    assert tags_of(load_tokenizer(config.policy)) is None
    with pytest.raises(UserError, match="open, close: expected two tags"):
        load_config("quickstart", ["generator.thinking.open=<x>"])


# Templates with faults ----------------------------------------------------------------------------------------


def with_bos(template: str, *, adds: bool = False) -> Any:
    tokenizer = tiny_tokenizer(template)
    tokenizer.add_special_tokens({"bos_token": "<s>"})
    if adds:
        from tokenizers.processors import TemplateProcessing

        tokenizer._tokenizer.post_processor = TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", tokenizer.bos_token_id)]
        )
    return tokenizer


def test_one_bos_is_kept_whoever_writes_it() -> None:
    for template, adds, problems in (
        ("{{ bos_token }}" + TEMPLATE, True, 0),
        ("{{ bos_token }}{{ bos_token }}" + TEMPLATE, False, 1),
        (TEMPLATE, True, 1),
        (TEMPLATE, False, 0),
    ):
        tokenizer = with_bos(template, adds=adds)
        ids = render_prompt(tokenizer, CHAT, 64)
        assert ids.count(tokenizer.bos_token_id) == ("bos" in template)
        assert len(check_template(tokenizer).problems) == problems


def test_no_pad_and_no_end_token(tmp_path: Path) -> None:
    save_tiny(tmp_path)
    tokenizer = tiny_tokenizer(TEMPLATE.replace("<|end|>", "."))
    tokenizer.eos_token = tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path)
    loaded = load_tokenizer(tiny_config(tmp_path).policy)
    assert loaded.pad_token_id is not None
    with pytest.raises(UserError, match="neither the chat template nor the tokenizer has a token that ends a reply"):
        check_template(loaded)


@pytest.mark.parametrize("mode", MODES)
def test_doctor_says_what_it_found(model_dir: Path, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cyclealign.cycle.doctor._versions", lambda: ())
    config = thinker(model_dir, mode, generator={"thinking": {"max_tokens": 20}})
    found = {f.about: f for f in examine(config)}["thinking"]
    begun = "begun by the prompt" if mode == "begun" else "begun by the policy, or not at all"
    said = f"from '<think>' to '</think>', {begun}; at most 20 tokens, then closed; 6 more for the answer"
    assert (found.state, found.detail.startswith(said)) == ("ok", True)
    broken = thinker(model_dir, mode, generator={"thinking": {"max_tokens": 1}})
    assert {f.about: f for f in examine(broken)}["thinking"].state == "broken"


def test_scores_do_not_count_thinking_in_either_layout(model_dir: Path) -> None:
    from cyclealign.models.encoded_lists import collate
    from cyclealign.models.logprobs import Plan, attach, token_logprobs
    from cyclealign.models.policy import load_model

    config = thinker(model_dir, "begun")
    tokenizer, model = tokenizer_of(model_dir, "begun"), load_model(config.policy, trainable=False)
    attach(model)
    item = CandidateSet(
        Prompt(tuple(CHAT)),
        (Candidate("0", "good c", thinking="a b\n</think>\n\n"), Candidate("1", "no d e", thinking="f\n</think>\n\n")),
    )
    encoded = encode_set(tokenizer, item, Reading(64))
    found = {
        layout: token_logprobs(model, collate([encoded], 0), Plan(layout)) for layout in ("padded", "cached_prefix")
    }
    torch.testing.assert_close(found["padded"], found["cached_prefix"], rtol=1e-4, atol=1e-5)
    for row, (ids, read) in zip(found["padded"], encoded.rows, strict=True):
        whole = torch.tensor([encoded.prompt + ids])
        logits = type(model).forward(model, input_ids=whole).logits[0, :-1].log_softmax(-1)
        own = logits.gather(1, whole[0, 1:, None])[len(encoded.prompt) - 1 :, 0]
        torch.testing.assert_close(row[read : len(ids)], own[read:], rtol=1e-4, atol=1e-5)
        assert not row[:read].any()
        assert not row[len(ids) :].any()


def test_the_configs_of_the_page_are_configs() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "thinking.md").read_text()
    blocks = [yaml.safe_load(block.partition("```")[0]) for block in page.split("```yaml\n")[1:]]
    assert len(blocks) == 3
    for block in blocks:
        PolicyConfig.model_validate(block.get("policy", {}))
        GeneratorConfig.model_validate(block.get("generator", {}))
    whole = GeneratorConfig.model_validate(blocks[0]["generator"])
    assert (whole.reply_tokens, whole.thinking.train) == (1024 + 512, "answer")
