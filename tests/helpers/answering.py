"""Judges of the loopback server that say more than an order: scores, ties, reasons, first tokens."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from typing import Any

from loopback import Body, shown

LABELS = "ABCDEFGHIJKLMNOP"
Grade = Callable[[str], int]


def length_grade(text: str) -> int:
    """From 1 to 10; texts that differ by little are equal."""
    return min(10, 1 + len(text) // 6)


def said(body: Body, tiers: Sequence[Sequence[int]], scores: Sequence[int]) -> str:
    """An answer in the form that the request asks for; slots from 0."""
    asked = body["messages"][0]["content"] + body["messages"][-1]["content"]
    schema = body.get("response_format", {}).get("json_schema", {}).get("schema", {}).get("properties", {})
    why = f"I saw {len(scores)} of them, and [{tiers[0][0] + 1}] says most."
    by_number = {str(n): score for n, score in enumerate(scores, 1)}
    if not schema:
        line = " > ".join(" = ".join(f"[{s + 1}]" for s in tier) for tier in tiers)
        if "whole number from 1" in asked:
            line = ", ".join(f"[{n}]: {score}" for n, score in by_number.items())
        return f"Reason: {why}\nVerdict: {line}" if "Reason:" in asked else line
    given: dict[str, Any] = {"reason": why} if "reason" in schema else {}
    if "scores" in schema:
        return json.dumps(given | {"scores": by_number})
    if schema["ranking"]["type"] == "string":
        return json.dumps(given | {"ranking": ">".join("=".join(str(s + 1) for s in tier) for tier in tiers)})
    tied = schema["ranking"]["items"]["type"] == "array"
    listed = [[s + 1 for s in t] for t in tiers] if tied else [s + 1 for t in tiers for s in t]
    return json.dumps(given | {"ranking": listed})


def grader(grade: Grade, *, ties: bool = True) -> Callable[[Body], str]:
    """Goes by the grade of each text; equal ones are tied, or by the text where it may not tie."""

    def judge(body: Body) -> str:
        texts = shown(body)
        grades = [grade(t) for t in texts]
        if ties:
            tiers = [[s for s, g in enumerate(grades) if g == level] for level in sorted(set(grades), reverse=True)]
        else:
            tiers = [[s] for s in sorted(range(len(texts)), key=lambda s: (grades[s], texts[s]), reverse=True)]
        return said(body, tiers, grades)

    return judge


def likely(body: Body, weight: Grade = len) -> list[tuple[str, float]]:
    """By the weight of the texts, each letter in two tokens; and a word."""
    texts = shown(body)
    whole = sum(map(weight, texts)) / 0.9
    found = [("The", 0.1 / len(texts))]
    for label, text in zip(LABELS, texts, strict=False):
        found += [(label, 0.7 * weight(text) / whole), (f" {label}", 0.3 * weight(text) / whole)]
    return sorted(((t, math.log(p)) for t, p in found), key=lambda one: -one[1])


def first_letter(body: Body) -> str:
    return likely(body)[0][0]
