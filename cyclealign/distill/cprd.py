"""``cyclealign distill cprd``: a cross-encoder's order of hard negatives into a dual encoder, beside InfoNCE."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from cyclealign.distill.config import ScoresConfig
from cyclealign.distill.cprd_config import CPRDConfig, ImageEncoderConfig
from cyclealign.distill.cprd_objective import CPRDObjective
from cyclealign.distill.list_distiller import fit_lists
from cyclealign.distill.list_rows import Rows, check_feeds, mined_rows
from cyclealign.distill.ragged import RaggedCollator
from cyclealign.distill.run import once
from cyclealign.distill.students import Student, make_student
from cyclealign.distill.summaries import CPRDSummary
from cyclealign.types import UserError


def distill_cprd(config: CPRDConfig) -> CPRDSummary:
    """Train, or go on from the last checkpoint; returns the summary that is written to ``summary.json``.

    Raises:
        UserError: scores or images that cannot be used, a model that cannot be loaded, another config in the run's
            directory.
    """
    rows = _rows(config, config.data, "data")
    reverse = None if config.reverse is None else _rows(config, config.reverse, "reverse")
    return once(CPRDSummary, config, partial(_trained, config, rows, reverse))


def _rows(config: CPRDConfig, data: ScoresConfig, key: str) -> Rows:
    """The lists of one direction, some of which have an order to distil."""
    if config.weight > 0:
        if data.teacher == "labels":
            raise UserError(
                f"{key}.teacher: labels do not rank negatives; score them with cyclealign score, or set weight=0"
                " (InfoNCE alone)"
            )
        check_feeds(data, config.loss)
    rows = mined_rows(data)
    if config.weight > 0 and _ranked(rows) == 0:
        raise UserError(
            f"{data.scores}: no list has two negatives beside its positive, so that there is no order to"
            " distil; mine more negatives of each query, or set weight=0 (InfoNCE alone)"
        )
    return rows


def _ranked(rows: Rows) -> int:
    """Lists with an order of negatives."""
    return sum(len(documents) > 2 for documents in rows["documents"])


def _trained(config: CPRDConfig, rows: Rows, reverse: Rows | None) -> CPRDSummary:
    from transformers import set_seed

    set_seed(config.seed)  # an image encoder's weights are drawn
    student = dual_encoder(config)
    around = reverse and {"document": reverse["query"], "queries": reverse["documents"], "scores": reverse["scores"]}
    fit = fit_lists(config, student, rows, around)
    return CPRDSummary(
        lists=len(rows["query"]),
        ranked_lists=_ranked(rows),
        reverse_lists=None if reverse is None else len(reverse["query"]),
        steps=fit.steps,
        first_loss=fit.first_loss,
        last_loss=fit.last_loss,
        before=fit.before,
        after=fit.after,
        scale=student.objective.log_scale.exp().item(),
    )


def dual_encoder(config: CPRDConfig) -> Student:
    """The text student, with an image encoder beside its text encoder where images are asked for."""
    student = make_student(config.student, config.loss)
    model = student.model if config.images is None else _with_images(student.model, config.images)
    objective = CPRDObjective(
        model,
        config.loss,
        weight=config.weight,
        similarity=config.student.kind,
        scale=config.student.scale,
        learn_scale=config.student.learn_scale,
    )
    if config.images is None:
        return replace(student, model=model, objective=objective)
    # An image takes no prompt, and the saved model puts none before its texts.
    cut = (config.student.max_query_tokens, config.student.max_document_tokens)
    collator = RaggedCollator(model.preprocess, tasks=("query", "document"), max_tokens=cut)
    return replace(student, model=model, objective=objective, collator=collator)


def _with_images(text: Any, config: ImageEncoderConfig) -> Any:
    """One model with an encoder for images, the queries, and one for texts; by task, else by what an input is."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Router

    from cyclealign.models.image_encoder import ImageEncoder

    image = ImageEncoder(config.size, config.width, text.get_embedding_dimension())
    # The task goes first: a path with no image behind it would be taken for a text.
    by_input = {("query", None): "query", (None, "image"): "query", ("document", None): "document"}
    router = Router({"query": [image], "document": list(text)}, default_route="document", route_mappings=by_input)
    return SentenceTransformer(modules=[router], similarity_fn_name=text.similarity_fn_name, device=str(text.device))
