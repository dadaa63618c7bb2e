"""The one place where the columns of a row become replies and what people think of them.

- HH-RLHF: ``chosen`` and ``rejected`` dialogues. TRL preference, HHH, RewardBench, UltraFeedback binarised: ``prompt``,
  ``chosen``, ``rejected`` (texts, messages, or lists of texts as in RewardBench 2). Whole dialogues in their place
  become their last replies; their beginning must be the prompt.
- LLMBar: ``input``, ``output_1``, ``output_2``, ``label`` (1 or 2).
- PandaLM: ``instruction``, ``input``, ``response1``, ``response2``, ``annotators`` (or ``annotator1`` to
  ``annotator3``): 1, 2 or 0 for a tie; the majority is the label, three different votes are a tie.
- Lists: ``candidates``, UltraFeedback's ``completions``, Nectar's ``answers``, or ``responses``: objects with a text
  and a grade (higher is better) or ``rank`` (lower is better); texts beside a list ``grades``, ``scores`` or
  ``ranks``; or objects with ``id`` and text beside ``tiers``: lists of ids, best first, those of one list equally good.
  A chat in a text's place becomes its last reply; without a prompt's column all begin with the prompt.
  All replies of a row are graded by one key, the first of ``GRADES`` that all of them have.

A row that could be read as several of these is read as votes, else as a graded list, else as a pair.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from cyclealign.files.columns import PROMPTS, Columns, asked, exchange, first_there, with_system
from cyclealign.files.messages import checked, dialogue_text, is_dialogue_text, is_messages, joined, messages, parted
from cyclealign.files.odd_rows import OddRow, UnusableRow
from cyclealign.files.thinking import answered
from cyclealign.files.trec import finite
from cyclealign.types import Candidate, Message

LISTS = ("candidates", "completions", "answers", "responses")
REPLY_TEXTS = ("text", "response", "answer", "content", "completion", "output")
GRADES = ("grade", "overall_score", "score", "fine-grained_score", "rating", "reward", "rank")
BESIDE = ("grades", "scores", "ratings", "ranks")
RANKS = ("rank", "ranks")  # lower is better
_REPLY = "\n\nAssistant:"
Replies = tuple[tuple[Candidate, float], ...]


@dataclass(frozen=True, slots=True)
class LabelledRow:
    """A prompt and its replies, each with its grade; higher is better. ``gives``: whether grades say by how much."""

    messages: tuple[Message, ...]
    replies: Replies
    gives: Literal["order", "magnitude"] = "order"

    @property
    def extremes(self) -> tuple[str, str] | None:
        """The best and the worst reply, the first of equals; None where nothing is preferred or a text says nothing."""
        ordered = sorted(self.replies, key=lambda reply: -reply[1])
        (best, high), (worst, low) = ordered[0], next(r for r in ordered if r[1] == ordered[-1][1])
        told = best.text.strip() and worst.text.strip()
        return (best.text, worst.text) if high > low and told else None


def labelled_row(row: Columns, place: str) -> LabelledRow | None:
    """None for a row without columns of labels; a list of replies without grades is odd. Thinking in a reply is set
    aside.

    Raises:
        OddRow: names what its columns do not hold.
        UnusableRow: two dialogues that have no prompt in common.
    """
    found = _labelled(row, place)
    return found and replace(found, replies=tuple((answered(reply), grade) for reply, grade in found.replies))


def _labelled(row: Columns, place: str) -> LabelledRow | None:
    there = {name for name, value in row.items() if value is not None}
    for columns, parser in _VOTES:
        if columns <= there:
            return parser(row, place)
    pair = {"chosen", "rejected"} <= there
    if first_there(row, LISTS) and (not pair or _is_graded(row)):
        return _graded_list(row, place)
    return _pair(row, place) if pair else None


def has_labels(row: Columns) -> bool:
    """Whether a row has columns of labels; a list of replies alone is none."""
    there = {name for name, value in row.items() if value is not None}
    return any(columns <= there for columns, _ in _VOTES) or {"chosen", "rejected"} <= there or _is_graded(row)


def _is_graded(row: Columns) -> bool:
    name = first_there(row, LISTS)
    found = row[name] if name is not None else None
    first = found[0] if isinstance(found, list) and found else None
    if isinstance(first, dict):
        return first_there(first, GRADES) is not None or row.get("tiers") is not None
    return isinstance(first, str | list) and first_there(row, BESIDE) is not None


# Pairs --------------------------------------------------------------------------------------------------------


def _pair(row: Columns, place: str) -> LabelledRow:
    chosen, rejected = row["chosen"], row["rejected"]
    if _are_texts(chosen) and _are_texts(rejected):
        texts = _replies(row, [*chosen, *rejected], place)
        good = [(Candidate(f"chosen-{n}", text), 1.0) for n, text in enumerate(texts[: len(chosen)])]
        bad = [(Candidate(f"rejected-{n}", text), 0.0) for n, text in enumerate(texts[len(chosen) :])]
        return LabelledRow(asked(row, place), (*good, *bad))
    given = first_there(row, PROMPTS) is not None
    sides = [_side(row[name], f"{place}: {name}", whole=not given) for name in ("chosen", "rejected")]
    heads = [head for head, _ in sides if head]
    texts = [text for _, text in sides]
    if (len(heads) == 2 and heads[0] != heads[1]) or not _same_text(chosen, rejected):
        raise UnusableRow("have chosen and rejected dialogues that do not share the prompt")
    if given:
        prompt, said = exchange(row, place)
        if said is not None and not heads and said not in texts:
            raise OddRow(f"{place}: the dialogue ends with a reply that is neither chosen nor rejected")
        found = _shared(prompt, heads[0], place) if heads else prompt
        texts = own_replies(row.get(first_there(row, PROMPTS) or ""), texts) if not heads else texts
    else:
        found = with_system(row, heads[0] if heads else (), place)
    pair = zip(("chosen", "rejected"), texts, (1.0, 0.0), strict=True)
    return LabelledRow(checked(found, place), tuple((Candidate(name, text), grade) for name, text, grade in pair))


def _same_text(chosen: Any, rejected: Any) -> bool:
    """Whether two dialogue texts are one up to the last ``Assistant:``, which is HH-RLHF's own word for sharing it."""
    both = is_dialogue_text(chosen) and is_dialogue_text(rejected)
    return not both or str(chosen).rpartition(_REPLY)[0].strip() == str(rejected).rpartition(_REPLY)[0].strip()


def _side(value: Any, place: str, *, whole: bool) -> tuple[list[Message], str]:
    """What comes before the reply, where the value is a dialogue (``whole``: it must be one), and the reply."""
    if is_messages(value):
        head, reply = parted(messages(value, place))
        if reply is None:
            raise OddRow(f"{place}: expected one assistant message, at the end of the dialogue where it is one")
        return head, reply
    if isinstance(value, str) and (whole or is_dialogue_text(value)):
        if not is_dialogue_text(value):
            raise OddRow(f"{place}: expected an HH-RLHF dialogue that begins with '\\n\\nHuman:'; or name the prompt")
        turns = dialogue_text(value)
        if all(turn["role"] != "assistant" for turn in turns):
            raise OddRow(f"{place}: no '\\n\\nAssistant:' turn")
        head, reply = parted(turns)
        if reply is None:
            raise UnusableRow("end with a human turn")
        return joined(head), reply
    return [], _text(value, place)


def _shared(prompt: Sequence[Message], head: Sequence[Message], place: str) -> list[Message]:
    """The prompt of a row that has it twice, in a column and at the beginning of both dialogues."""
    asked_, told = ([(m["role"], m["content"].strip()) for m in m_ if m["role"] != "system"] for m_ in (prompt, head))
    if asked_ == told or (len(told) < len(asked_) and asked_[-len(told) :] == told):
        return list(prompt if len(prompt) >= len(head) else head)
    # UltraFeedback's rows name a dialogue by one of its user turns.
    if len(asked_) == 1 and asked_[0] in told:
        return [*(m for m in prompt[:1] if m["role"] == "system" != head[0]["role"]), *head]
    raise OddRow(f"{place}: the prompt and the beginning of the dialogues chosen and rejected differ")


def _replies(row: Columns, texts: Sequence[str], place: str) -> list[str]:
    """The replies alone, where all texts are whole dialogues of the row's prompt, or all begin with it."""
    if not all(is_dialogue_text(text) for text in texts):
        return own_replies(row.get(first_there(row, PROMPTS) or ""), texts)
    prompt, sides = asked(row, place), [_side(text, place, whole=True) for text in texts]
    if any(_shared(prompt, head, place) != list(prompt) for head, _ in sides):
        raise OddRow(f"{place}: the prompt and the beginning of the dialogues differ")
    return [reply for _, reply in sides]


def own_replies(prompt: Any, replies: Sequence[str]) -> list[str]:
    """The replies without the prompt, where all of them begin with it.

    A short prompt may begin a reply by chance ("Hi" and "Hi there"): it must have three words, or end as a form does
    before an answer, or a line must end after it.
    """
    said = prompt.strip() if isinstance(prompt, str) else ""
    if not said or len(replies) < 2 or not all(reply.lstrip().startswith(said) for reply in replies):
        return list(replies)
    rests = [reply.lstrip()[len(said) :] for reply in replies]
    long = len(said.split()) >= 3 or (not said.isascii() and len(said) >= 8)
    if long or said.endswith((":", ">", "]")) or all(rest.startswith("\n") for rest in rests):
        return [rest.strip() for rest in rests]
    return list(replies)


# Votes --------------------------------------------------------------------------------------------------------


def _llmbar(row: Columns, place: str) -> LabelledRow:
    label = _one_of(row["label"], (1, 2), f"{place}: label")
    texts = [_text(row[f"output_{n}"], f"{place}: output_{n}") for n in (1, 2)]
    return _numbered(row, texts, label, place)


def _pandalm(row: Columns, place: str) -> LabelledRow:
    votes = row.get("annotators")
    if votes is None:
        votes = [row[f"annotator{n}"] for n in (1, 2, 3) if row.get(f"annotator{n}") is not None]
    if not isinstance(votes, list) or not votes:
        raise OddRow(f"{place}: expected annotators (or annotator1 to annotator3): votes 0, 1 or 2")
    label = majority([_one_of(v, (0, 1, 2), f"{place}: annotators") for v in votes])
    texts = [row[f"response{n}"] for n in (1, 2)]
    if not all(isinstance(text, str) for text in texts):  # upstream has a true and a number among them
        raise UnusableRow("have a response that is not text")
    return _numbered(row, texts, label, place)


def _numbered(row: Columns, texts: Sequence[str], label: int, place: str) -> LabelledRow:
    texts = _replies(row, texts, place)
    return LabelledRow(
        asked(row, place), tuple((Candidate(str(n), t), float(n == label)) for n, t in enumerate(texts, start=1))
    )


def majority(votes: Sequence[int]) -> int:
    """The vote of more annotators than any other; 0 (a tie) where there is none."""
    (first, count), *others = Counter(votes).most_common()
    return 0 if others and others[0][1] == count else first


# Lists --------------------------------------------------------------------------------------------------------


def _graded_list(row: Columns, place: str) -> LabelledRow:
    name = first_there(row, LISTS) or LISTS[0]
    values, beside = row[name], first_there(row, BESIDE)
    if not isinstance(values, list) or not values:
        raise OddRow(f"{place}: {name}: expected a list of {{id, text, grade}}")
    if beside is not None and (_are_texts(values) or _are_chats(values)):
        grades, key = row[beside], beside
        records: list[Columns] = [{"text": text} for text in values]
        if not isinstance(grades, list) or len(grades) != len(values):
            raise OddRow(f"{place}: {beside}: expected a list of {len(values)} numbers, one for each of {name}")
    elif all(isinstance(value, dict) for value in values):
        records = values
        common = [k for k in GRADES if all(record.get(k) is not None for record in records)]
        if not common and row.get("tiers") is None:
            raise OddRow(f"{place}: {name}: expected for each a finite number under one key of {', '.join(GRADES)}")
        key = common[0] if common else "tiers"
        grades = [record[key] for record in records] if common else _places(row["tiers"], records, place)
    else:
        raise OddRow(
            f"{place}: {name}: expected a list of {{id, text, grade}}, or of texts or chats beside {', '.join(BESIDE)}"
        )
    numbers = [_grade(g, f"{place}: {name} {n}: {key}") for n, g in enumerate(grades)]
    sides = [_reply_side(record, f"{place}: {name} {n}") for n, record in enumerate(records)]
    prompt, texts = _asked_of(row, [head for head, _ in sides], place), [text for _, text in sides]
    texts = _replies(row, texts, place) if not sides[0][0] else texts
    ids = [str(record["id"] if record.get("id") is not None else n) for n, record in enumerate(records)]
    if len(set(ids)) < len(ids):
        raise OddRow(f"{place}: {name}: ids are not distinct")
    ranked = key in (*RANKS, "tiers")
    numbers = [0.0 - g for g in numbers] if ranked else numbers
    replies = tuple((Candidate(i, t), g) for i, t, g in zip(ids, texts, numbers, strict=True))
    return LabelledRow(prompt, replies, "order" if ranked else "magnitude")


def _places(tiers: Any, records: Sequence[Columns], place: str) -> list[int]:
    """The tier of each reply, from 0."""
    rows = tiers if isinstance(tiers, list) and all(isinstance(tier, list) for tier in tiers) else []
    found = {i: n for n, tier in enumerate(rows) for i in tier if isinstance(i, str)}
    ids = [record.get("id") for record in records]
    if sum(map(len, rows)) != len(ids) or any(not isinstance(i, str) or i not in found for i in ids):
        raise OddRow(f"{place}: tiers: expected lists of ids, best first, in which each candidate's id stands once")
    return [found[str(i)] for i in ids]


def _reply_side(record: Columns, place: str) -> tuple[list[Message], str]:
    """What comes before the reply, where it stands at the end of a chat of its own, and the reply."""
    key = first_there(record, (*REPLY_TEXTS, "messages"))
    value = record[key] if key is not None else None
    where = f"{place}: {key or REPLY_TEXTS[0]}"
    return _side(value, where, whole=False) if is_messages(value) else ([], _text(value, where))


def _asked_of(row: Columns, heads: Sequence[list[Message]], place: str) -> tuple[Message, ...]:
    """The prompt of a list: of its own column, or what all its chats begin with."""
    if any(head != heads[0] for head in heads):
        raise UnusableRow("have chats that do not share the prompt")
    if first_there(row, PROMPTS) is None and heads[0]:
        return checked(with_system(row, heads[0], place), place)
    prompt = asked(row, place)
    return checked(_shared(prompt, heads[0], place), place) if heads[0] else prompt


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 0 and all(isinstance(v, str) for v in value)


def _are_chats(value: list[Any]) -> bool:
    return all(isinstance(v, list) and is_messages(v) for v in value)


def _text(value: Any, place: str) -> str:
    if not isinstance(value, str):
        raise OddRow(f"{place}: expected text, got {type(value).__name__}")
    return value


def _one_of(value: Any, allowed: tuple[int, ...], place: str) -> int:
    number = finite(value)
    if number not in allowed:
        raise OddRow(f"{place}: expected one of {', '.join(map(str, allowed))}, got {value!r}")
    return int(number)


def _grade(value: Any, place: str) -> float:
    number = None if isinstance(value, str) else finite(value)
    if number is None:
        raise OddRow(f"{place}: expected a finite number, got {str(value)[:40]!r}")
    return number


_VOTES: tuple[tuple[frozenset[str], Callable[[Columns, str], LabelledRow]], ...] = (
    (frozenset({"output_1", "output_2", "label"}), _llmbar),
    (frozenset({"response1", "response2"}), _pandalm),
)
