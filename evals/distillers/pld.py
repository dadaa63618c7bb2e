"""Show of PLD: a classifier into a smaller one (Omniglot), and GPT-4's lists into a small ranker (AlpacaEval).

    python evals/distillers/pld.py --data DIR --out evals/results/pld.json

Classifiers: one teacher, a small convolutional and a small dense student, each trained by cross-entropy, KD, DIST and
PLD with the same steps, images and teacher logits. Test: drawers that no training image is of. Rankers: one student
for ListMLE, RankNet, Margin-MSE and PLD. Finished arms in the scratch folder are not run again.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div

from cyclealign.distill.pld_classifier import Objective, correct, distill_classifier, ranking_objective
from cyclealign.distill.pld_config import ImagesConfig, PLDConfig, TeacherConfig
from cyclealign.evaluation.arms import compare_arms
from cyclealign.evaluation.result import make_result, write_result
from cyclealign.losses import PLD
from cyclealign.models.classifier import Classifier, ClassifierConfig, read_images

TEST_DRAWERS = 12  # and above
TEMPERATURE = 4.0
STUDENTS = {
    "homogeneous": ClassifierConfig(kind="cnn", width=8),
    "heterogeneous": ClassifierConfig(kind="mlp", width=256),
}
TRAINING = {"use_cpu": True, "bf16": True, "disable_tqdm": True, "logging_steps": 50, "learning_rate": 2e-3}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of omniglot_small and alpacaeval_nc")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--scratch", type=Path, default=Path("runs/pld_show"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=300, help="of a student; the teacher has twice as many")
    parser.add_argument("--list-steps", type=int, default=50, help="of a ranker")
    parser.add_argument(
        "--prompts", type=int, default=480, help="training prompts of the rankers; the others are tested"
    )
    parser.add_argument("--part", choices=("all", "images"), default="all")
    arguments = parser.parse_args()
    metrics: dict[str, Any] = {"images": images(arguments)}
    if arguments.part == "all":
        from pld_lists import rank_lists

        metrics["lists"] = rank_lists(arguments)
    about = {k: v for k, v in vars(arguments).items() if isinstance(v, int)}
    result = make_result("pld", about=about, seed=0, metrics=metrics, items=(), primary="images")
    write_result(arguments.out, result)
    for part in metrics.values():
        for row in part["claims"]:
            print(row)


def images(arguments: argparse.Namespace) -> dict[str, Any]:
    """Accuracy of every arm on the test drawers, and the claims."""
    train, test = split(arguments.data / "omniglot_small" / "omniglot35.npz", arguments.scratch)
    held_out = read_images(test)
    found: dict[str, list[list[float]]] = {}
    teacher: Path | None = None
    for seed in range(arguments.seeds):
        for pair, student in STUDENTS.items():
            for name, objective in objectives().items():
                config = PLDConfig(
                    name=f"{pair}-{name}-{seed}",
                    seed=seed,
                    output_dir=arguments.scratch,
                    steps=arguments.steps,
                    save_every=10**6,
                    data=ImagesConfig(train=train, test=test, views=4),
                    teacher=TeacherConfig(width=24, steps=2 * arguments.steps, model=teacher),
                    student=student,
                    training=TRAINING,
                )
                summary = distill_classifier(config, objective)
                teacher = teacher or config.run_dir / "teacher"
                model = Classifier.load(config.run_dir / "model")
                found.setdefault(f"{pair} {name}", []).append(correct(model, held_out).float().tolist())
    return {
        "test_images": len(held_out.labels),
        "teacher_accuracy": summary.teacher_accuracy,
        "accuracy": {name: [sum(row) / len(row) for row in rows] for name, rows in found.items()},
        "claims": compare_arms(found, [(f"{p} pld", f"{p} {o}") for p in STUDENTS for o in ("ce", "kd", "dist")]),
    }


def split(source: Path, scratch: Path) -> tuple[Path, Path]:
    """Training and test images by drawer; a pixel counts the ink in 3 x 3 of the original's."""
    scratch.mkdir(parents=True, exist_ok=True)
    with np.load(source) as found:
        images, labels, test = found["images"], found["labels"], found["drawer"] >= TEST_DRAWERS
    paths = scratch / "train.npz", scratch / "test.npz"
    for path, chosen in zip(paths, (~test, test), strict=True):
        np.savez(path, images=images[chosen].astype(np.float32) / 9, labels=labels[chosen])
    return paths


def objectives() -> dict[str, Objective]:
    """The arms, with the settings that the PLD paper has for CIFAR-100."""
    return {
        "ce": lambda student, _, labels: cross_entropy(student, labels),
        "kd": knowledge_distillation,
        "dist": dist,
        "pld": ranking_objective(PLD(teacher_temperature=TEMPERATURE)),
    }


def knowledge_distillation(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """Hinton et al. 2015: 0.1 CE + 0.9 T^2 KL."""
    soft = kl_div(
        (student / TEMPERATURE).log_softmax(dim=1),
        (teacher / TEMPERATURE).log_softmax(dim=1),
        log_target=True,
        reduction="batchmean",
    )
    return 0.1 * cross_entropy(student, labels) + 0.9 * TEMPERATURE**2 * soft


def dist(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """Huang et al. 2022: CE + 2 T^2 (1 - correlation over classes) + 2 T^2 (1 - correlation over the batch)."""
    s, t = ((logits / TEMPERATURE).softmax(dim=1) for logits in (student, teacher))
    relations = sum(1 - correlation(s, t, dim).mean() for dim in (0, 1))
    return cross_entropy(student, labels) + 2 * TEMPERATURE**2 * relations


def correlation(a: Tensor, b: Tensor, dim: int) -> Tensor:
    """Pearson's, along a dimension."""
    a, b = (x - x.mean(dim=dim, keepdim=True) for x in (a, b))
    return torch.cosine_similarity(a, b, dim=dim)


if __name__ == "__main__":
    main()
