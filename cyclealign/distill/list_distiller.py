"""A teacher's scores of whole lists into a student, by any ranking loss.

It is the whole of ``cyclealign distill margin_mse`` and what ``distill pld`` does with lists, and ``distill cprd`` fits
by it: so it belongs to no one method, and its schema stands in ``distill.config``.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from cyclealign.distill.config import ListDistillConfig
from cyclealign.distill.effectiveness import effectiveness
from cyclealign.distill.leaf_beside import with_leaf
from cyclealign.distill.list_rows import Rows, ranked_rows
from cyclealign.distill.loss_state import keeping_loss_state
from cyclealign.distill.run import once, train_or_resume, training_arguments
from cyclealign.distill.students import Student, make_student
from cyclealign.distill.summaries import ListFit, ListSummary


def distill_lists(config: ListDistillConfig, *, positive_first: bool = False) -> ListSummary:
    """Train, or go on from the last checkpoint; returns the summary that is written to ``summary.json``.

    ``positive_first``: the first document of every list is known to be the best one.

    Raises:
        UserError: scores that cannot be used, a model that cannot be loaded, another config in the run's directory.
    """
    rows = ranked_rows(config.data, config.loss)
    return once(ListSummary, config, partial(_trained, config, rows, positive_first=positive_first))


def _trained(config: ListDistillConfig, rows: Rows, *, positive_first: bool) -> ListSummary:
    from transformers import set_seed

    set_seed(config.seed)  # a new head's weights are drawn
    student = make_student(config.student, config.loss, positive_first=positive_first)
    fit = fit_lists(config, student, rows)
    return ListSummary(
        lists=len(rows["query"]),
        pairs=sum(map(len, rows["documents"])),
        steps=fit.steps,
        first_loss=fit.first_loss,
        last_loss=fit.last_loss,
        before=fit.before,
        after=fit.after,
    )


def fit_lists(config: ListDistillConfig, student: Student, rows: Rows, reverse: Rows | None = None) -> ListFit:
    """Train a student on lists, save it, and measure it before and after: steps, first and last loss, effectiveness.

    reverse: lists the other way round, columns document and queries: batches of both take turns, by their sizes.

    Raises:
        UserError: the teacher of ``config.leaf`` cannot be loaded.
    """
    before = effectiveness(config.evaluate, student, config.run_dir) if config.evaluate is not None else None
    trainer = _trainer(config, with_leaf(config, student, rows), rows, reverse)
    first_loss, last_loss = train_or_resume(trainer)
    student.model.save_pretrained(str(config.run_dir / "model"))
    after = effectiveness(config.evaluate, student, config.run_dir) if config.evaluate is not None else None
    steps = trainer.state.global_step
    return ListFit(steps=steps, first_loss=first_loss, last_loss=last_loss, before=before, after=after)


def _trainer(config: ListDistillConfig, student: Student, rows: Rows, reverse: Rows | None) -> Any:
    from datasets import Dataset, DatasetDict

    lists = Dataset.from_dict(rows)
    data = lists if reverse is None else DatasetDict(lists=lists, reverse=Dataset.from_dict(reverse))
    arguments = student.arguments(**training_arguments(config))
    # A model card's examples are texts of the data's columns; a column of lists is none, and it would say so in alarm.
    student.model.model_card_data.generate_widget_examples = False
    if student.tenfold is not None:
        arguments.learning_rate_mapping = {student.tenfold: 10 * arguments.learning_rate}
    return keeping_loss_state(student.trainer)(
        model=student.model,
        args=arguments,
        train_dataset=data,
        loss=student.objective,
        data_collator=student.collator,
    )
