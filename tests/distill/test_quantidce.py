"""``cyclealign distill quantidce``: both stages by value, resuming, and the saved model wherever a scorer is named."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import tiny_encoders
import torch
from learning import assert_below
from scipy.stats import spearmanr

from cyclealign.cli.main import main
from cyclealign.files.dialogues import read_levels, read_ratings
from cyclealign.types import Candidate, CandidateSet, Prompt, RankContext, Ranking, UserError

pytest.importorskip("sentence_transformers", reason="needs extra retrieval")
Captured = pytest.CaptureFixture[str]
COLOURS = ("red", "green", "blue")  # of the best, the middle and the worst responses
ANIMALS = ("cat", "dog", "bird")
MARKS = (4.5, 3.0, 1.5)
LEVELS = [
    {
        "context": ["the bird ?", f"a {asked} ?"],
        "levels": [[f"the {colour} {a} sleeps" for a in ANIMALS[: 2 + n]] for n, colour in enumerate(COLOURS)],
    }
    for asked in ANIMALS[:2]
]
RATINGS = [
    {"context": row["context"], "response": text, "human": [mark - 0.5, mark + 0.5]}
    for row in LEVELS
    for mark, texts in zip(MARKS, row["levels"], strict=True)
    for text in texts
]
QUICK = (
    "steps=150",
    "training.use_cpu=true",
    "training.logging_steps=1",
    "pretraining.training.learning_rate=0.002",  # a higher one leaves two levels together for some seeds
    "finetuning.training.learning_rate=0.005",
)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """The libraries' own warnings are no concern here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, an encoder and one finished run."""
    folder = tmp_path_factory.mktemp("quantidce")
    written(folder)
    here = Path.cwd()
    os.chdir(folder)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert distill() == 0
    finally:
        os.chdir(here)
    return folder


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    written(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def written(folder: Path) -> None:
    jsonl(folder / "levels.jsonl", LEVELS)
    jsonl(folder / "ratings.jsonl", RATINGS)
    tiny_encoders.save_encoder(folder / "bert", layers=2)


def jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def distill(*overrides: str) -> int:
    return main(["distill", "quantidce", "distill/quantidce", "student.model=bert", *QUICK, *overrides])


def logits(model: Path) -> torch.Tensor:
    """Of every rated response, by the library itself."""
    from sentence_transformers import CrossEncoder

    pairs = [("\n\n".join(row["context"]), row["response"]) for row in RATINGS]
    found = CrossEncoder(str(model), device="cpu").predict(pairs, activation_fn=torch.nn.Identity())
    return torch.as_tensor(found, dtype=torch.float64)


@pytest.mark.learns
def test_levels_make_an_order_and_ratings_a_scale(trained: Path) -> None:
    found = json.loads((trained / "runs/quantidce/summary.json").read_text())
    assert (found["pretraining"]["rows"], found["finetuning"]["rows"]) == (2, 16)
    assert (found["pretraining"]["steps"], found["finetuning"]["steps"]) == (150, 150)
    assert_below(found["pretraining"]["last_loss"], 0.3 * found["pretraining"]["first_loss"])
    human = torch.tensor([sum(row["human"]) / 2 for row in RATINGS], dtype=torch.float64)
    errors = {}
    for stage in ("pretrained", "model"):
        score = 1 + 4 * logits(trained / "runs/quantidce" / stage).sigmoid()
        means = [float(score[human == mark].mean()) for mark in MARKS]
        for better, worse in itertools.pairwise(means):
            assert_below(0.2, better - worse)
        errors[stage] = float((score - human).square().mean())
    assert_below(errors["model"], 0.9 * errors["pretrained"])


def test_the_metric_scores_files_ratings_and_candidates(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(trained)
    raw = logits(Path("runs/quantidce/model"))
    coherence = (1 + 4 * raw.sigmoid()).tolist()
    metric = ["--store", "s.sqlite", "--metric", "coherence:runs/quantidce/model"]
    for file in ("ratings.jsonl", "levels.jsonl"):
        assert main(["score", file, *metric, "--write", f"ntuples:scored-{file}"]) == 0
        lists = [json.loads(line)["scores"] for line in Path(f"scored-{file}").read_text().splitlines()]
        assert [s for scores in lists for s in scores] == pytest.approx(coherence, abs=1e-5)

    scorer = ["--scorer", "coherence:runs/quantidce/model"]
    assert main(["eval", "coherence", "ratings.jsonl", *scorer, "--out", "e.json"]) == 0
    result = json.loads(Path("e.json").read_text())
    assert [item["values"]["score"] for item in result["items"]] == pytest.approx(coherence, abs=1e-5)
    expected = spearmanr(coherence, [fmean(row["human"]) for row in RATINGS]).statistic
    assert result["metrics"]["spearman"]["value"] == pytest.approx(expected, abs=1e-6)


def test_the_metric_ranks_candidates_and_a_file(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same logits by the class and by ``cyclealign rank``."""
    from cyclealign.rankers.reward_model import RewardModelRanker

    monkeypatch.chdir(trained)
    raw = logits(Path("runs/quantidce/model"))
    dialogue = next(read_ratings(Path("ratings.jsonl")))
    texts = [text for level in LEVELS[0]["levels"] for text in level]
    candidates = tuple(Candidate(f"c{n}", text) for n, text in enumerate(texts))
    sets = [CandidateSet(Prompt(dialogue.context), candidates)]
    context: Any = RankContext  # it is not looked at
    (ranking,) = RewardModelRanker("runs/quantidce/model").rank(sets, context)
    assert isinstance(ranking, Ranking)
    assert ranking.scores is not None
    expected = pytest.approx(raw[: len(texts)].tolist(), abs=1e-5)
    assert [ranking.scores[c.id] for c in candidates] == expected

    jsonl(Path("sets.jsonl"), [{"messages": dialogue.context, "responses": texts}])
    assert main(["rank", "sets.jsonl", "--ranker", "reward_model:runs/quantidce/model", "--out", "ranked.jsonl"]) == 0
    (row,) = map(json.loads, Path("ranked.jsonl").read_text().splitlines())
    assert [row["scores"][str(n)] for n in range(len(texts))] == expected


@pytest.mark.parametrize("stage", ["pretraining", "finetuning"])
def test_a_stopped_distillation_goes_on_from_its_checkpoint(
    stage: str, trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    from cyclealign.distill import quantidce
    from cyclealign.distill import run as run_of_distillers

    monkeypatch.chdir(trained)
    train: Any = quantidce.train_or_resume
    begun: list[str] = []

    def killed(trainer: Any) -> Any:
        from transformers import TrainerCallback

        class Kill(TrainerCallback):  # type: ignore[misc]
            def on_step_begin(self, arguments: Any, state: Any, *_: object, **__: object) -> None:
                begun.append(Path(arguments.output_dir).name)
                if begun[-1] == stage and state.global_step == 17:
                    raise KeyboardInterrupt

        trainer.add_callback(Kill())
        return train(trainer)

    run, whole = Path(f"runs/part-{stage}"), Path("runs/quantidce")
    options, ended = [f"name={run.name}", "save_every=15"], whole / "model"
    if stage == "pretraining":
        options, ended = [*options, "finetuning=null"], whole / "pretrained"
    with monkeypatch.context() as once:
        once.setattr(quantidce, "train_or_resume", killed)
        if stage == "finetuning":  # the whole run's first stage, which has ended, is not trained again
            begin = run_of_distillers.claim
            once.setattr(run_of_distillers, "claim", lambda *a, **k: with_first_stage(begin, whole, *a, **k))
        assert distill(*options) == 130
    assert set(begun) == {stage}
    assert (run / f"checkpoints/{stage}/checkpoint-15").is_dir()
    assert (run / "pretraining.json").exists() == (stage == "finetuning")
    assert distill(*options) == 0
    assert torch.equal(logits(ended), logits(run / "model"))
    capsys.readouterr()
    assert distill(*options) == 0  # done: nothing is trained again
    assert distill(*options, "seed=7") == 2
    assert "holds a distillation with another config" in capsys.readouterr().err


def with_first_stage(begin: Any, whole: Path, kind: Any, config: Any, **options: Any) -> None:
    """The run's directory as it is after the first stage of ``whole``, which has the same settings."""
    assert begin(kind, config, **options) is None
    shutil.copytree(whole / "pretrained", config.run_dir / "pretrained")
    shutil.copy(whole / "pretraining.json", config.run_dir)


@pytest.mark.usefixtures("folder")
def test_without_ratings_the_first_stage_makes_the_model() -> None:
    short = ("pretraining.validation=levels.jsonl", "steps=10", "save_every=5", "student.dropout=0.25")
    assert distill("finetuning=null", *short) == 0
    assert json.loads(Path("runs/quantidce/model/config.json").read_text())["hidden_dropout_prob"] == 0.25
    found = json.loads(Path("runs/quantidce/summary.json").read_text())
    assert set(found) == {"format", "pretraining"}
    # The best checkpoint is the one that was saved: its loss, computed again.
    from cyclealign.losses import MultiLevelRanking, RankedScores

    rows = list(read_levels(Path("levels.jsonl")))
    sizes = [sum(map(len, d.levels)) for d in rows]
    student = torch.stack(list(logits(Path("runs/quantidce/model")).float().split(sizes)))
    levels = torch.tensor([[n for n, level in enumerate(d.levels) for _ in level] for d in rows])
    bundle = RankedScores(student=student, teacher=-levels, valid=torch.ones_like(student, dtype=bool), levels=levels)
    loss = MultiLevelRanking(squash="sigmoid")(bundle).loss
    assert found["pretraining"]["best_validation_loss"] == pytest.approx(float(loss), abs=1e-5)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("pretraining.dta=x",), "unknown key pretraining.dta; did you mean pretraining.data?"),
        (("pretraining.loss.seperation=1",), "did you mean pretraining.loss.separation?"),
        (("finetuning.training.learning_rte=1",), "training.learning_rte; did you mean training.learning_rate?"),
        (("pretraining.loss={name: quantidce, squash: none}",), "loss.squash: a metric is in (0, 1); set sigmoid"),
        (("pretraining.loss.sft_weight=1",), "pretraining.loss.sft_weight: the SFT term is for policies"),
        (("student.max_tokens=513",), "student.max_tokens: the encoder has 512 positions, got 513 tokens"),
        (("pretraining.data=none.jsonl",), "none.jsonl"),
        (("finetuning.data=levels.jsonl",), "levels.jsonl:1: expected response as text"),
        (("student.model=./nowhere",), "student.model: cannot load './nowhere'"),
        (("student.layers=3",), "the encoder has 2 layers, got 3"),
    ],
)
def test_mistakes_are_one_line(folder: Path, capsys: Captured, overrides: tuple[str, ...], message: str) -> None:
    assert distill(*overrides) == 2
    assert message in capsys.readouterr().err
    assert not list(folder.glob("runs/*/model"))


def test_ratings_off_the_scale_are_refused(folder: Path, capsys: Captured) -> None:
    jsonl(folder / "ratings.jsonl", [{**RATINGS[0], "human": 7}])
    assert distill() == 2
    assert "ratings.jsonl: expected ratings from 1 to 5, got 7" in capsys.readouterr().err


@pytest.mark.usefixtures("folder")
def test_a_metric_has_a_name_and_a_model(capsys: Captured) -> None:
    from cyclealign.rankers.by_name import scorer_by_name

    assert main(["score", "levels.jsonl", "--store", "s.sqlite", "--metric", "coherence"]) == 2
    assert "--metric: expected coherence:PATH" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"--scorer coherence:\./nowhere: cannot be loaded"):
        scorer_by_name("coherence:./nowhere")
