"""The files that we write, read and answered by vLLM's own batch runner; its file of replies, read and booked by us."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from asking import PRICE, item, verdicts
from batch_server import BatchServer, Fate
from vllm_server import STRUCTURED

from cyclealign.files.packaged import resource
from cyclealign.judge.ledger import Ledger
from cyclealign.types import Ranking

LISTS = [item(i) for i in range(6)]


class VllmBatches(BatchServer):
    """Answers a batch by a process of vLLM's; the probe online is answered as JSON held to a schema."""

    def finish(self, batch: dict[str, Any], fate: Fate) -> None:
        folder = self.log.parent if self.log else Path()
        given, made = folder / "in.jsonl", folder / "out.jsonl"
        given.write_bytes(self.files[batch["input_file_id"]][1])
        model = str(resource("assets", "tiny_chat"))
        command = [sys.executable, "-m", "vllm.entrypoints.openai.run_batch", "-i", str(given), "-o", str(made)]
        command += ["--model", model, "--served-model-name", "judge", "--dtype", "float32", "--enforce-eager"]
        command += ["--structured-outputs-config", STRUCTURED]
        defaults = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
        ended = subprocess.run(command, env=defaults | dict(os.environ), check=False, capture_output=True, text=True)
        assert ended.returncode == 0, ended.stderr[-3000:]
        batch |= {"status": "completed", "output_file_id": "file-out"}
        self.files["file-out"] = ("out", made.read_bytes())


@pytest.mark.vllm
@pytest.mark.slow
def test_vllm_answers_our_files_and_we_read_its_own(tmp_path: Path) -> None:
    with VllmBatches(log=tmp_path / "log.jsonl") as server:
        found = verdicts(tmp_path / "l.sqlite", server, LISTS, price=PRICE, batch=True)
        replies = [json.loads(line) for line in server.files["file-out"][1].splitlines()]
    assert all(isinstance(v, Ranking) for v in found.values())  # a schema lets nobody write anything else
    assert {r["response"]["status_code"] for r in replies} == {200}
    used = [r["response"]["body"]["usage"] for r in replies]
    with Ledger(tmp_path / "l.sqlite", read_only=True) as ledger:
        spend = ledger.spend_by("purpose")["rank"]
    assert (spend.done, spend.calls) == (len(LISTS), len(LISTS))
    assert spend.input_tokens == sum(u["prompt_tokens"] for u in used)
    assert spend.output_tokens == sum(u["completion_tokens"] for u in used)
    cost = spend.input_tokens * PRICE.input + spend.output_tokens * PRICE.output
    assert spend.usd == pytest.approx(cost / 2 / 1e6, abs=1e-12)
