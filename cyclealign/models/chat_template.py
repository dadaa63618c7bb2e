"""The one owner of tokenisation: a chat and a response as token ids, by the policy's own chat template.

Generator, white-box ranker and trainer see the same token ids because all of them ask here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cyclealign.types import Message, Prompt, UserError


@dataclass(frozen=True, slots=True)
class TemplateReport:
    """What a chat template does: ``sample`` is a rendered dialogue, ``problems`` are lines for people.

    ``stop_token``: the token that closes an assistant turn; training teaches it and generation ends at it.
    """

    sample: str
    stop_token: str
    stop_token_id: int
    prefix_preserving: bool
    problems: tuple[str, ...]


def render_prompt(tokenizer: Any, messages: Sequence[Message], max_prompt_tokens: int) -> list[int]:
    """Token ids of the chat up to where the assistant speaks, at most ``max_prompt_tokens``.

    Too long: the oldest turns go, whole, until it fits; a leading system message stays, and what remains
    starts with a user turn where it can. A last turn that is too long by itself loses tokens from its left.
    Only where system message and template alone are too long are the rendered ids cut, from the left.
    """
    turns = list(messages)
    head = turns[:1] if turns and turns[0]["role"] == "system" else []
    turns = turns[len(head) :]
    ids = _prompt_ids(tokenizer, head + turns)
    while len(ids) > max_prompt_tokens and len(turns) > 1:
        turns = turns[1:]
        while len(turns) > 1 and turns[0]["role"] != "user":
            turns = turns[1:]
        ids = _prompt_ids(tokenizer, head + turns)
    if len(ids) > max_prompt_tokens and turns:
        ids = _cut_last_turn(tokenizer, head, turns[-1], max_prompt_tokens, len(ids) - max_prompt_tokens)
    return ids[-max_prompt_tokens:]


def check_prompts(tokenizer: Any, prompts: Sequence[Prompt], key: str) -> None:
    """Render every prompt once, so that none is found to be impossible after others were paid for.

    Args:
        key: of the config, which the prompts are of.

    Raises:
        UserError: naming the first prompt that the template cannot render, by place, words and id.
    """
    for number, prompt in enumerate(prompts, start=1):
        try:
            _check_whole(tokenizer, prompt.messages)
        except UserError as error:
            words = " ".join(prompt.messages[-1]["content"].split())[:60] if prompt.messages else ""
            raise UserError(
                f"{key}: prompt {number} ({words!r}, id {prompt.id}): {error}; leave the prompt out{_system(prompt)},"
                " or name a template that takes it in policy.chat_template"
            ) from error


def _check_whole(tokenizer: Any, messages: Sequence[Message]) -> None:
    """UserError where a chat cannot be rendered, or a turn of it leaves no trace."""
    text = _render(tokenizer, messages, ask=True)
    for n, turn in enumerate(messages):
        said = turn["content"].strip()
        if said and said not in text and len(messages) > 1 and _leaves_out(tokenizer, messages, n, text):
            raise UserError(f"policy.chat_template: leaves out the {turn['role']} turn")


def _leaves_out(tokenizer: Any, messages: Sequence[Message], n: int, text: str) -> bool:
    try:
        return _render(tokenizer, [*messages[:n], *messages[n + 1 :]], ask=True) == text
    except UserError:  # without the turn it is no chat
        return False


def _system(prompt: Prompt) -> str:
    """The way out of a prompt with a system turn."""
    if all(m["role"] != "system" for m in prompt.messages):
        return ""
    return " (data.system_turns=skip), put its system turn before the first user turn (data.system_turns=fold)"


def response_ids(tokenizer: Any, text: str, *, ended: bool) -> list[int]:
    """Token ids of a response: its text by itself, and the stop token exactly once where the speaker ended.

    ``ended`` False is a response cut off by its length limit: teaching it to stop there would be wrong.
    """
    stop = stop_token_id(tokenizer)
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    while ids and ids[-1] == stop:
        ids.pop()
    if ended:
        ids.append(stop)
    return ids


def stop_token_id(tokenizer: Any) -> int:
    """The token that the template writes after an assistant turn (else the tokenizer's end of sequence).

    Raises:
        UserError: there is none: such a policy could never learn to stop.
    """
    key = (tokenizer.chat_template, tokenizer.eos_token_id)
    cached: tuple[Any, int] | None = getattr(tokenizer, "_cyclealign_stop", None)
    if cached is None or cached[0] != key:
        cached = (key, _find_stop(tokenizer))
        tokenizer._cyclealign_stop = cached  # rendering the template for every response is slow
    return cached[1]


def check_template(tokenizer: Any) -> TemplateReport:
    """Render a small dialogue and look for what breaks training: a lost prefix, a missing stop token.

    Raises:
        UserError: the template fails to render, or there is no stop token.
    """
    chat: list[Message] = [{"role": "user", "content": "Hello!"}]
    reply = "Good morning."
    prompt = _render(tokenizer, chat, ask=True)
    whole = _render(tokenizer, [*chat, {"role": "assistant", "content": reply}], ask=False)
    stop = stop_token_id(tokenizer)
    kept = whole.startswith(prompt + reply)
    problems = []
    if not kept and whole.startswith(prompt) and reply in whole:
        before = whole[len(prompt) :].partition(reply)[0]
        problems.append(
            f"no generation prompt: before a reply the template writes {before!r}, which it leaves out where the"
            " assistant is to speak; write it under {% if add_generation_prompt %} in policy.chat_template"
        )
    elif not kept:
        problems.append("the prompt is not a prefix of the whole dialogue: the template writes past turns differently")
    separate = _prompt_ids(tokenizer, chat) + response_ids(tokenizer, reply, ended=True)
    together = tokenizer(whole, add_special_tokens=False)["input_ids"]
    if kept and together[: len(separate)] != separate:
        problems.append("prompt and reply give other tokens apart than together")
    if stop == tokenizer.eos_token_id and tokenizer.eos_token not in whole:
        problems.append("the template writes no stop token after a reply; the end-of-sequence token is taught instead")
    return TemplateReport(whole, str(tokenizer.convert_ids_to_tokens(stop)), stop, kept, tuple(problems))


def _prompt_ids(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    ids: list[int] = tokenizer(_render(tokenizer, messages, ask=True), add_special_tokens=False)["input_ids"]
    return ids


def _render(tokenizer: Any, messages: Sequence[Message], *, ask: bool) -> str:
    try:
        text = tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=ask)
    except Exception as error:  # a template is somebody's program, and may fail like any
        roles = ", ".join(m["role"] for m in messages)
        why = first_line(error)
        raise UserError(f"policy.chat_template: cannot render a chat with roles {roles}: {why}") from error
    return str(text)


def _cut_last_turn(tokenizer: Any, head: list[Message], last: Message, limit: int, excess: int) -> list[int]:
    content: list[int] = tokenizer(last["content"], add_special_tokens=False)["input_ids"]
    while True:
        content = content[excess:]
        cut: Message = {"role": last["role"], "content": tokenizer.decode(content)}
        ids = _prompt_ids(tokenizer, [*head, cut])
        if len(ids) <= limit or not content:
            return ids
        excess = max(1, len(ids) - limit)  # tokens merge differently at a cut, so one pass can fall short


def _find_stop(tokenizer: Any) -> int:
    reply = "Good morning."
    chat: list[Message] = [{"role": "user", "content": "Hello!"}, {"role": "assistant", "content": reply}]
    tail = _render(tokenizer, chat, ask=False).rpartition(reply)[2]
    special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    for token in tokenizer(tail, add_special_tokens=False)["input_ids"]:
        if token in special:
            return int(token)
    if tokenizer.eos_token_id is None:
        raise UserError("policy.model: neither the chat template nor the tokenizer has a token that ends a reply")
    return int(tokenizer.eos_token_id)


def first_line(error: Exception) -> str:
    """The first line of an error's text, shortened; its type's name where it has none."""
    return str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
