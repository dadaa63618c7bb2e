"""``cyclealign distill cprd``: a cross-encoder's order of hard negatives into a dual encoder, beside InfoNCE."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

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
    if config.weight > 0:
        _check_order(config)
    rows = mined_rows(config.data)
    ranked = sum(len(documents) > 2 for documents in rows["documents"])
    if config.weight > 0 and ranked == 0:
        raise UserError(
            f"{config.data.scores}: no list has two negatives beside its positive, so that there is no order to"
            " distil; mine more negatives of each query, or set weight=0 (InfoNCE alone)"
        )
    return once(CPRDSummary, config, partial(_trained, config, rows, ranked))


def _trained(config: CPRDConfig, rows: Rows, ranked: int) -> CPRDSummary:
    from transformers import set_seed

    set_seed(config.seed)  # an image encoder's weights are drawn
    student = dual_encoder(config)
    fit = fit_lists(config, student, rows)
    return CPRDSummary(
        lists=len(rows["query"]),
        ranked_lists=ranked,
        steps=fit.steps,
        first_loss=fit.first_loss,
        last_loss=fit.last_loss,
        before=fit.before,
        after=fit.after,
        scale=student.objective.log_scale.exp().item(),
    )


def _check_order(config: CPRDConfig) -> None:
    if config.data.teacher == "labels":
        raise UserError(
            "data.teacher: labels do not rank negatives; score them with cyclealign score, or set weight=0 (InfoNCE"
            " alone)"
        )
    check_feeds(config.data, config.loss)


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
