"""QuantiDCE's model, a cross-encoder with a small network on top, and the objective of its second stage."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cyclealign.distill.config import EncoderShape
from cyclealign.losses import ModelStates, QuantiDCEKD
from cyclealign.models.features import Features
from cyclealign.models.loading import loaded
from cyclealign.models.processes import default_device


def make_model(encoder: str, shape: EncoderShape, *, max_tokens: int, seed: int) -> Any:
    """A ``CrossEncoder`` whose logit is MLP(mean of the pair's token states), widths D, D/2, D/4, 1, ELU between.

    The published shape (Ye et al. 2021, arXiv 2106.00507, section 3.1; 768, 384, 192, 1) on the mean instead of BERT's
    pooler, which sentence encoders have not trained. Of a pair that is too long the oldest words are cut.

    Args:
        encoder: directory or hub id. seed: of the network's first weights.

    Raises:
        UserError: no such encoder, or fewer layers.
    """
    from sentence_transformers import CrossEncoder
    from sentence_transformers.base.modules import Dense, Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    from cyclealign.distill.students import check_length, shape_encoder

    body = loaded(
        lambda: Transformer(encoder, max_seq_length=max_tokens, processor_kwargs={"truncation_side": "left"}),
        f"student.model: cannot load {encoder!r}",
    )
    torch.manual_seed(seed)
    width = body.get_embedding_dimension()
    head = (
        Dense(width, width // 2, activation_function=nn.ELU()),
        Dense(width // 2, width // 4, activation_function=nn.ELU()),
        Dense(width // 4, 1, activation_function=nn.Identity(), module_output_name="scores"),
    )
    model = CrossEncoder(modules=[body, Pooling(width, pooling_mode="mean"), *head], device=default_device())
    check_length(model, max_tokens, "student.max_tokens")
    shape_encoder(model, shape)
    return model


def load_model(path: str) -> Any:
    """A model that was saved before."""
    from sentence_transformers import CrossEncoder

    return CrossEncoder(path, device=default_device())


class RatingObjective(nn.Module):
    """QuantiDCE's second stage for ``CrossEncoderTrainer``: columns context and response, the human rating as label.

    ``frozen``: the first stage's model, another object than ``model``; it is put into evaluation mode.
    """

    def __init__(self, model: nn.Module, loss: QuantiDCEKD, frozen: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.kd = loss
        self._states = _recorded(model)
        # In a function's closure: a submodule would be trained, moved and wrapped with the student.
        self._frozen_states = _frozen(frozen)

    def forward(
        self, inputs: Sequence[Sequence[str]], labels: Tensor, prompt: str | None = None, task: str | None = None
    ) -> Tensor:
        try:
            return self._forward(inputs, labels, prompt, task)
        except TypeError as error:
            # The trainer takes a TypeError for an old signature and runs the whole step again without the prompt.
            raise RuntimeError(f"the rating objective failed: {error}") from error

    def _forward(self, inputs: Sequence[Sequence[str]], labels: Tensor, prompt: str | None, task: str | None) -> Tensor:
        pairs = list(zip(*inputs, strict=True))
        found: Features = self.model.preprocess(pairs, prompt=prompt, task=task)  # type: ignore[operator]
        device = next(self.model.parameters()).device
        features = {name: v.to(device) if isinstance(v, Tensor) else v for name, v in found.items()}
        tokens = features["attention_mask"].bool()
        frozen = self._frozen_states(dict(features))
        student = self._states(self.model, features)
        return self.kd(student, frozen, tokens=tokens, rating=labels.to(device)).loss

    def get_config_dict(self) -> dict[str, object]:
        """For the model card."""
        return {"loss": repr(self.kd)}


def _recorded(model: Any) -> Callable[[Any, Features], ModelStates]:
    """How to run a model, or its trainer's wrapper of it, so that it tells its hidden states and attention maps."""
    encoder = model[0].model
    encoder.set_attn_implementation("eager")  # the others do not tell their attention maps
    plain = encoder.forward
    last: list[Any] = []

    def recording(**features: Any) -> Any:
        last[:] = [plain(**features, output_hidden_states=True, output_attentions=True)]
        return last[0]

    # In place of a hook: sentence-transformers calls this method itself, which no hook sees.
    encoder.forward = recording

    def run(called: Any, features: Features) -> ModelStates:
        score = called(features)["scores"].view(-1).float().sigmoid()
        output = last.pop()
        return ModelStates(score=score, hidden=tuple(output.hidden_states), attention=tuple(output.attentions))

    return run


def _frozen(model: Any) -> Callable[[Features], ModelStates]:
    model.eval().requires_grad_(False)
    states = _recorded(model)

    def run(features: Features) -> ModelStates:
        with torch.no_grad():
            return states(model, features)

    return run
