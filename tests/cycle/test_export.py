"""What leaves a run: pairs that TRL reads, the adapter, a merged copy with the same numbers, a card."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from finished_run import candidate_set, finished_run, prompt
from hypothesis import given
from hypothesis import strategies as st

from cyclealign.cycle.export import Exports, export_run, preference_rows
from cyclealign.files.prompts import load_prompts
from cyclealign.files.records import write_record
from cyclealign.files.run_dir import RunDir
from cyclealign.files.run_state import Kept
from cyclealign.types import Candidate, CandidateSet, Ranking, UserError


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    return finished_run(tmp_path_factory.mktemp("export"))


def pairs_of(tiers: tuple[tuple[str, ...], ...], mode: str) -> list[tuple[str, str]]:
    item = candidate_set("hello")
    rows = preference_rows(item, Ranking(prompt_id=item.prompt.id, tiers=tiers), mode)  # type: ignore[arg-type]
    ids = {c.text: c.id for c in item.candidates}
    return [(ids[r["chosen"][0]["content"]], ids[r["rejected"][0]["content"]]) for r in rows]


def test_pairs_of_a_strict_order() -> None:
    tiers = (("c2",), ("c0",), ("c3",))
    assert pairs_of(tiers, "best_worst") == [("c2", "c3")]
    assert pairs_of(tiers, "adjacent") == [("c2", "c0"), ("c0", "c3")]
    assert pairs_of(tiers, "all") == [("c2", "c0"), ("c2", "c3"), ("c0", "c3")]


def test_tied_responses_make_no_pair() -> None:
    tiers = (("c0",), ("c1", "c2"), ("c3",))
    assert pairs_of(tiers, "adjacent") == [("c0", "c1"), ("c0", "c2"), ("c1", "c3"), ("c2", "c3")]
    assert ("c1", "c2") not in pairs_of(tiers, "all")
    assert len(pairs_of(tiers, "all")) == 5
    for mode in ("best_worst", "adjacent", "all"):
        assert pairs_of((("c0", "c1", "c2", "c3"),), mode) == []


@given(st.lists(st.lists(st.integers(0, 99), min_size=1, max_size=3), min_size=1, max_size=5))
def test_pairs_against_brute_force(shape: list[list[int]]) -> None:
    tiers: list[tuple[str, ...]] = []
    level: dict[str, int] = {}
    for depth, tier in enumerate(shape):
        tiers.append(tuple(f"{depth}.{n}" for n, _ in enumerate(tier)))
        level |= dict.fromkeys(tiers[-1], depth)
    item = CandidateSet(prompt("x"), tuple(Candidate(i, i) for i in level))
    ranking = Ranking(prompt_id=item.prompt.id, tiers=tuple(tiers))
    for mode, wanted in (
        ("all", {(a, b) for a in level for b in level if level[a] < level[b]}),
        ("adjacent", {(a, b) for a in level for b in level if level[a] + 1 == level[b]}),
    ):
        rows = list(preference_rows(item, ranking, mode))  # type: ignore[arg-type]
        assert {(r["chosen"][0]["content"], r["rejected"][0]["content"]) for r in rows} == wanted
        assert len(rows) == len(wanted)


def test_preferences_are_what_trl_and_our_own_reader_read(run: RunDir, tmp_path: Path) -> None:
    from datasets import load_dataset
    from trl.data_utils import is_conversational

    [path] = export_run(run.path, Exports(pairs="best_worst"), tmp_path)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(rows) == 2  # one of two prompts was ranked, in each of two interactions
    assert rows[0]["chosen"] == [{"role": "assistant", "content": "good yes"}]
    assert rows[0]["rejected"] == [{"role": "assistant", "content": "bad no"}]
    dataset = load_dataset("json", data_files=str(path), split="train", cache_dir=str(tmp_path / "cache"))
    assert is_conversational(dataset[0])
    [found] = load_prompts(str(path), format="trl")
    assert (found.messages[-1]["content"], found.chosen, found.rejected) == ("hello a", "good yes", "bad no")


def test_all_pairs_of_a_run(run: RunDir, tmp_path: Path) -> None:
    [path] = export_run(run.path, Exports(pairs="all"), tmp_path)
    assert len(path.read_text().splitlines()) == 2 * 5


def test_adapter_and_card(run: RunDir, tmp_path: Path) -> None:
    [path] = export_run(run.path, Exports(adapter=True), tmp_path)
    assert path == tmp_path / "adapter"
    kept = (run.best / "adapter" / "adapter_model.safetensors").read_bytes()
    assert (path / "adapter_model.safetensors").read_bytes() == kept
    card = (path / "README.md").read_text()
    _, header, text = card.split("---\n", 2)
    assert yaml.safe_load(header)["library_name"] == "peft"
    assert "base_model" not in yaml.safe_load(header)  # a local path is nobody else's business
    for fact in (
        "Candidates per prompt: 4",
        "Loss: rrhf (sft_weight 1.0)",
        "LoRA, rank 4",
        "`judge`",
        "after 2 interactions",
    ):
        assert fact in text
    assert "| NLL under the start model (nats per token) | 2.000 | 2.200 |" in text
    assert str(run.path.parent) not in card


def test_what_a_model_wrote_cannot_leave_its_block(run: RunDir, tmp_path: Path) -> None:
    export_run(run.path, Exports(adapter=True), tmp_path)
    card = (tmp_path / "adapter" / "README.md").read_text()
    assert "    ```\n    # <b>before</b>" in card
    assert "\n```" not in card
    assert "\n# <b>" not in card


def test_the_card_is_a_model_card(run: RunDir, tmp_path: Path) -> None:
    from huggingface_hub import ModelCard

    export_run(run.path, Exports(adapter=True), tmp_path)
    card = ModelCard.load(tmp_path / "adapter" / "README.md")
    assert card.data.library_name == "peft"
    assert "cyclealign" in card.data.tags


def test_merged_copy_gives_the_adapters_numbers(run: RunDir, tmp_path: Path) -> None:
    """Same logits as base plus adapter; the run's own files stay as they were."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    before = {p: p.read_bytes() for p in run.path.rglob("*") if p.is_file()}
    [path] = export_run(run.path, Exports(merged=True), tmp_path)
    assert {p: p.read_bytes() for p in run.path.rglob("*") if p.is_file()} == before

    base = run.path.parent / "policy"
    ids = torch.arange(6, 26)[None]
    plain = AutoModelForCausalLM.from_pretrained(base)
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), run.best / "adapter")
    merged = AutoModelForCausalLM.from_pretrained(path)
    with torch.no_grad():
        expected, found, start = adapted(ids).logits, merged(ids).logits, plain(ids).logits
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert (start - expected).abs().max() > 0.01
    assert AutoTokenizer.from_pretrained(path).chat_template
    assert "library_name: transformers" in (path / "README.md").read_text()


def test_an_unfinished_run_gives_pairs_but_no_model(tmp_path: Path) -> None:
    run = finished_run(tmp_path)
    (run.best / "kept.json").unlink()
    assert export_run(run.path, Exports(pairs="adjacent"), tmp_path / "out")
    with pytest.raises(UserError, match="has not finished"):
        export_run(run.path, Exports(adapter=True), tmp_path / "out")


def test_a_run_that_kept_the_start_model_has_nothing_to_give(tmp_path: Path) -> None:
    import shutil

    run = finished_run(tmp_path)
    shutil.rmtree(run.best / "adapter")
    why = "all others drifted"
    write_record(run.kept_file, Kept(trained=0, of=2, why=why, stopped=None, start_model="m"))
    with pytest.raises(UserError, match=r"kept the start model \(all others drifted\)"):
        export_run(run.path, Exports(merged=True), tmp_path / "out")


def test_not_a_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a run directory"):
        export_run(tmp_path, Exports(adapter=True), tmp_path / "out")


def test_no_rankings_no_pairs(tmp_path: Path) -> None:
    run = finished_run(tmp_path)
    for interaction in run.interactions():
        interaction.black_box.unlink()
    with pytest.raises(UserError, match="holds no ranking with a preference yet"):
        export_run(run.path, Exports(pairs="all"), tmp_path / "out")
