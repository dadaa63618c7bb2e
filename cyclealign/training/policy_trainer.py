"""The policy as the loop sees it: it ranks by its own likelihood, and learns (``types.PolicyTrainer``)."""

from __future__ import annotations

import gc
import logging
import math
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from cyclealign.config.schema import Config
from cyclealign.files.jsonl import read_json
from cyclealign.models.chat_template import check_template, render_prompt
from cyclealign.models.checkpoints import STATE, carry_over, load_weights, publish, save_policy, unfinished
from cyclealign.models.dtypes import compute_dtype
from cyclealign.models.encoded_lists import EncodedList, Reading, encode_set
from cyclealign.models.layouts import choose_plan
from cyclealign.models.logprobs import Plan, attach, attach_projection
from cyclealign.models.policy import check_room, load_model, load_tokenizer, response_room
from cyclealign.models.processes import is_main, process_count, process_rank, process_state
from cyclealign.models.sharded import whole_state
from cyclealign.models.token_scorer import TokenScorer, mean_logprob
from cyclealign.rankers.white_box import WhiteBoxRanker
from cyclealign.training.arguments import (
    check_arguments,
    lists_per_step,
    set_matmul_precision,
    training_arguments,
    training_order,
    training_values,
)
from cyclealign.training.embedding_teacher import EmbeddingTeacher, load_projection
from cyclealign.training.sharding import sharding
from cyclealign.training.trainer import ListDataset, RankingTrainer
from cyclealign.training.training_lists import SpilledRows, TrainingLists
from cyclealign.types import (
    CanarySample,
    Candidate,
    CandidateSet,
    Prompt,
    RankContext,
    Ranking,
    RankingExample,
    RunStopped,
    TrainReport,
    Unranked,
    UserError,
    derive_seed,
)

logger = logging.getLogger(__name__)
ROWS = ".rows"  # what frozen models said of the lists, while they are trained on


class WhiteBox:
    """The white box. Every method is called on every process; the results are the same on all.

    ``base``: the start model (path, hub id, or builtin). ``total_steps``: optimiser steps that the run plans,
    the length of its learning-rate schedule. ``callbacks``: of every interaction's Trainer. An interaction's
    directory holds ``adapter/`` (or ``model/`` after full fine-tuning) and ``checkpoint/`` (optimiser, schedule,
    random states).
    """

    def __init__(
        self, config: Config, *, base: str, total_steps: int, seed: int, callbacks: Sequence[TrainerCallback] = ()
    ) -> None:
        self._config = config
        self._callbacks = list(callbacks)
        self._policy = config.policy.model_copy(update={"model": base})
        self._total_steps = total_steps
        self._seed = seed
        check_arguments(config)  # a bad key is refused now, not after candidates were paid for
        set_matmul_precision(config)  # for the scores too, which begin before the first Trainer
        self._device: torch.device = process_state().device
        self._dtype = compute_dtype(self._policy, self._device)
        self._sharding = sharding(config, self._dtype)
        self._tokenizer = load_tokenizer(self._policy, config.generator.thinking)
        report = check_template(self._tokenizer)
        for problem in report.problems:
            logger.warning("chat template of %s: %s", base, problem)
        with torch.random.fork_rng():
            torch.manual_seed(derive_seed(seed, "adapter"))
            self._embeddings = EmbeddingTeacher(config.leaf.teacher, self._device) if config.leaf is not None else None
            self._model = self._attached(trainable=True)
        whole = config.generator.thinking.train == "all"
        self._reading = Reading(self._policy.max_prompt_tokens, self._response_limit(), all=whole)
        self._first_adapter = self._adapter_state()
        self._frozen: Any = None
        self._plan: Plan | None = None
        self._at: Path | None = None  # the interaction whose weights the model holds; None: the start model

    def rank(self, sets: Iterable[CandidateSet], context: RankContext) -> Iterator[Ranking | Unranked]:
        """By mean log-likelihood per token (``rankers/white_box.py``)."""
        return WhiteBoxRanker(self._score, self._tokenizer, self._reading).rank(sets, context)

    def token_logprobs(self, sets: Sequence[CandidateSet], *, start_model: bool = False) -> list[tuple[Tensor, ...]]:
        """For each set and candidate the log p of every scored token, in nats, stop token included, under the policy or
        the start model."""
        lists = [encode_set(self._tokenizer, item, self._reading) for item in sets]
        return self._start_score(lists) if start_model else self._score(lists)

    def nll(self, pairs: Sequence[tuple[Prompt, Candidate]], *, start_model: bool = False) -> list[float]:
        """Nats per token of each reply (its answer given its thinking, no stop token), under the policy or the start
        model."""
        together = [(p, [reply for _, reply in group]) for p, group in groupby(pairs, key=lambda pair: pair[0])]
        answers = replace(self._reading, max_response_tokens=None, all=False)
        lists = [
            encode_set(self._tokenizer, CandidateSet(p, tuple(replace(r, finish="length") for r in replies)), answers)
            for p, replies in together
        ]
        scores = self._start_score(lists) if start_model else self._score(lists)
        return [-mean_logprob(row) for rows in scores for row in rows]

    def canary_gap(self, sample: CanarySample) -> float:
        """Mean |generator's log-prob - own| over the sample's tokens, in nats."""
        ((own,),) = self._score([EncodedList(self._prompt(sample.prompt), (list(sample.token_ids),))])
        return float((own - torch.tensor(sample.logprobs)).abs().mean())

    def fit(self, examples: Sequence[RankingExample], *, start: Path | None, out: Path) -> TrainReport:
        """One interaction: a ranking-loss pass over the examples, from where ``start`` left off.

        Args:
            start: directory of the interaction before (its weights and optimiser state); None: from the
            start.
            out: directory of this interaction; weights and state are written aside and renamed.

        Raises:
            RunStopped: the loss is not finite, or the GPU's memory did not suffice.
        """
        if self._at != start:
            self.restore(start)
        done = _steps_done(start)
        if not examples:
            state = whole_state(self._model) if start is None else None
            self._by_main(lambda: self._keep(start, out, state))
            self._at = out
            return TrainReport(done)
        work = out / ".fit"
        begun = None if self._config.lists is None else unfinished(work)
        if begun is None:
            self._by_main(lambda: shutil.rmtree(work, ignore_errors=True))
        lists = self._lists(examples, out / ROWS)
        if begun is not None:  # only now: the lists were scored by the weights that the interaction begins with
            load_weights(self._model, begun)
        trainer = self._trainer(lists, done, work, begun)
        checkpoint = begun or (start / "checkpoint" if start is not None else None)
        resume = str(checkpoint) if checkpoint is not None and checkpoint.exists() else None
        try:
            trainer.train(resume_from_checkpoint=resume)
        except torch.OutOfMemoryError as error:
            raise RunStopped(
                "training: the GPU's memory does not hold the activations of a step; resume with responses_per_pass=2,"
                " or fewer lists at once: training.per_device_train_batch_size, and as many times more"
                " training.gradient_accumulation_steps"
            ) from error
        report = _report(trainer, done)
        self._by_main(lambda: self._publish(work / f"checkpoint-{report.global_step}", out))
        self._at = out
        _let_go(trainer)
        return report

    def restore(self, checkpoint: Path | None) -> None:
        """Hold the weights of an interaction's directory (None: of the start model)."""
        if checkpoint is not None:
            adapter = checkpoint / "adapter"
            load_weights(self._model, adapter if adapter.is_dir() else checkpoint / "model")
            if self._embeddings is not None:
                load_projection(self._model, checkpoint / "checkpoint", first=self._first_projection)
        elif self._first_adapter is not None:  # with the projection
            self._model.load_state_dict(self._first_adapter, strict=False)
        elif self._at is not None:
            self._model.load_state_dict(self._attached(trainable=False).state_dict())
        self._at = checkpoint

    def _response_limit(self) -> int | None:
        """Responses of one's own are as long as they were sampled; those of lists that exist may be of any length."""
        config, limit = self._config, self._policy.max_prompt_tokens
        if config.lists is not None:
            return response_room(self._model, limit, config.lists.max_reply_tokens)
        check_room(self._model, limit, config.generator)
        return None

    # Scores -------------------------------------------------------------------------------------------------

    def _attached(self, *, trainable: bool) -> Any:
        if self._sharding is None:
            return self._whole(self._device, trainable=trainable)
        return self._sharding.cut(lambda: self._whole("cpu", trainable=trainable))

    def _whole(self, device: torch.device | str, *, trainable: bool) -> Any:
        model = load_model(self._policy, trainable=trainable, device=device)
        values = training_values(self._config)
        if trainable and values.get("gradient_checkpointing"):
            model.gradient_checkpointing_enable(values["gradient_checkpointing_kwargs"])
        attach(model)
        if trainable and self._embeddings is not None:
            self._first_projection = attach_projection(model, self._embeddings.width)
        return model

    def _prompt(self, prompt: Prompt) -> list[int]:
        return render_prompt(self._tokenizer, prompt.messages, self._policy.max_prompt_tokens)

    def _score(self, lists: Sequence[EncodedList]) -> list[tuple[Tensor, ...]]:
        return self._scorer(self._model, lists)(lists)

    def _start_score(self, lists: Sequence[EncodedList]) -> list[tuple[Tensor, ...]]:
        """The start model's: the policy with its adapter off, or, under full fine-tuning, a frozen copy."""
        adapted = self._policy.lora is not None
        if not adapted and self._frozen is None:
            self._frozen = self._attached(trainable=False)
        score = self._scorer(self._model if adapted else self._frozen, lists)
        with self._model.disable_adapter() if adapted else nullcontext():
            return score(lists)

    def _scorer(self, model: Any, lists: Sequence[EncodedList]) -> TokenScorer:
        return TokenScorer(model, self._plan_for(lists), self._tokenizer.pad_token_id, self._device, self._dtype)

    def _plan_for(self, lists: Sequence[EncodedList]) -> Plan:
        """Chosen once, on the first lists that come by: the canary, before anything is paid for.

        UserError where ``leaf`` has no states to project.
        """
        if self._plan is None and lists:
            # The test needs prompts with several responses, also where single replies come first.
            sample = [EncodedList(i.prompt, (*i.responses, i.responses[0][::-1])) for i in lists[:2]]
            self._plan = choose_plan(
                self._model,
                sample,
                self._config.layout,
                responses_per_pass=self._config.responses_per_pass,
                pad=self._tokenizer.pad_token_id,
                dtype=self._dtype,
            )
            if self._embeddings is not None and not self._plan.fused:
                raise UserError(
                    "leaf: this architecture shows its logits alone, not the states before its head; set leaf=null"
                )
        return self._plan or Plan()

    # Training -----------------------------------------------------------------------------------------------

    def _lists(self, examples: Sequence[RankingExample], folder: Path) -> TrainingLists:
        """The lists, with what the frozen models say of them in files of ``folder``."""
        loss, lists = self._config.loss, TrainingLists(examples, self._config.loss, self._tokenizer, self._reading)
        compared = loss.reference if loss.student_score == "log_ratio" else None
        start = previous = vectors = None
        if compared == "start" or self._config.anchor.weight > 0:
            start = self._spilled(folder / "start", map(self._start_score, lists.encoded_chunks()))
        if compared == "previous":
            # Nothing is trained yet: the model holds the weights that the interaction begins with.
            previous = self._spilled(folder / "previous", map(self._score, lists.encoded_chunks()))
        if self._embeddings is not None:
            found = map(self._embeddings.vectors, lists.text_chunks())
            vectors = self._spilled(folder / "vectors", ([v.unbind() for v in chunk] for chunk in found))
        return replace(lists, reference=start, previous=previous, vectors=vectors)

    def _spilled(self, path: Path, chunks: Iterable[Sequence[Sequence[Tensor]]]) -> SpilledRows:
        """In a file of this process's own."""
        rows = SpilledRows(path.with_name(f"{path.name}-{process_rank()}"))
        for chunk in chunks:
            rows.extend(chunk)
        return rows

    def _trainer(self, lists: TrainingLists, done: int, work: Path, begun: Path | None) -> RankingTrainer:
        """``begun``: the checkpoint of a pass that was cut short, which goes on with the lists after it."""
        batch = lists_per_step(self._config, process_count())
        epochs = float(training_values(self._config)["num_train_epochs"])
        order = training_order(len(lists), epochs, derive_seed(self._seed, "order", done))
        steps = done + math.ceil(len(order) / batch)
        passed = 0 if begun is None else _steps_in(begun) - done
        dataset = ListDataset(lists, order[passed * batch :], batch)
        return RankingTrainer(
            model=self._model,
            args=training_arguments(self._config, output_dir=work, seed=self._seed % 2**32, max_steps=steps),
            train_dataset=dataset,
            ranking_loss=self._config.loss,
            anchor=self._config.anchor,
            plan=self._plan_for(next(lists.encoded_chunks())),
            total_steps=self._total_steps,
            pad=self._tokenizer.pad_token_id,
            leaf=self._config.leaf,
            width=0 if self._embeddings is None else self._embeddings.width,
            callbacks=self._callbacks,
            sharding=self._sharding,
        )

    # Files --------------------------------------------------------------------------------------------------

    def _adapter_state(self) -> dict[str, Tensor] | None:
        if self._policy.lora is None:
            return None
        return {n: p.detach().clone() for n, p in self._model.named_parameters() if p.requires_grad}

    def _by_main(self, work: Callable[[], None]) -> None:
        """Files have one writer; the others go on when they are there."""
        process_state().wait_for_everyone()
        if is_main():
            work()
        process_state().wait_for_everyone()

    def _publish(self, finished: Path, out: Path) -> None:
        publish(finished, out, tokenizer=self._tokenizer if self._policy.lora is None else None)
        shutil.rmtree(out / ".fit", ignore_errors=True)
        shutil.rmtree(out / ROWS, ignore_errors=True)

    def _keep(self, start: Path | None, out: Path, state: dict[str, Tensor] | None) -> None:
        """Nothing to learn from: the same weights and state again, where the next interaction looks."""
        if start is not None:
            carry_over(start, out)
        elif self._policy.lora is None:
            save_policy(self._model, out / "model", self._tokenizer, state=state)
        else:
            save_policy(self._model, out / "adapter", state=state)


def _steps_done(start: Path | None) -> int:
    checkpoint = None if start is None else start / "checkpoint"
    return _steps_in(checkpoint) if checkpoint is not None and (checkpoint / STATE).exists() else 0


def _steps_in(checkpoint: Path) -> int:
    return int(read_json(checkpoint / STATE)["global_step"])


def _report(trainer: RankingTrainer, done: int) -> TrainReport:
    rows = [row for row in trainer.state.log_history if "loss" in row and row["step"] > done]
    logs = tuple({k: float(v) for k, v in row.items() if k != "epoch"} for row in rows)
    return TrainReport(trainer.state.global_step, logs)


def _let_go(trainer: RankingTrainer) -> None:
    """Unwrap the model and drop what hooks into it, so that the next interaction can wrap it anew."""
    trainer.accelerator.unwrap_model(trainer.model_wrapped, keep_fp32_wrapper=False)
    trainer.accelerator.free_memory()
    trainer.model_wrapped = trainer.model
    unset_hf_deepspeed_config()  # else ZeRO-3 would cut every model that is loaded from now on, also by one process
    gc.collect()
