"""What a judge is asked to say: an order, scores or one letter; with ties, with its reason. Not how (the wire form)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cyclealign.config.black_box import Answer, BlackBoxConfig

LABELS = "ABCDEFGHIJKLMNOP"  # of the responses, where the first token of the answer is one of them
LOWEST, HIGHEST = 1, 10  # scores are whole numbers between these
ENUM_UP_TO = 4  # up to here a schema lists all orders, so that no wrong answer can be written


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """As ``black_box`` has it. rubric: of all prompts; empty: none."""

    answer: Answer = "ranking"
    ties: bool = False
    explain: bool = False
    rubric: str = ""

    @property
    def usual(self) -> bool:
        """Whether it is an order alone, for which a template has its own words."""
        return self.answer == "ranking" and not self.ties and not self.explain

    @property
    def identity(self) -> dict[str, Any]:
        """What of it a call's identity has, besides its messages: what is not as it is by default."""
        said = {"answer": self.answer, "ties": self.ties, "explain": self.explain, "rubric": self.rubric}
        return {name: value for name, value in said.items() if value != getattr(PLAIN, name)}

    def shape(self, k: int) -> str:
        """The kind of schema that an answer over ``k`` responses is held to: a server may know one and not another."""
        kind = "scores" if self.answer == "scores" else "array" if k > ENUM_UP_TO else "enum"
        return " ".join([kind, *(["ties"] if self.ties else []), *(["reason"] if self.explain else [])])


PLAIN = Asked()


def asked_of(config: BlackBoxConfig) -> Asked:
    """What the section asks for."""
    return Asked(answer=config.answer, ties=config.ties, explain=config.explain, rubric=config.rubric or "")
