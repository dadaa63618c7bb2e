"""One candidate set, and verdicts of it as an earlier run recorded them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cyclealign.types import (
    Candidate,
    CandidateSet,
    Demonstration,
    Prompt,
    RankContext,
)


class NoDemonstrations:
    def select(self, prompt: Prompt) -> Sequence[Demonstration]:
        return ()


CONTEXT = RankContext(run="r", interaction=0, seed=0, demonstrations=NoDemonstrations())


PROMPT = Prompt(({"role": "user", "content": "hello"},))


SET = CandidateSet(PROMPT, (Candidate("0", "bad"), Candidate("1", "good"), Candidate("2", "fair")))


def write(path: Path, *lines: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path
