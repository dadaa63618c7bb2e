"""Template to messages, and reply to ranking: inverse functions.

What a judge sees: system and instruction, then demonstrations as real user/assistant turns, then the item as
the last user turn. The head and the static demonstrations are the same bytes in every call of a run, so that
the provider's prompt cache serves them. What others wrote (conversation, responses) is data: it stands
between tags that it cannot write itself (``neutralise``), and roles are the API's own, so it can forge
neither a demonstration nor an answer.
"""

from __future__ import annotations

import itertools
import json
import math
import random
import re
from collections.abc import Sequence
from functools import cache
from typing import Any

from cyclealign.files.printable import well_formed
from cyclealign.judge.call import AnswerForm
from cyclealign.judge.template import RankTemplate, fill
from cyclealign.types import CandidateSet, Demonstration, Message

ENUM_UP_TO = 4  # up to here the schema lists all K! orders (24), so that no wrong answer can be written
LETTERS_PER_TOKEN = 2.75
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
_LABEL = rf"{_GAP}[\d０-９]+{_GAP}[\]］】〕❳⟧]"


def _look_alike(word: str) -> str:
    """A pattern of a word however wide its letters are, and whatever unseen stands between them."""
    letters = (f"[{re.escape(c)}{chr(ord(c) + 0xFEE0)}]" if "!" <= c <= "~" else re.escape(c) for c in word)
    return _HIDDEN.join(letters)


@cache
def _markers(tags: Sequence[str]) -> re.Pattern[str]:
    names = "|".join(_look_alike(tag) for tag in tags) or r"(?!)"
    ends = rf"(?!{_HIDDEN}[\w-])"
    fence = rf"[{_LESS}]\\*(?={_GAP}[/／]?{_GAP}(?:{names}){ends}|{_HIDDEN}(?:{_CONTROL}))"
    bracketed = rf"\[\\*(?={_BRACKETED})"
    label = rf"{_LINE}{_BLANKS}[{_UNSEEN}>*_#`-]*+{_BLANKS}[{_SQUARE}]\\*(?={_LABEL})"
    return re.compile(f"{fence}|{bracketed}|{label}", re.IGNORECASE)


def neutralise(text: str, tags: Sequence[str]) -> str:
    r"""Put a backslash after the bracket of everything that could close or open a fence, a slot or a chat turn.

    ``</response>`` becomes ``<\/response>``, ``<|im_end|>`` becomes ``<\|im_end|>``, ``[2]`` at the beginning of a line
    ``[\2]``; also where the letters are full-width ones or unseen marks stand between them. Text that has such a
    backslash already gets one more, so that ``restore`` undoes it exactly. Nothing else changes.
    """
    return _markers(tuple(tags)).sub(lambda m: m[0] + "\\", text)


def restore(text: str, tags: Sequence[str]) -> str:
    """The inverse of ``neutralise``."""
    return _markers(tuple(tags)).sub(lambda m: m[0].removesuffix("\\"), text)


# Template to messages ---------------------------------------------------------------------------------------


def render(
    template: RankTemplate,
    demos: Sequence[Demonstration],
    item: CandidateSet,
    presentation: Sequence[int],
    *,
    structured: bool,
) -> list[Message]:
    """The messages of one ranking call.

    Args:
        demos: in the order in which they are shown; their answers take the item's form of answer.
        presentation: ``presentation[slot]`` is the index of the candidate shown as number ``slot + 1``.
        structured: ask for JSON that fits ``answer_schema(K)``, else for a line like ``[2] > [1] > [3]``.

    Raises ValueError where ``presentation`` is not a permutation of the K candidates.
    """
    k = len(item.candidates)
    _check_permutation(presentation, k)
    array = k > ENUM_UP_TO
    wording = template.answer_structured if structured else template.answer_text
    example = format_answer((1, 0, 4, 2, 3) if array else (1, 0, 2), structured=structured, array=array)
    answer = fill(wording, {"example": example})
    head = fill(template.instruction, {"answer": answer})
    messages: list[Message] = []
    for demo in demos:
        shown = _user_turn(template, template.demonstration, demo.prompt.messages, demo.responses)
        worked = format_answer(demo.order, structured=structured, array=array)
        messages += [{"role": "user", "content": shown}, {"role": "assistant", "content": worked}]
    responses = [item.candidates[index].text for index in presentation]
    last = _user_turn(template, template.item, item.prompt.messages, responses, answer=answer)
    messages.append({"role": "user", "content": last})
    if template.system:
        return [{"role": "system", "content": f"{fill(template.system, {})}\n\n{head}"}, *messages]
    return [{"role": "user", "content": f"{head}\n\n{messages[0]['content']}"}, *messages[1:]]


def _user_turn(
    template: RankTemplate, text: str, messages: Sequence[Message], responses: Sequence[str], **more: str
) -> str:
    def safe(data: str) -> str:
        return neutralise(well_formed(data), template.tags)

    turns = [fill(template.turn, {"role": safe(m["role"]), "text": safe(m["content"])}) for m in messages]
    shown = [fill(template.candidate, {"number": str(n), "text": safe(r)}) for n, r in enumerate(responses, 1)]
    values = {"conversation": "\n".join(turns), "candidates": "\n".join(shown), "k": str(len(responses))}
    return fill(text, values | more)


def format_answer(order: Sequence[int], *, structured: bool, array: bool = False) -> str:
    """The answer that names slots ``order`` (0-based, best first) in the form that ``parse_reply`` reads."""
    numbers = [slot + 1 for slot in order]
    if not structured:
        return " > ".join(f"[{n}]" for n in numbers)
    ranking: Any = numbers if array else ">".join(map(str, numbers))
    return json.dumps({"ranking": ranking}, separators=(",", ":"))


def answer_schema(k: int) -> dict[str, object]:
    """JSON schema of the answer: for K <= 4 one of the K! orders, above an array of K response numbers.

    ``uniqueItems`` is left out because many servers refuse it; ``parse_reply`` checks instead.
    """
    if k <= ENUM_UP_TO:
        orders = itertools.permutations(range(1, k + 1))
        ranking: dict[str, object] = {"type": "string", "enum": [">".join(map(str, order)) for order in orders]}
    else:
        number = {"type": "integer", "enum": list(range(1, k + 1))}
        ranking = {"type": "array", "items": number, "minItems": k, "maxItems": k}
    return {
        "type": "object",
        "properties": {"ranking": ranking},
        "required": ["ranking"],
        "additionalProperties": False,
    }


def response_format(k: int) -> dict[str, object]:
    """``answer_schema`` as the ``response_format`` of an OpenAI-compatible chat call."""
    return {
        "type": "json_schema",
        "json_schema": {"name": "ranking", "strict": True, "schema": answer_schema(k)},
    }


def answer_format(k: int, form: AnswerForm) -> dict[str, object] | None:
    """The ``response_format`` of a call in a form of answer; None for text."""
    if form == "text":
        return None
    return response_format(k) if form == "schema" else {"type": "json_object"}


def repair_messages(messages: Sequence[Message], reply: str, problem: str) -> list[Message]:
    """The messages of the one repair call: the unusable reply and what is wrong with it."""
    quoted = reply.strip()
    if len(quoted) > REPAIR_QUOTE:
        quoted = quoted[:REPAIR_QUOTE] + " …"
    shown = neutralise(well_formed(quoted), ()) or "(empty reply)"  # some servers refuse an empty turn
    wanted = (
        f"This reply cannot be used: {problem}. Answer again with the ranking alone, in the form that was"
        " asked for: every response number exactly once, best first."
    )
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
    letters = len(re.findall(r"[A-Za-z\s]", ascii_text))
    beyond = len(text.encode("utf-8", "surrogatepass")) - len(ascii_text)
    return math.ceil(letters / LETTERS_PER_TOKEN + (len(ascii_text) - letters) + beyond / 2)


def estimate_message_tokens(messages: Sequence[Message]) -> int:
    """``estimate_tokens`` of the contents, plus 4 a message for the chat template's marks."""
    return sum(estimate_tokens(m["content"]) + 4 for m in messages)


def demonstration_tokens(template: RankTemplate, demo: Demonstration) -> int:
    """Estimate of what one demonstration adds to a call, whichever form of answer is asked for."""
    shown = _user_turn(template, template.demonstration, demo.prompt.messages, demo.responses)
    forms = [format_answer(demo.order, structured=structured, array=True) for structured in (True, False)]
    answer = max(forms, key=estimate_tokens)
    turns: list[Message] = [{"role": "user", "content": shown}, {"role": "assistant", "content": answer}]
    return estimate_message_tokens(turns)
