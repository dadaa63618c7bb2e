"""Prompts, candidate sets and verdicts as records of a run, and back."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from cyclealign.files.jsonl import read_jsonl
from cyclealign.types import Candidate, CandidateSet, Cascaded, Prompt, Ranking, Unranked

Verdict = Ranking | Unranked


def prompt_record(prompt: Prompt) -> dict[str, Any]:
    record: dict[str, Any] = {"prompt_id": prompt.id, "messages": list(prompt.messages)}
    if prompt.chosen is not None and prompt.rejected is not None:
        record |= {"chosen": prompt.chosen, "rejected": prompt.rejected}
    return record


def prompt_from(record: dict[str, Any]) -> Prompt:
    return Prompt(tuple(record["messages"]), record.get("chosen"), record.get("rejected"))


def set_record(item: CandidateSet) -> dict[str, Any]:
    candidates = [dataclasses.asdict(c) for c in item.candidates]
    return {**prompt_record(item.prompt), "candidates": candidates, "drawn": item.drawn}


def set_from(record: dict[str, Any]) -> CandidateSet:
    candidates = tuple(Candidate(**c) for c in record["candidates"])
    return CandidateSet(prompt_from(record), candidates, record["drawn"])


def verdict_record(verdict: Verdict) -> dict[str, Any]:
    if isinstance(verdict, Unranked):
        return {"prompt_id": verdict.prompt_id, "unranked": verdict.reason, "detail": verdict.detail}
    record: dict[str, Any] = {"prompt_id": verdict.prompt_id, "tiers": verdict.tiers}
    extras = {
        "scores": verdict.scores,
        "votes": verdict.votes,
        "confidence": verdict.confidence,
        "passes": verdict.passes or None,
        "cascade": verdict.cascade and verdict.cascade.record(),
    }
    return record | {k: v for k, v in extras.items() if v is not None}


def verdict_from(record: dict[str, Any]) -> Verdict:
    if "unranked" in record:
        return Unranked(record["prompt_id"], record["unranked"], record.get("detail", ""))
    return Ranking(
        prompt_id=record["prompt_id"],
        tiers=tuple(tuple(t) for t in record["tiers"]),
        scores=record.get("scores"),
        votes=record.get("votes"),
        confidence=record.get("confidence"),
        passes=tuple(tuple(p) for p in record.get("passes", ())),
        cascade=Cascaded.from_record(record["cascade"]) if "cascade" in record else None,
    )


def read_sets(path: Path) -> dict[str, CandidateSet]:
    """Candidate sets of a ``candidates.jsonl``, by prompt id."""
    return {r["prompt_id"]: set_from(r) for r in read_jsonl(path)}


def read_verdicts(path: Path) -> dict[str, Verdict]:
    """Rankings and unranked items of a ``*_box.jsonl``, by prompt id."""
    return {r["prompt_id"]: verdict_from(r) for r in read_jsonl(path)}


def read_rankings(path: Path) -> dict[str, Ranking]:
    return {i: v for i, v in read_verdicts(path).items() if isinstance(v, Ranking)}
