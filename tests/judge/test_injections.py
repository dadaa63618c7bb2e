"""Candidates and prompts that try to answer in the judge's place, against a server that obeys whatever reaches it.

The server reads a request as a credulous model does: letters look alike however wide they are, unseen marks are not
there, what stands between a fence's tags is data, and an order, a verdict or a turn outside of them is followed.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
from asking import verdicts
from loopback import Body, Fault, Loopback, answer, prefers
from unfenced import unfenced

from cyclealign.judge.template import RankTemplate, load_template
from cyclealign.types import Candidate, CandidateSet, Prompt, Ranking, Unranked

FILE = Path(__file__).with_name("injections.jsonl")
INJECTIONS = [json.loads(line) for line in FILE.read_text().splitlines()]
FENCED = load_template("rank")
# The same words with nothing around the data.
NAIVE = replace(FENCED, name="naive", turn="{role}: {text}", candidate="[{number}]\n{text}\n")
QUALITIES = (1, 5, 9)  # of the three candidates; the hostile one is the worst

_UNSEEN = re.compile("[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]")
_FENCE = re.compile(r"\[(\d)\]\s*<response>(.*?)<\s*/\s*response\s*>", re.DOTALL | re.IGNORECASE)
_TURN = re.compile(r"<turn>.*?<\s*/\s*turn\s*>", re.DOTALL | re.IGNORECASE)
_CHAIN = re.compile(r"\[(\d)\] > \[(\d)\] > \[(\d)\]")
_JSON = re.compile(r'"ranking"\s*:\s*"(\d)>(\d)>(\d)"')
_QUALITY = re.compile(r"score (\d+)")


class Seen(NamedTuple):
    """What a credulous reader makes of a request: texts by slot, and the verdict that it was told to give, if any."""

    texts: dict[int, str]
    told: list[int] | None


def read(body: Body) -> Seen:
    text = _UNSEEN.sub("", unicodedata.normalize("NFKC", body["messages"][-1]["content"]))
    text = text.replace("【", "[").replace("】", "]")
    fenced = {int(n): inner for n, inner in _FENCE.findall(text)}
    outside = _TURN.sub("", _FENCE.sub("", text))
    if not fenced:
        parts = re.split(r"^\[(\d)\]$", text, flags=re.MULTILINE)
        fenced = {int(n): inner for n, inner in zip(parts[1::2], parts[2::2], strict=True)}
    found = _CHAIN.search(outside) or _JSON.search(outside)
    # The frame's own example of an answer is in the system turn, or it says so just before.
    told = [int(n) - 1 for n in found.groups()] if found else None
    return Seen(fenced, told)


def obeys(body: Body) -> str:
    """Does what it is told; else ranks by the quality that the texts name."""
    seen = read(body)
    if seen.told is not None:
        return answer(body, seen.told)
    quality = {n: int((_QUALITY.findall(text) or ["0"])[-1]) for n, text in seen.texts.items()}
    order = sorted(quality, key=lambda n: (-quality[n], n))
    return answer(body, [n - 1 for n in order])


def a_set(number: int, injection: dict[str, str]) -> CandidateSet:
    hostile = injection["text"] if injection["place"] == "candidate" else ""
    prompt = injection["text"] if injection["place"] == "prompt" else "Which is best?"
    texts = [f"{hostile}\nscore {QUALITIES[0]}", *(f"a good reply, score {q}" for q in QUALITIES[1:])]
    about = Prompt(({"role": "user", "content": f"{prompt} ({number})"},))
    return CandidateSet(about, tuple(Candidate(f"c{q}", t) for q, t in zip(QUALITIES, texts, strict=True)))


SETS = [a_set(n, injection) for n, injection in enumerate(INJECTIONS)]
HONEST = ("c9", "c5", "c1")


def flips(folder: Path, template: RankTemplate, structured: bool | str) -> Counter[str]:
    """Verdicts by family that are not the honest one."""
    with Loopback(judge=obeys, structured=structured) as server:
        found = verdicts(folder / f"{template.name}-{structured}.sqlite", server, SETS, template=template)
    families = zip(INJECTIONS, SETS, strict=True)
    return Counter(i["family"] for i, s in families if getattr(found[s.prompt.id], "order", HONEST) != HONEST)


@pytest.mark.parametrize("structured", [True, "refused"])
def test_no_verdict_flips_within_fences_and_many_without(tmp_path: Path, structured: bool | str) -> None:
    assert len(INJECTIONS) >= 100
    assert len({i["family"] for i in INJECTIONS}) >= 12
    fenced = flips(tmp_path, FENCED, structured)
    with unfenced():
        naive = flips(tmp_path, NAIVE, structured)
    print(json.dumps({"fenced": fenced, "naive": naive, "of": Counter(i["family"] for i in INJECTIONS)}))
    assert sum(fenced.values()) == 0, fenced
    assert sum(naive.values()) > len(INJECTIONS) / 3
    assert len(naive) >= 8


@pytest.mark.parametrize("structured", [True, "refused"])
@pytest.mark.parametrize("manner", ["quotes", "ends in", "thinks"])
def test_what_a_judge_quotes_is_no_verdict(tmp_path: Path, structured: bool | str, manner: str) -> None:
    """Judges that repeat the hostile text, as it reached them, at the end of a reply, alone, or while thinking."""

    def quoting(body: Body) -> str:
        content = "\n".join(m["content"] for m in body["messages"] if m["role"] == "user")
        hostile = re.search(r"\n<response>\n(.*?)\nscore 1\n</response>", content, re.DOTALL)
        if hostile is None:
            return prefers(len)(body)
        return {
            "quotes": f"One response reads:\n{hostile[1]}",
            "ends in": f"I cannot rank these. It says:\n\n{hostile[1]}\n",
            "thinks": f"<think>It says {hostile[1]}",
        }[manner]

    with Loopback(judge=quoting, structured=structured) as server:
        found = verdicts(tmp_path / "l.sqlite", server, SETS)
    hostile = [found[s.prompt.id] for i, s in zip(INJECTIONS, SETS, strict=True) if i["place"] == "candidate"]
    accepted = [v for v in hostile if isinstance(v, Ranking)]
    assert accepted == []
    assert all(isinstance(v, Unranked) and v.reason in ("unusable", "refusal") for v in hostile)


def test_a_server_that_answers_with_a_candidate_s_own_words_is_refused_by_the_form(tmp_path: Path) -> None:
    with Loopback(
        structured="refused", script=lambda n, _: Fault(text="[\\2] > [1] > [3]") if n > 1 else None
    ) as server:
        (verdict,) = verdicts(tmp_path / "l.sqlite", server, SETS[:1]).values()
    assert isinstance(verdict, Unranked)
