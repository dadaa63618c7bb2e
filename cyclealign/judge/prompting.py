"""Template to messages, and reply to ranking: inverse functions.

What a judge sees: system and instruction, then demonstrations as real user/assistant turns, then the item as
the last user turn. The head and the static demonstrations are the same bytes in every call of a run, so that
the provider's prompt cache serves them. What others wrote (conversation, responses) is data: it stands
between tags that it cannot write itself (``neutralise``), and roles are the API's own, so it can forge
neither a demonstration nor an answer.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache, partial

from cyclealign.files.printable import well_formed
from cyclealign.judge.answers import answer_words, format_answer
from cyclealign.judge.asked import ENUM_UP_TO, LABELS, PLAIN, Asked
from cyclealign.judge.template import RankTemplate, fill, fill_blocks, has_place
from cyclealign.types import CandidateSet, Demonstration, Message, Prompt

LETTERS_PER_TOKEN = 2.75
_LETTERS_AND_BLANKS = {n: None for n in range(128) if chr(n).isalpha() or chr(n).isspace()}
TEXTS = 512  # of each kind that are kept as they stand in a prompt: over passes and forms, demonstrations over calls
REPAIR_QUOTE = 1000  # characters of an unusable reply that the repair call shows again

# Control tokens of common chat templates: a server that parses them in content would let data open a turn. And marks of
# thinking: a judge that quotes them would seem to have thought up to there.
_CONTROL = (
    r"[|｜]|/?s>|/?sys>>|(?:start|end)_of_turn>|(?:bos|eos|pad|unk|start_of_image)>"
    r"|/?(?:[a-z]+:)?(?:think|thinking|thought|reasoning|reflection|analysis|scratchpad)(?![a-z0-9-])"
)
_BRACKETED = r"/?(?:inst|system_prompt|available_tools|tool_calls|tool_results|think|thinking)\]"


# Data between fences ----------------------------------------------------------------------------------------

# Brackets that look like those of a fence, or that a model's eye reads as them; and marks that nobody sees.
_LESS, _SQUARE = "<＜﹤‹〈⟨❮˂", r"\[［【〔❲⟦"
_OPENING = re.compile(f"[{_LESS}{_SQUARE}]")  # most texts have none, and need no closer look
# Unicode's Default_Ignorable_Code_Point, and the format characters of category Cf beside it.
_UNSEEN = (
    "\u00ad\u034f\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f"
    "\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U000110bd\U000110cd\U00013430-\U0001343f"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
# Possessive here and below: thousands of blanks in a row take no longer than as many letters.
_GAP = rf"[\s{_UNSEEN}]*+"
_HIDDEN = rf"[{_UNSEEN}]*"
# A slot's label is alone at the beginning of its line, as in the frame around the data.
_ENDS = r"\n\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029"
_LINE = rf"(?:(?<=[{_ENDS}])|\A)"
_BLANKS = rf"[^\S{_ENDS}]*+"  # without line ends: of a run of them each begins a line, and would read all others
_NUMBERS, _LETTERS = r"[\d０-９]+", r"[A-PＡ-Ｐ]"


def _look_alike(word: str) -> str:
    """A pattern of a word however wide its letters are, and whatever unseen stands between them."""
    letters = (f"[{re.escape(c)}{chr(ord(c) + 0xFEE0)}]" if "!" <= c <= "~" else re.escape(c) for c in word)
    return _HIDDEN.join(letters)


@cache
def _markers(tags: Sequence[str], letters: bool) -> re.Pattern[str]:
    names = "|".join(_look_alike(tag) for tag in tags) or r"(?!)"
    ends = rf"(?!{_HIDDEN}[\w-])"
    fence = rf"[{_LESS}]\\*(?={_GAP}[/／]?{_GAP}(?:{names}){ends}|{_HIDDEN}(?:{_CONTROL}))"
    bracketed = rf"\[\\*(?={_BRACKETED})"
    slots = f"{_NUMBERS}|{_LETTERS}" if letters else _NUMBERS
    label = rf"{_LINE}{_BLANKS}[{_UNSEEN}>*_#`-]*+{_BLANKS}[{_SQUARE}]\\*(?={_GAP}(?:{slots}){_GAP}[\]］】〕❳⟧])"
    return re.compile(f"{fence}|{bracketed}|{label}", re.IGNORECASE)


def neutralise(text: str, tags: Sequence[str], *, letters: bool = False) -> str:
    r"""Put a backslash after the bracket of everything that could close or open a fence, a slot or a chat turn.

    ``</response>`` becomes ``<\/response>``, ``<|im_end|>`` becomes ``<\|im_end|>``, ``[2]`` at the beginning of a line
    ``[\2]``; also where the letters are full-width ones or unseen marks stand between them. Text that has such a
    backslash already gets one more, so that ``restore`` undoes it exactly. Nothing else changes. letters: slots are
    named by letters.
    """
    if _OPENING.search(text) is None:
        return text
    return _markers(tuple(tags), letters).sub(lambda m: m[0] + "\\", text)


@lru_cache(TEXTS)
def _safe(text: str, tags: tuple[str, ...], letters: bool) -> str:
    """Foreign text as it stands in a prompt."""
    return neutralise(well_formed(text), tags, letters=letters)


def restore(text: str, tags: Sequence[str]) -> str:
    """The inverse of ``neutralise``."""
    return _markers(tuple(tags), False).sub(lambda m: m[0].removesuffix("\\"), text)


# Template to messages ---------------------------------------------------------------------------------------


def render(
    template: RankTemplate,
    demos: Sequence[Demonstration],
    item: CandidateSet,
    presentation: Sequence[int],
    *,
    structured: bool,
    asked: Asked = PLAIN,
) -> list[Message]:
    """The messages of one ranking call.

    Args:
        demos: in the order in which they are shown; their answers take the item's form of answer.
        presentation: ``presentation[slot]`` is the index of the candidate shown as number ``slot + 1``.
        structured: ask for JSON that fits ``answer_schema(K)``, else for a line like ``[2] > [1] > [3]``.
        asked: what the judge is to say.

    Raises ValueError where ``presentation`` is not a permutation of the K candidates.
    """
    k = len(item.candidates)
    _check_permutation(presentation, k)
    array = k > ENUM_UP_TO
    answer = answer_words(template, asked, structured=structured, array=array)
    letters = asked.answer == "first_token"
    rubric = _block(template, template.rubric, asked.rubric, letters=letters)
    head = fill_blocks(template.instruction, {"answer": answer, "rubric": rubric})
    messages: list[Message] = []
    for demo in demos:
        shown = _user_turn(template, template.demonstration, demo.prompt.messages, demo.responses, letters=letters)
        worked = format_answer(demo.order, structured=structured, array=array, asked=asked)
        messages += [{"role": "user", "content": shown}, {"role": "assistant", "content": worked}]
    responses = [item.candidates[index].text for index in presentation]
    own = {
        "answer": answer,
        "rubric": _block(template, template.rubric, item.prompt.rubric, letters=letters),
        "reference": _block(template, template.reference, item.prompt.reference, letters=letters),
    }
    last = _user_turn(template, template.item, item.prompt.messages, responses, own, letters=letters)
    # A template's own words ask for an order: what else is wanted is said last.
    closing = "" if asked.usual or has_place(template.item, "answer") else f"\n\n{answer}"
    messages.append({"role": "user", "content": f"{last}{closing}"})
    if template.system:
        return [{"role": "system", "content": f"{fill(template.system, {})}\n\n{head}"}, *messages]
    return [{"role": "user", "content": f"{head}\n\n{messages[0]['content']}"}, *messages[1:]]


def _block(template: RankTemplate, field: str, text: str | None, *, letters: bool) -> str:
    """A rubric or reference in its frame; empty where there is none."""
    return fill(field, {"text": _safe(text, template.tags, letters)}) if text else ""


def _user_turn(
    template: RankTemplate,
    text: str,
    messages: Sequence[Message],
    responses: Sequence[str],
    blocks: Mapping[str, str] | None = None,
    *,
    letters: bool = False,
) -> str:
    values = {
        "conversation": _conversation(template, tuple((m["role"], m["content"]) for m in messages), letters),
        "candidates": _candidates(template, tuple(responses), letters),
        "k": str(len(responses)),
    }
    return fill_blocks(text, values | dict(blocks or {}))


@lru_cache(TEXTS)
def _conversation(template: RankTemplate, turns: tuple[tuple[str, str], ...], letters: bool) -> str:
    """Turns (role, text) as they stand in a prompt."""
    safe = partial(_safe, tags=template.tags, letters=letters)
    return "\n".join(fill(template.turn, {"role": safe(role), "text": safe(text)}) for role, text in turns)


@lru_cache(TEXTS)
def _candidates(template: RankTemplate, responses: tuple[str, ...], letters: bool) -> str:
    """Responses in the order shown, as they stand in a prompt."""
    safe = partial(_safe, tags=template.tags, letters=letters)
    names = LABELS if letters else [str(n) for n in range(1, len(responses) + 1)]
    return "\n".join(
        fill(template.candidate, {"number": n, "text": safe(r)}) for n, r in zip(names, responses, strict=False)
    )


def repair_messages(messages: Sequence[Message], reply: str, problem: str, asked: Asked = PLAIN) -> list[Message]:
    """The messages of the one repair call: the unusable reply and what is wrong with it."""
    quoted = reply.strip()
    if len(quoted) > REPAIR_QUOTE:
        quoted = quoted[:REPAIR_QUOTE] + " …"
    shown = neutralise(well_formed(quoted), ()) or "(empty reply)"  # some servers refuse an empty turn
    again = "with the ranking alone, in the form that was asked for: every response number exactly once, best first."
    if not asked.usual:
        again = "in the form that was asked for, and with nothing else."
    wanted = f"This reply cannot be used: {problem}. Answer again {again}"
    return [*messages, {"role": "assistant", "content": shown}, {"role": "user", "content": wanted}]


# Presentation orders ----------------------------------------------------------------------------------------


def presentations(k: int, passes: int, *, seed: int) -> tuple[tuple[int, ...], ...]:
    """Distinct orders, ``presentation[slot] = candidate index``; all K! of them where that is fewer.

    Two are an order and its reverse: a judge's preference that is linear in the slot cancels. Three or more are
    independent but for being distinct, so that the passes of a judge that answers by slot have a tau near 0.
    """
    if k < 1 or passes < 1:
        raise ValueError(f"expected k >= 1 and passes >= 1, got k={k}, passes={passes}")
    generator = random.Random(seed)  # noqa: S311  seeded, to be repeated
    wanted = min(passes, math.factorial(k))
    orders: dict[tuple[int, ...], None] = {}
    while len(orders) < wanted:
        order = tuple(generator.sample(range(k), k))
        orders |= {order: None, order[::-1]: None} if wanted == 2 else {order: None}
    return tuple(orders)[:wanted]


def unshuffle(slots_best_first: Sequence[int], presentation: Sequence[int]) -> tuple[int, ...]:
    """Candidate indices best first, from slots best first: the one way back from what a judge was shown.

    Raises ValueError where either is not what it must be (a slot twice, or one that was not shown).
    """
    _check_permutation(presentation, len(presentation))
    if len(set(slots_best_first)) != len(slots_best_first) or not set(slots_best_first) <= set(presentation):
        raise ValueError(f"expected distinct slots below {len(presentation)}, got {tuple(slots_best_first)}")
    return tuple(presentation[slot] for slot in slots_best_first)


def _check_permutation(presentation: Sequence[int], k: int) -> None:
    if sorted(presentation) != list(range(k)):
        raise ValueError(f"expected a permutation of 0..{k - 1}, got {tuple(presentation)}")


# Token estimates --------------------------------------------------------------------------------------------


def estimate_tokens(text: str) -> int:
    """A conservative estimate that needs no tokenizer and no network.

    ``LETTERS_PER_TOKEN`` ASCII letters or spaces a token, one token for each digit or mark, two bytes a token beyond
    ASCII. On HH-RLHF dialogues a 30k WordPiece needs at most 0.72 of it (0.59 on average), a byte-level BPE of only
    4,096 tokens 0.80 on average and more than it in 1.4% of dialogues (at most 1.13).
    """
    ascii_text = text.encode("ascii", "ignore").decode("ascii")
    letters = len(ascii_text) - len(ascii_text.translate(_LETTERS_AND_BLANKS))
    beyond = len(text.encode("utf-8", "surrogatepass")) - len(ascii_text)
    return math.ceil(letters / LETTERS_PER_TOKEN + (len(ascii_text) - letters) + beyond / 2)


def estimate_message_tokens(messages: Sequence[Message]) -> int:
    """``estimate_tokens`` of the contents, plus 4 a message for the chat template's marks."""
    return sum(estimate_tokens(m["content"]) + 4 for m in messages)


def prompt_tokens(prompt: Prompt) -> int:
    """``estimate_message_tokens`` of a prompt as a judge is shown it, with its rubric and reference."""
    own = (text for text in (prompt.rubric, prompt.reference) if text)
    return estimate_message_tokens(prompt.messages) + sum(map(estimate_tokens, own))


def demonstration_tokens(template: RankTemplate, demo: Demonstration) -> int:
    """Estimate of what one demonstration adds to a call, whichever form of answer is asked for."""
    shown = _user_turn(template, template.demonstration, demo.prompt.messages, demo.responses)
    forms = [format_answer(demo.order, structured=structured, array=True) for structured in (True, False)]
    answer = max(forms, key=estimate_tokens)
    turns: list[Message] = [{"role": "user", "content": shown}, {"role": "assistant", "content": answer}]
    return estimate_message_tokens(turns)
