"""LEAF's models on sentence-transformers: teacher, student with its projection, and the Router of both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cyclealign.distill.leaf_config import EncoderTeacherConfig, LeafStudentConfig
from cyclealign.distill.students import cut_texts, shape_encoder
from cyclealign.models.loading import loaded
from cyclealign.models.processes import default_device


def load_teacher(config: EncoderTeacherConfig, key: str = "teacher.model") -> Any:
    """The teacher, frozen. UserError, naming ``key``, where it cannot be loaded."""
    teacher = _loaded(config.model, key).eval().requires_grad_(False)
    if config.max_tokens is not None:
        cut_texts(teacher, config.max_tokens, name=config.model, key="teacher.max_tokens")
    return teacher


def make_student(config: LeafStudentConfig, teacher: EncoderTeacherConfig, like: Any, *, width: int, unit: bool) -> Any:
    """Encoder, mean pooling, linear projection W (no bias, no activation) to the teacher's width, and length 1 where
    the teacher's vectors have it: Vujanic and Rückstiess 2025, section 3. W stays in the model.

    W begins as the identity where the widths are equal, so that a truncated teacher starts in the teacher's space.

    like: the teacher, whose prompts and similarity the student takes over.

    Raises:
        UserError: the encoder cannot be loaded or cut.
    """
    import sentence_transformers as st
    import torch
    from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling

    name = config.model or teacher.model
    model = _loaded(name, "student.model")
    shape_encoder(model, config)
    own = model[0].get_embedding_dimension()
    start = torch.eye(width) if own == width else None
    projection = Dense(own, width, bias=False, activation_function=torch.nn.Identity(), init_weight=start)
    modules = [model[0], Pooling(own, pooling_mode="mean"), projection, *([Normalize()] if unit else [])]
    student = st.SentenceTransformer(
        modules=modules,
        prompts=dict(like.prompts),
        similarity_fn_name=like.similarity_fn_name,
        device=str(like.device),
    )
    cut_texts(student, config.max_tokens, name=name, key="student.max_tokens")
    return student


def save_router(student: Any, teacher: Any, folder: Path) -> None:
    """Both as one model on disk: ``encode_query`` is the student's, ``encode_document`` the teacher's."""
    import sentence_transformers as st
    from sentence_transformers.base.modules import Router

    router = Router.for_query_document(
        query_modules=list(student.children()), document_modules=list(teacher.children())
    )
    model = st.SentenceTransformer(
        modules=[router],
        prompts=dict(teacher.prompts),
        similarity_fn_name=teacher.similarity_fn_name,
        device=str(teacher.device),
    )
    model.save_pretrained(str(folder))


def _loaded(name: str, key: str) -> Any:
    import sentence_transformers as st

    return loaded(lambda: st.SentenceTransformer(name, device=default_device()), f"{key}: cannot load {name!r}")
