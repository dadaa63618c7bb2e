"""``prompts lint | render | eval``: a ranking template looked at, shown, and measured against others."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from cyclealign.curation.accuracy import Measured, Paid, arms_result, gain_text, gains
from cyclealign.curation.asking import LabelledJudge, Question
from cyclealign.curation.lint import Problem
from cyclealign.curation.metering import MeteredLedger
from cyclealign.evaluation.result import Result
from cyclealign.evaluation.statistics import Figure, Figures
from cyclealign.judge.demonstrations import DemonstrationPool
from cyclealign.judge.prompting import demonstration_tokens, estimate_message_tokens, render
from cyclealign.judge.template import FENCED, OPTIONAL, RankTemplate
from cyclealign.types import Candidate, CandidateSet, Demonstration, Prompt

# From here on the head outweighs the item in most calls, and every call pays for it.
LONG_HEAD = 800
SAMPLE = CandidateSet(
    Prompt(({"role": "user", "content": "What is the capital of France?"},)),
    (Candidate("0", "Paris."), Candidate("1", "I do not know."), Candidate("2", "Rome.")),
)


def lint_template(template: RankTemplate, demos: Sequence[Demonstration]) -> list[Problem]:
    """What loading cannot refuse: tags that nothing explains, layouts that differ, quoted demonstrations, size."""
    return [*_explained(template), *_layout(template), *_size(template, demos)]


def _explained(template: RankTemplate) -> Iterator[Problem]:
    head = f"{template.system}\n{template.instruction}".lower()
    for key in (key for key in FENCED if key not in OPTIONAL):  # those bring words of their own
        for tag in sorted({t.lower() for t in re.findall(r"<([A-Za-z][\w-]*)", getattr(template, key))}):
            if f"<{tag}>" not in head:
                says = f"neither system nor instruction says what stands in <{tag}>, or that it is only to be judged"
                yield Problem("warning", key, says)


def _layout(template: RankTemplate) -> Iterator[Problem]:
    item = " ".join(re.sub(r"\{(?:answer|rubric|reference)\}", "", template.item).split())
    if item != " ".join(template.demonstration.split()):
        yield Problem("warning", "demonstration", "is worded otherwise than item: demonstrations show another task")


def _size(template: RankTemplate, demos: Sequence[Demonstration]) -> Iterator[Problem]:
    tokens = head_tokens(template)
    if tokens > LONG_HEAD:
        yield Problem(
            "warning", "instruction", f"about {tokens} tokens come before every item; every call pays for them"
        )
    for demo in demos:
        if _quotes(template, demo):
            yield Problem("warning", "instruction", f"quotes a response of demonstration {demo.id}")


def _quotes(template: RankTemplate, demo: Demonstration) -> bool:
    head = " ".join(f"{template.system} {template.instruction}".lower().split())
    return any(len(text) >= 20 and " ".join(text.lower().split()) in head for text in demo.responses)


def head_tokens(template: RankTemplate) -> int:
    """Estimate of what a call sends besides its item's own words and its demonstrations."""
    empty = CandidateSet(Prompt(({"role": "user", "content": ""},)), (Candidate("0", ""), Candidate("1", "")))
    return estimate_message_tokens(render(template, (), empty, range(2), structured=True))


def size_line(template: RankTemplate, demos: Sequence[Demonstration]) -> str:
    """Version and size, for people."""
    each = [demonstration_tokens(template, d) for d in demos]
    mean = f", a demonstration about {sum(each) // len(each)}" if each else ""
    return f"{template.name} {template.version}: about {head_tokens(template)} tokens before the item's own words{mean}"


def rendered(
    template: RankTemplate, demos: Sequence[Demonstration], item: CandidateSet, *, structured: bool
) -> list[str]:
    """The messages of one call as text; candidates in their own order."""
    messages = render(template, demos, item, range(len(item.candidates)), structured=structured)
    lines = [f"--- {m['role']}\n{m['content']}" for m in messages]
    return [*lines, f"--- about {estimate_message_tokens(messages)} tokens"]


@dataclass(frozen=True, kw_only=True)
class Compared:
    """An arm a template, the baseline first; ``versions``: of each template, by name."""

    pairs: tuple[CandidateSet, ...]
    arms: tuple[Measured, ...]
    versions: Mapping[str, str]
    paid: Paid

    def result(self, about: Figures, seed: int) -> Result:
        """As a result file."""
        metrics: dict[str, Figure] = {"versions": self.versions}
        return arms_result(
            "prompts eval", self.arms, self.pairs, about=about, seed=seed, metrics=metrics, paid=self.paid
        )


def compare(
    pools: Mapping[str, DemonstrationPool],
    judges: Mapping[str, LabelledJudge],
    pairs: Sequence[CandidateSet],
    ledger: MeteredLedger,
) -> Compared:
    """Accuracy with each template. Keys: the templates' names; the first is the baseline."""
    before = ledger.spend()
    found: list[Measured] = []
    for name, pool in pools.items():
        ledger.reset()
        outcomes = tuple(judges[name].ask([Question(p, pool.select(p.prompt)) for p in pairs]))
        found.append(Measured(name=name, outcomes=outcomes, cost=ledger.reset()))
    after = ledger.spend()
    return Compared(
        pairs=tuple(pairs),
        arms=tuple(found),
        versions={name: pool.template.version for name, pool in pools.items()},
        paid=Paid(after.calls - before.calls, after.usd - before.usd),
    )


def comparison_lines(found: Compared) -> Iterator[str]:
    """For people."""
    gaps = gains(found.arms)
    width = max(map(len, [*found.versions, *gaps]))
    for arm in found.arms:
        yield f"{arm.name:{width}}  {arm.accuracy}; {arm.cost.calls} calls, {arm.cost.input_tokens:,} tokens in"
    for name, gap in gaps.items():
        yield f"{name:{width}}  {gain_text(gap)}"
    yield f"paid now: {found.paid.calls} calls, ${found.paid.usd:.4f}"
