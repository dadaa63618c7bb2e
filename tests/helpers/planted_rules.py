"""A judge that follows the rules which its instruction states, a wrong one among them, and models that rewrite it.

The judge picks the longer response in nine of ten pairs while the wrong rule stands in its instruction. Without it, it
picks the better one in a share of pairs that grows with the right rules that are left. Which pairs these are is drawn
from the pair and the rules: the same question gets the same answer.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from loopback import Body, answer, shown, text_hash
from planted_judge import GOOD, PAIR

from cyclealign.judge.template import RankTemplate, load_template
from cyclealign.types import Prompt

WRONG = "- Thorough: a longer response takes more care and ranks above a shorter one."
RIGHT = (
    "- Harmless: a response that hurts nobody ranks above one that does.",
    "- Honest: a true response ranks above one that makes things up.",
    "- Helpful: a response that does what was asked ranks above one that does not.",
)
IDLE = (
    "- Consider the conversation as a whole before you judge.",
    "- Take each response on its own terms first.",
    "- The person who asked will read your choice.",
    "- Judge what is written, not who may have written it.",
    "- Be consistent from one comparison to the next.",
    "- Do not hurry.",
    "- Read both responses to their end.",
    "- A response may be in any language.",
)
BANK = (
    "- Stay calm and neutral.",
    "- Weigh every sentence.",
    "- Imagine how a friend would read it.",
    "- Small slips of spelling matter little.",
)
FOLLOWED = 0.9  # share of pairs in which the wrong rule is followed
KNOWING, EACH = 0.6, 0.1  # accuracy without any rule, and what each right rule adds
_CASE = re.compile(r"<case>(.*?)</case>", re.DOTALL)
_RESPONSE = re.compile(r"<response>\n(.*?)\n</response>", re.DOTALL)
_INSTRUCTION = re.compile(r"<instruction>\n(.*?)\n</instruction>", re.DOTALL)
Propose = Callable[[Body], str]


def rules_of(text: str) -> list[str]:
    """The rules that stand in an instruction, in their order."""
    return [line for line in text.splitlines() if line.startswith("- ")]


def planted_template() -> RankTemplate:
    """The packaged template with rules of which one is wrong."""
    rules = [*IDLE[:4], RIGHT[0], WRONG, *RIGHT[1:], *IDLE[4:]]
    head = "Rank the numbered responses to the last user turn from best to worst:"
    return replace(load_template("rank"), instruction="\n".join([head, *rules, "{answer}"]))


def planted_lengths(n: int, start: int = 0) -> list[Prompt]:
    """Labelled pairs, of which the better reply is the longer one in every second."""
    found = []
    for i in range(start, start + n):
        longer = " and so on" * (2 + i % 5)
        words = [f"{GOOD} reply to {i}", f"poor reply to {i}"]
        words[i % 2] += longer
        found.append(Prompt(({"role": "user", "content": f"question {i}: which one?"},), *words))
    return found


def right(pair: int, rules: Sequence[str]) -> bool:
    """Whether the judge answers a pair of ``planted_lengths`` as labelled when its instruction has these rules."""
    known = sorted(r for r in rules if r == WRONG or r in RIGHT)
    draw = int(text_hash(f"{pair} {known}")[:12], 16) / 16**12
    if WRONG in known:
        return (draw < FOLLOWED) == (pair % 2 == 0)
    return draw < KNOWING + EACH * len(known)


def accuracy(rules: Sequence[str]) -> float:
    """The judge's expected accuracy with these rules."""
    return 0.5 if WRONG in rules else KNOWING + EACH * sum(r in rules for r in RIGHT)


def ruled_judge(body: Body) -> str:
    """The judge, as a server plays it."""
    texts, head = shown(body), body["messages"][0]["content"]
    pair = PAIR.findall(body["messages"][-1]["content"])
    if not pair:  # the probe
        return answer(body, range(len(texts)))
    good = next(slot for slot, text in enumerate(texts) if text.startswith(GOOD))
    best = good if right(int(pair[-1]), rules_of(head)) else 1 - good
    return answer(body, (best, 1 - best))


@dataclass(frozen=True)
class JudgeAndMind:
    """Both models behind one server: ``propose`` answers the model ``mind``, the judge all others."""

    propose: Propose

    def __call__(self, body: Body) -> str:
        return self.propose(body) if body["model"] == "mind" else ruled_judge(body)


def reading(body: Body) -> str:
    """Reads the mistakes: where the longer response was put first in most of them, it drops the rule that speaks of
    length; else it edits at random."""
    asked = body["messages"][1]["content"]
    cases = [_longer_first(case) for case in _CASE.findall(asked)]
    rules = rules_of(_INSTRUCTION.findall(asked)[0])
    lengths = [r for r in rules if re.search(r"\b(?:long|longer|short|shorter|length)\b", r)]
    if lengths and sum(cases) > len(cases) / 2:
        return _written(asked, [r for r in rules if r not in lengths])
    return at_random(body)


def _longer_first(case: str) -> bool:
    """Whether the judge put the longer response first."""
    lengths = [len(text) for text in _RESPONSE.findall(case)]
    first = re.findall(r"The judge put \[(\d)\] first", case)
    return bool(first) and lengths[int(first[0]) - 1] == max(lengths)


def at_random(body: Body) -> str:
    """Drops, moves, replaces or adds a rule, without a look at the mistakes; drawn from the request."""
    asked = body["messages"][1]["content"]
    rules = rules_of(_INSTRUCTION.findall(asked)[0])
    draws = random.Random(text_hash(asked))
    place, word = draws.randrange(len(rules)), draws.choice(BANK)
    edits: list[Callable[[], list[str]]] = [
        lambda: [*rules[:place], *rules[place + 1 :]],
        lambda: [rules[place], *rules[:place], *rules[place + 1 :]],
        lambda: [*rules[:place], word, *rules[place + 1 :]],
        lambda: [*rules[:place], word, *rules[place:]],
    ]
    return _written(asked, draws.choice(edits)())


def _written(asked: str, rules: Sequence[str]) -> str:
    old = _INSTRUCTION.findall(asked)[0].splitlines()
    kept = [line for line in old if not line.startswith("- ")]
    return "\n".join(["Here is a better one.", "<instruction>", kept[0], *rules, *kept[1:], "</instruction>"])
