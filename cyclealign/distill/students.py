"""Students on sentence-transformers: each kind's model, adapter and trainer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cyclealign.distill.adapters import CrossEncoderObjective, DenseObjective, ListObjective, MultiVectorObjective
from cyclealign.distill.config import EncoderShape, StudentConfig
from cyclealign.distill.ragged import RaggedCollator
from cyclealign.losses import RankingLoss
from cyclealign.models.loading import loaded, set_dropout
from cyclealign.models.processes import default_device
from cyclealign.types import UserError

LENGTHS = "student.max_query_tokens and max_document_tokens"


@dataclass(frozen=True)
class Student:
    """A model that is ready to train: ``trainer`` and ``arguments`` are sentence-transformers' classes.

    ``tenfold``: pattern of the parameters' names that learn ten times as fast.
    """

    model: Any
    objective: ListObjective
    trainer: type
    arguments: type
    collator: RaggedCollator | None
    tenfold: str | None = None


def make_student(config: StudentConfig, loss: RankingLoss, *, positive_first: bool = False) -> Student:
    """``positive_first``: the first document of every list is known to be the best one (PLD sets it first).

    UserError where the model cannot be loaded or cut.
    """
    import sentence_transformers as st

    options: dict[str, Any] = {
        "scale": config.scale,
        "learn_scale": config.learn_scale,
        "positive_first": positive_first,
    }
    cut = (config.max_query_tokens, config.max_document_tokens)
    if config.kind in ("cross_encoder", "prettr", "tk"):
        model = _cross_encoder(config) if config.kind == "cross_encoder" else _pair_model(config)
        objective: ListObjective = CrossEncoderObjective(model, loss, **options)
        # The kernels' weights are new and few: as published (matchmaker: 1e-5, theirs 1e-4).
        fast = r"kernel_weights|\.mix$" if config.kind == "tk" else None
        return Student(model, objective, st.CrossEncoderTrainer, st.CrossEncoderTrainingArguments, None, fast)
    if config.kind == "colbert":
        model = _loaded(st.MultiVectorEncoder, config.model)
        cut_texts(model, max(cut), name=config.model, key=LENGTHS)
        shape_encoder(model, config)
        collator = _collator(model, cut, tasks=("query", "document"))
        objective = MultiVectorObjective(model, loss, **options)
        return Student(model, objective, st.MultiVectorEncoderTrainer, st.MultiVectorEncoderTrainingArguments, collator)
    model = _dense(config)
    objective = DenseObjective(model, loss, similarity="dot" if config.kind == "dot" else "cosine", **options)
    collator = _collator(model, cut)
    return Student(model, objective, st.SentenceTransformerTrainer, st.SentenceTransformerTrainingArguments, collator)


def _collator(model: Any, cut: tuple[int, int], **tasks: Any) -> RaggedCollator:
    """Batches of texts as the model encodes them, so with its own prompts."""
    query, document = model.prompts.get("query"), model.prompts.get("document")
    prompts = {"query": query, "queries": query, "document": document, "documents": document}
    return RaggedCollator(model.preprocess, prompts=prompts, max_tokens=cut, **tasks)


def _dense(config: StudentConfig) -> Any:
    """A bi-encoder whose own similarity is the trained one; for the dot product, without a normalising module."""
    import sentence_transformers as st
    from sentence_transformers.sentence_transformer.modules import Normalize

    model = _loaded(st.SentenceTransformer, config.model)
    modules = [m for m in model if config.kind == "cosine" or not isinstance(m, Normalize)]
    model = st.SentenceTransformer(
        modules=modules,
        prompts=dict(model.prompts),
        similarity_fn_name=config.kind,
        device=str(model.device),
    )
    cut_texts(model, max(config.max_query_tokens, config.max_document_tokens), name=config.model, key=LENGTHS)
    shape_encoder(model, config)
    return model


def _cross_encoder(config: StudentConfig) -> Any:
    import sentence_transformers as st

    tokens = config.max_query_tokens + config.max_document_tokens
    model = _loaded(st.CrossEncoder, config.model, num_labels=1, max_length=tokens)
    check_length(model, tokens, "student.max_query_tokens and max_document_tokens, together")
    shape_encoder(model, config)
    return model


def _pair_model(config: StudentConfig) -> Any:
    """PreTTR or TK on a pre-trained encoder; the parts that join query and document are new."""
    import sentence_transformers as st

    from cyclealign.models.prettr import PreTTR
    from cyclealign.models.tk import TK

    source = _loaded(st.SentenceTransformer, config.model)
    shape_encoder(source, config)
    check_length(source, max(config.max_query_tokens, config.max_document_tokens), LENGTHS)
    encoder, tokenizer = source[0].auto_model, source.tokenizer
    lengths = {"max_query_tokens": config.max_query_tokens, "max_document_tokens": config.max_document_tokens}
    try:
        if config.kind == "tk":
            module: Any = TK(encoder, tokenizer, **lengths)
        else:
            split = config.split or encoder.config.num_hidden_layers // 2
            module = PreTTR(encoder, tokenizer, split=split, **lengths)
    except ValueError as error:
        raise UserError(f"student: {error}") from error
    return st.CrossEncoder(modules=[module], device=str(source.device))


def cut_texts(model: Any, tokens: int, *, name: str, key: str) -> None:
    """Let ``name``'s model cut texts at so many tokens. UserError where it cannot, or has fewer positions (``key``)."""
    try:
        model.max_seq_length = tokens
    except AttributeError as error:  # static embeddings
        kind, whose = type(model[0]).__name__, key.partition(".")[0]
        raise UserError(f"{whose}.model: expected a transformer encoder, got {name!r}, a {kind}") from error
    check_length(model, tokens, key)


def check_length(model: Any, tokens: int, key: str) -> None:
    """UserError, naming ``key``, where the encoder has fewer positions than that."""
    encoder = getattr(model[0], "auto_model", None)  # static embeddings have none
    if encoder is None or (most := getattr(encoder.config, "max_position_embeddings", None)) is None:
        return
    for name, module in encoder.named_modules():
        # RoBERTa and its kin count positions from behind the one that padding has.
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
            most -= module.padding_idx + 1
    if tokens > most:
        raise UserError(f"{key}: the encoder has {most} positions, got {tokens} tokens")


def shape_encoder(model: Any, shape: EncoderShape) -> None:
    """Cut an encoder after its first so many layers, and set all its dropout rates, those of its config too.

    UserError where it has fewer layers, or not one list of them.
    """
    if shape.layers is not None:
        _keep_layers(model, shape.layers)
    if shape.dropout is not None:
        set_dropout(model, shape.dropout)
        if (encoder := getattr(model[0], "auto_model", None)) is not None:  # a Router has several
            # A later stage loads what this one saves.
            rates = [name for name, value in vars(encoder.config).items() if _is_rate(name, value)]
            encoder.config.update(dict.fromkeys(rates, shape.dropout))


def _is_rate(name: str, value: object) -> bool:
    return ("dropout" in name or name.endswith("pdrop")) and isinstance(value, (int, float))


def _keep_layers(model: Any, layers: int) -> None:
    from torch.nn import ModuleList

    inner = getattr(model[0], "auto_model", model[0])
    config: Any = getattr(inner, "config", None)
    own: int | None = getattr(config, "num_hidden_layers", None)  # whatever the encoder's config calls it
    lists = {name: m for name, m in inner.named_modules() if isinstance(m, ModuleList) and len(m) == own}
    # A layer may hold a list that is as long by chance, as T5's do.
    outer = [m for name, m in lists.items() if not any(name.startswith(f"{other}.") for other in lists)]
    if own is None or len(outer) != 1:  # shared layers (ALBERT), an encoder and a decoder (BART)
        raise UserError(f"student.layers: a {type(inner).__name__} does not have one list of its layers to cut")
    if own < layers:
        raise UserError(f"student.layers: the encoder has {own} layers, got {layers}")
    del outer[0][layers:]
    # What is saved is built anew from the config: its lists of what each layer is go with the layers.
    for name, value in list(vars(config).items()):
        if "layer" in name and isinstance(value, list) and len(value) == own:
            setattr(config, name, value[:layers])
    config.num_hidden_layers = layers


def _loaded(load: Any, name: str, **options: Any) -> Any:
    return loaded(lambda: load(name, device=default_device(), **options), f"student.model: cannot load {name!r}")
