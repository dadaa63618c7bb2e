"""The one owner of tokenisation: a chat and a response as token ids, by the policy's own chat template.

Generator, white-box ranker and trainer see the same token ids because all of them ask here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cyclealign.files.thinking import Tags
from cyclealign.types import Message, Prompt, UserError

TAIL = 32  # tokens at the end of a prompt among which its opened thinking is looked for


@dataclass(frozen=True, slots=True)
class TemplateReport:
    """What a chat template does: ``sample`` is a rendered dialogue, ``problems`` are lines for people.

    ``stop_token``: the token that closes an assistant turn; training teaches it and generation ends at it.
    ``tags``: of thinking, None without. ``inside``: the prompt has opened it. ``without_thinking``: what is put before
    a reply that came without its thinking.
    """

    sample: str
    stop_token: str
    stop_token_id: int
    prefix_preserving: bool
    problems: tuple[str, ...]
    tags: Tags | None = None
    inside: bool = False
    without_thinking: str = ""


def set_tags(tokenizer: Any, tags: Tags | None) -> None:
    """By which tags the thinking of this tokenizer's policy is told; None: it does not think."""
    tokenizer._cyclealign_tags = tags


def tags_of(tokenizer: Any) -> Tags | None:
    found: Tags | None = getattr(tokenizer, "_cyclealign_tags", None)
    return found


def begins_inside(tokenizer: Any, prompt_ids: Sequence[int]) -> bool:
    """Whether a prompt ends with an open tag, so that its reply begins within thinking and closes it alone."""
    tags = tags_of(tokenizer)
    if tags is None:
        return False
    return str(tokenizer.decode(list(prompt_ids[-TAIL:]))).rstrip().endswith(tags.open)


def without_thinking(tokenizer: Any, prompt_ids: Sequence[int]) -> str:
    """What stands between a prompt and a reply that came without its thinking (a label, somebody else's): what the
    template writes there itself, which is thinking with nothing in it; else the close of what the prompt has opened.
    Empty where the policy does not think, or is told not to."""
    tags = tags_of(tokenizer)
    if tags is None:
        return ""
    written = _written_before(tokenizer, tags)
    if begins_inside(tokenizer, prompt_ids):
        return written if written and tags.open not in written else tags.forced
    return written if tags.open in written else ""


def reply_ids(
    tokenizer: Any, prompt_ids: Sequence[int], text: str, *, ended: bool, thinking: str | None
) -> tuple[list[int], int]:
    """Token ids of a whole reply, its thinking before its answer, and how many of them are thinking.

    ``thinking``: as in ``types.Candidate``. Both are tokenised together where the cut falls between two tokens, as the
    policy wrote them; white space before an answer may belong to the answer's first token.
    """
    before = without_thinking(tokenizer, prompt_ids) if thinking is None else thinking
    if not before:
        return response_ids(tokenizer, text, ended=ended), 0
    whole = response_ids(tokenizer, before + text, ended=ended)
    for part in (before, before.rstrip()):
        ids = _plain_ids(tokenizer, part)
        if whole[: len(ids)] == ids and len(ids) < len(whole):
            return whole, len(ids)
    ids = _plain_ids(tokenizer, before)
    return [*ids, *response_ids(tokenizer, text, ended=ended)], len(ids)


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
    ids = _plain_ids(tokenizer, text)
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
    tags, ids = tags_of(tokenizer), _prompt_ids(tokenizer, chat)
    inside, before = begins_inside(tokenizer, ids), without_thinking(tokenizer, ids)
    kept = whole.startswith(prompt + before + reply)
    problems = _begun_with(tokenizer, prompt)
    if not kept and before and reply in whole:
        pass  # past turns stand without their thinking: so these templates want it
    elif not kept and whole.startswith(prompt) and reply in whole:
        before = whole[len(prompt) :].partition(reply)[0]
        problems.append(
            f"no generation prompt: before a reply the template writes {before!r}, which it leaves out where the"
            " assistant is to speak; write it under {% if add_generation_prompt %} in policy.chat_template"
        )
    elif not kept:
        problems.append("the prompt is not a prefix of the whole dialogue: the template writes past turns differently")
    separate = ids + reply_ids(tokenizer, ids, reply, ended=True, thinking=None)[0]
    together = _once_begun(tokenizer, _plain_ids(tokenizer, whole))
    if kept and together[: len(separate)] != separate:
        problems.append("prompt and reply give other tokens apart than together")
    if stop == tokenizer.eos_token_id and tokenizer.eos_token not in whole:
        problems.append("the template writes no stop token after a reply; the end-of-sequence token is taught instead")
    name = str(tokenizer.convert_ids_to_tokens(stop))
    return TemplateReport(whole, name, stop, kept or bool(before), tuple(problems), tags, inside, before)


def _begun_with(tokenizer: Any, prompt: str) -> list[str]:
    """What is wrong with the beginning of a rendered prompt: BOS twice, or not there."""
    bos, own = tokenizer.bos_token_id, tokenizer("a")["input_ids"]
    ids = _plain_ids(tokenizer, prompt)
    if bos is None:
        return []
    if ids[:2] == [bos, bos]:
        return [f"the template begins with {tokenizer.bos_token!r} twice; it is kept once"]
    if own[:1] == [bos] and ids[:1] != [bos]:
        return [
            f"the template does not begin with {tokenizer.bos_token!r}, which this tokenizer puts before every text;"
            " if the model was tuned with it, write it into policy.chat_template"
        ]
    return []


def _prompt_ids(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    return _once_begun(tokenizer, _plain_ids(tokenizer, _render(tokenizer, messages, ask=True)))


def _once_begun(tokenizer: Any, ids: list[int]) -> list[int]:
    """Without a BOS too many: some templates write one that another part of theirs has written."""
    bos = tokenizer.bos_token_id
    while bos is not None and ids[:2] == [bos, bos]:
        ids = ids[1:]
    return ids


def _plain_ids(tokenizer: Any, text: str) -> list[int]:
    """The tokens of a text, with none that the tokenizer would add: what begins a chat is the template's to write."""
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def _written_before(tokenizer: Any, tags: Tags) -> str:
    """What the template writes between a prompt and a reply without thinking, if it is thinking with nothing in it."""
    key = (tokenizer.chat_template, tags)
    cached: tuple[Any, str] | None = getattr(tokenizer, "_cyclealign_written", None)
    if cached is None or cached[0] != key:
        chat: list[Message] = [{"role": "user", "content": "Hello!"}]
        reply = "Good morning."
        prompt = _render(tokenizer, chat, ask=True)
        whole = _render(tokenizer, [*chat, {"role": "assistant", "content": reply}], ask=False)
        before = whole.removeprefix(prompt).partition(reply)[0] if whole.startswith(prompt) else ""
        cached = (key, before if tags.close in before else "")
        tokenizer._cyclealign_written = cached  # asked of every reply
    return cached[1]


def _render(tokenizer: Any, messages: Sequence[Message], *, ask: bool) -> str:
    try:
        text = tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=ask)
    except Exception as error:  # a template is somebody's program, and may fail like any
        roles = ", ".join(m["role"] for m in messages)
        why = first_line(error)
        raise UserError(f"policy.chat_template: cannot render a chat with roles {roles}: {why}") from error
    return str(text)


def _cut_last_turn(tokenizer: Any, head: list[Message], last: Message, limit: int, excess: int) -> list[int]:
    content = _plain_ids(tokenizer, last["content"])
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
    special = (set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)) - {tokenizer.unk_token_id}
    for token in _plain_ids(tokenizer, tail):
        if token in special:
            return int(token)
    if tokenizer.eos_token_id is None:
        raise UserError("policy.model: neither the chat template nor the tokenizer has a token that ends a reply")
    return int(tokenizer.eos_token_id)


def first_line(error: Exception) -> str:
    """The first line of an error's text, shortened; its type's name where it has none."""
    return str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
