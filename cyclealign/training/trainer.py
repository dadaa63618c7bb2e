"""``RankingTrainer``: transformers' Trainer, with lists of candidates as its examples.

Accumulation, DDP, FSDP, DeepSpeed, checkpointing, schedules and trackers are the Trainer's own. Here: the
loss of a list, its reduction over all processes and accumulation steps, one schedule over the run, and the
metrics.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.utils.data import Dataset
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from cyclealign.config.schema import AnchorConfig, LeafAuxiliary
from cyclealign.losses import EmbeddingMatch, EmbeddingPairs, RankedScores, RankingLoss, tier_levels
from cyclealign.models.logprobs import (
    PROJECTION,
    Plan,
    logprobs_and_vectors,
    projection_weight,
    sequence_scores,
    token_logprobs,
)
from cyclealign.models.sharded import whole_state
from cyclealign.training.batches import RankingCollator, TrainingBatch, TrainingList
from cyclealign.training.embedding_teacher import save_projection
from cyclealign.training.sharding import Sharding
from cyclealign.types import RunStopped


class ListDataset(Dataset[TrainingList | None]):
    """Lists in the order of training, filled up with None to whole optimiser steps; each is taken when it is due."""

    def __init__(self, lists: Sequence[TrainingList], order: Sequence[int], multiple: int) -> None:
        self._lists = lists
        self._order = array("q", order)
        self._length = len(order) + -len(order) % multiple

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> TrainingList | None:
        return self._lists[self._order[index]] if index < len(self._order) else None


class RankingTrainer(Trainer):  # type: ignore[misc]
    """Minimises a ranking loss over lists, plus ``anchor.weight`` times a term to the start model and, with ``leaf``,
    its weight times a term to an embedding teacher's vectors.

    The loss of one optimiser step is the sum over its lists divided by the number of counted lists on ALL
    processes and accumulation steps, so that how a global batch is cut does not matter.

    Args:
        model: prepared by ``logprobs.attach``.
        plan: how log-probs are computed (``layouts.choose_plan``).
        total_steps: length of the learning-rate schedule, over the whole run.
        pad: a token id; never seen.
        leaf: then the lists hold vectors of ``width``, and the model a projection to it.
        sharding: what cut the model over the processes.
    """

    # The division by the number of lists covers the accumulation steps (see _get_num_items_in_batch).
    loss_is_scaled_for_ga = True

    def __init__(
        self,
        *,
        model: nn.Module,
        args: TrainingArguments,
        train_dataset: ListDataset,
        ranking_loss: RankingLoss,
        anchor: AnchorConfig,
        plan: Plan,
        total_steps: int,
        pad: int,
        leaf: LeafAuxiliary | None = None,
        width: int = 0,
        callbacks: Sequence[TrainerCallback] = (),
        sharding: Sharding | None = None,
    ) -> None:
        self.sharding = sharding
        collator = RankingCollator(pad, width)
        super().__init__(
            model=model, args=args, train_dataset=train_dataset, data_collator=collator, callbacks=list(callbacks)
        )
        self.remove_callback(PrinterCallback)
        self.ranking_loss = ranking_loss
        self.anchor = anchor
        self.leaf = leaf
        self.plan = plan
        self.total_steps = total_steps
        self._sums: dict[str, Tensor] = {}
        self._logged_step: int | None = None

    def compute_loss(
        self,
        model: nn.Module,
        inputs: TrainingBatch,
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Loss of one micro-batch; ``num_items_in_batch``: counted lists of the whole optimiser step."""
        if num_items_in_batch is None:
            num_items_in_batch = counted_lists(inputs)
        # Gradients are averaged over processes afterwards, so each divides by its share of the lists.
        share = torch.as_tensor(num_items_in_batch, device=inputs["valid"].device) / self.args.world_size
        vectors: Tensor | None = None
        if self.leaf is None:
            logprobs = token_logprobs(model, inputs["lists"], self.plan)
        else:
            logprobs, vectors = logprobs_and_vectors(model, inputs["lists"], self.plan)
        scores = ranked_scores(logprobs, inputs, self.ranking_loss)
        output = self.ranking_loss(scores, lists=share)
        loss, metrics = output.loss, dict(output.metrics)
        terms: list[tuple[str, float, Tensor]] = []
        if self.anchor.weight > 0:
            terms.append(("anchor", self.anchor.weight, anchor_terms(logprobs, inputs, self.anchor)))
        if self.leaf is not None and vectors is not None:
            terms.append(("leaf", self.leaf.weight, match_terms(vectors, inputs, self.leaf)))
        for name, weight, per_list in terms:
            term = torch.where(scores.counted, per_list, 0.0).sum() / share.clamp(min=1 / self.args.world_size)
            metrics[name] = term.detach()
            loss = loss + weight * term
        self._add(metrics, scores, inputs)
        return (loss, {"scores": scores}) if return_outputs else loss

    def create_accelerator_and_postprocess(self) -> None:
        """With a model that is cut already, where it is."""
        super().create_accelerator_and_postprocess()
        if self.sharding is not None:
            self.sharding.join(self.accelerator)
            self.is_fsdp_enabled = True

    def create_optimizer(self, model: Any = None) -> Any:
        optimizer = super().create_optimizer(model)
        self._optimised = [list(group["params"]) for group in optimizer.param_groups]
        return optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """One schedule over the run, not one for each interaction."""
        if self.sharding is not None:
            # accelerate has found the parameters again by their addresses; those of which this process holds no row
            # have the same.
            for group, parameters in zip(self.optimizer.param_groups, self._optimised, strict=True):
                group["params"] = parameters
        return super().create_scheduler(max(self.total_steps, num_training_steps), optimizer)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the metrics since the last log, over all processes. RunStopped when the loss is not finite."""
        if "loss" in logs:
            logs |= self._flush()
            if not math.isfinite(logs["loss"]):
                raise RunStopped(f"training diverged: the loss is {logs['loss']} at step {self.state.global_step}")
        super().log(logs, start_time)

    def floating_point_ops(self, inputs: Any) -> int:
        """Not counted: the Trainer's estimate would look for ``input_ids``."""
        return 0

    def _get_num_items_in_batch(self, batch_samples: list[TrainingBatch], device: torch.device) -> Tensor:
        counted = sum((counted_lists(batch) for batch in batch_samples), torch.tensor(0)).to(device)
        total: Tensor = self.accelerator.gather(counted).sum()
        return total

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """An ordinary adapter or model, also of weights that are cut, whatever form their own state is kept in."""
        state = whole_state(self.model)
        if state is None:
            super().save_model(output_dir, _internal_call)
        elif self.args.should_save:
            self._save(output_dir, state)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        super()._save(output_dir, state_dict)
        if self.leaf is not None and self.args.should_save:  # newer transformers come here on every process
            cut = [tensor for name, tensor in (state_dict or {}).items() if name.endswith(PROJECTION)]
            weight = cut[0] if cut else projection_weight(self.model)
            save_projection(weight, Path(output_dir or self.args.output_dir))

    def _load_from_checkpoint(self, *_: Any, **__: Any) -> None:
        """The policy holds its weights already (they lie beside the checkpoint, for the generator)."""

    def _add(self, metrics: dict[str, Tensor], scores: RankedScores, inputs: TrainingBatch) -> None:
        with torch.no_grad():
            right, pairs = ordered_pairs(scores)
            tokens = inputs["lists"]["scored_mask"].sum()
        for name, value in {**metrics, "right": right, "pairs": pairs, "tokens": tokens}.items():
            self._sums[name] = self._sums.get(name, 0) + value.detach().double()

    def _flush(self) -> dict[str, float]:
        """Means per optimiser step of the additive metrics; share of pairs in order; tokens trained on."""
        names = sorted(self._sums)
        since = self._initial_global_step if self._logged_step is None else self._logged_step
        steps = max(1, self.state.global_step - since)
        values = self.accelerator.reduce(torch.stack([self._sums[n] for n in names]), "sum").tolist()
        self._sums, self._logged_step = {}, self.state.global_step
        total = dict(zip(names, values, strict=True))
        right, pairs, tokens = total.pop("right"), total.pop("pairs"), total.pop("tokens")
        means = {name: value / self.args.world_size / steps for name, value in total.items()}
        return means | {"accuracy": right / pairs if pairs else 0.0, "tokens": tokens}


def counted_lists(batch: TrainingBatch) -> Tensor:
    """Number of lists with at least two candidates."""
    return (batch["valid"].sum(dim=1) >= 2).sum()


def ranked_scores(logprobs: Float[Tensor, "R T"], batch: TrainingBatch, loss: RankingLoss) -> RankedScores:
    """The bundle that a loss takes, from the log-probs of all rows.

    Student: mean log-likelihood in nats per token, or, where the loss says so, the log-ratio to its reference
    in nats per response. ``best_nll``: of the teacher's first choice (of several, the first named).
    Levels, for a loss that needs them: the tiers of the teacher's ranking.
    """
    mask = batch["lists"]["scored_mask"]
    total, mean = sequence_scores(logprobs, mask)
    student = mean
    if loss.student_score == "log_ratio":
        reference = batch["previous"] if loss.reference == "previous" else batch["reference"]
        student = total - sequence_scores(reference, mask)[0]
    nll = best_of_list(-(total if loss.sft_reduction == "sum" else mean), batch)
    teacher, valid = batch["teacher"], batch["valid"]
    return RankedScores(
        student=as_lists(student, batch),
        teacher=teacher,
        valid=valid,
        best_nll=nll,
        levels=tier_levels(teacher, valid) if loss.needs == "levels" else None,
    )


def anchor_terms(logprobs: Float[Tensor, "R T"], batch: TrainingBatch, anchor: AnchorConfig) -> Float[Tensor, " B"]:
    """Distance from the start model pi_0 for each list, in nats per token; the two kinds of ``AnchorConfig``.

    kl: mean over candidates and tokens of exp(d) - d - 1, d = log pi_0 - log pi (the k3 estimator of KL(pi,
    pi_0): unbiased for samples of pi, never negative; Schulman 2020, "Approximating KL divergence").
    nll: max(0, log pi_0 - log pi), in means per token, of the teacher-best candidate: the penalty of DPOP
    (Pal et al. 2024, arXiv 2402.13228, eq. 3), which keeps the best response at least as likely as it was.
    """
    mask = batch["lists"]["scored_mask"]
    if anchor.kind == "nll":
        drop = sequence_scores(batch["reference"], mask)[1] - sequence_scores(logprobs, mask)[1]
        return best_of_list(drop, batch).clamp(min=0)
    difference = torch.where(mask, batch["reference"] - logprobs, 0.0)
    rows = sequence_scores(difference.exp() - difference - 1, mask)[1]
    per_list: Tensor = as_lists(rows, batch).masked_fill(~batch["valid"], 0.0).sum(dim=1)
    return per_list / batch["valid"].sum(dim=1).clamp(min=1)


def match_terms(vectors: Float[Tensor, "R D"], batch: TrainingBatch, leaf: LeafAuxiliary) -> Float[Tensor, " B"]:
    """LEAF's distance between the direction of each response's vector and the teacher's: mean over a list's candidates.

    It says nothing of their order (Vujanic and Rückstiess 2025, arXiv 2509.12539, for encoders; here of a policy's
    states).
    """
    pairs = EmbeddingPairs(student=normalize(vectors, dim=1), teacher=batch["vectors"].to(vectors.dtype))
    rows = EmbeddingMatch(power=leaf.power)(pairs).per_list
    per_list: Tensor = as_lists(rows, batch).masked_fill(~batch["valid"], 0.0).sum(dim=1)
    return per_list / batch["valid"].sum(dim=1).clamp(min=1)


def as_lists(rows: Float[Tensor, " R"], batch: TrainingBatch) -> Float[Tensor, "B K"]:
    """Values of the rows at their places in the lists, 0 elsewhere."""
    empty = rows.new_zeros(batch["valid"].shape)
    return empty.index_put((batch["lists"]["owner"], batch["slot"]), rows)


def best_of_list(rows: Float[Tensor, " R"], batch: TrainingBatch) -> Float[Tensor, " B"]:
    """Value of each list's teacher-best candidate."""
    teacher = batch["teacher"].masked_fill(~batch["valid"], -torch.inf)
    return as_lists(rows, batch).gather(1, teacher.argmax(dim=1, keepdim=True))[:, 0]


def ordered_pairs(scores: RankedScores) -> tuple[Tensor, Tensor]:
    """Pairs that the student orders as the teacher does, and pairs that the teacher orders strictly."""
    both = scores.valid[:, :, None] & scores.valid[:, None, :]
    strict = both & (scores.teacher[:, :, None] > scores.teacher[:, None, :])
    right = strict & (scores.student[:, :, None] > scores.student[:, None, :])
    return right.sum(), strict.sum()
