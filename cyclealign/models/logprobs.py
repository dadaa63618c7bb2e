"""Log-probabilities of responses: the ONE owner of shift, mask and length.

Ranking, evaluation and the loss all call ``token_logprobs``. The head runs on response positions only, a chunk at a
time (``lm_head.py``): a [rows, T, V] tensor never exists.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import MethodType
from typing import Any, Literal, TypedDict

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from cyclealign.models.lm_head import head_logprobs
from cyclealign.models.passes import Passes
from cyclealign.models.prefix_cache import BranchCache, PromptCache, keep_cache_when_checkpointing


class ListBatch(TypedDict):
    """B prompts [B, P], padded on the left; all their responses as R rows [R, T], padded on the right.

    ``owner`` [R] is each row's prompt. Lists may have different numbers of responses. ``scored_mask``: of the tokens
    there are, those whose log-probs are asked for; the others (thinking before an answer) are read as a prompt is.
    """

    prompt_ids: Int[Tensor, "B P"]
    prompt_mask: Bool[Tensor, "B P"]
    response_ids: Int[Tensor, "R T"]
    response_mask: Bool[Tensor, "R T"]
    scored_mask: Bool[Tensor, "R T"]
    owner: Int[Tensor, " R"]


@dataclass(frozen=True, slots=True)
class Plan:
    """How the log-probs are computed; every plan gives the same numbers.

    layout: ``padded`` runs [R, P+T] rows; ``cached_prefix`` runs each prompt once and the responses on its
    cache.
    fused: the head runs in chunks; False for architectures that do more than a head after the last layer.
    responses_per_pass: in training, activations of at most so many responses are held: each such pass is computed again
    in the backward pass. None: of all.
    """

    layout: Literal["padded", "cached_prefix"] = "padded"
    fused: bool = True
    responses_per_pass: int | None = None


PROJECTION = "embedding_projection.weight"  # what ``attach_projection`` makes, as it ends in a state


def causal_lm(model: nn.Module) -> Any:
    """The causal language model inside PEFT and parallel wrappers."""
    inner: Any = getattr(model, "module", model)
    return inner.get_base_model() if hasattr(inner, "get_base_model") else inner


def attach(model: nn.Module) -> None:
    """Let ``model(lists=..., plan=...)`` return log-probs; other calls are as before.

    It is the model's own forward, so that DDP, FSDP, DeepSpeed and autocast wrappers see the pass they hook.
    """
    causal = causal_lm(model)
    if not isinstance(vars(causal).get("forward"), MethodType) or causal.forward.__func__ is not _forward:
        causal.forward = MethodType(_forward, causal)
        keep_cache_when_checkpointing(causal)


def token_logprobs(model: nn.Module, lists: ListBatch, plan: Plan) -> Float[Tensor, "R T"]:
    """log p(token | prompt, tokens before it) in nats for every scored response token, 0 elsewhere.

    Float32 or wider. ``model``: prepared by ``attach``, wrapped or not.
    """
    logprobs: Tensor = model(lists=lists, plan=plan)
    return logprobs


def logprobs_and_vectors(
    model: nn.Module, lists: ListBatch, plan: Plan
) -> tuple[Float[Tensor, "R T"], Float[Tensor, "R D"]]:
    """``token_logprobs``, and of each response the projected mean of the last states that predict its tokens.

    The states are those that the log-probs are computed from, so it costs no second pass. ``model``: prepared by
    ``attach_projection`` too; ``plan``: fused (else there are no states, only logits).
    """
    logprobs, vectors = model(lists=lists, plan=plan, vectors=True)
    return logprobs, vectors


def attach_projection(model: nn.Module, width: int) -> Float[Tensor, "D S"]:
    """Give the model a trainable linear map from its last states to ``width`` dimensions, in float32; returns a copy.

    It is a part of the model, so that parallel wrappers see its gradients; no adapter holds it, so none is served.
    """
    causal = causal_lm(model)
    head = causal.get_output_embeddings().weight
    causal.embedding_projection = nn.Linear(head.shape[1], width, bias=False, device=head.device)
    return projection_weight(model).detach().clone()


def projection_weight(model: nn.Module) -> Float[Tensor, "D S"]:
    """The parameter that ``attach_projection`` made."""
    weight: Tensor = causal_lm(model).embedding_projection.weight
    return weight


def response_means(states: Float[Tensor, "N S"], mask: Bool[Tensor, "R T"]) -> Float[Tensor, "R S"]:
    """Mean over the tokens of each row, of states in the order of ``mask``'s true places; 0 for an empty row."""
    rows = mask.nonzero(as_tuple=True)[0]
    wide = states.to(torch.promote_types(states.dtype, torch.float32))
    total = wide.new_zeros(mask.shape[0], states.shape[1]).index_add(0, rows, wide)
    return total / mask.sum(dim=1, keepdim=True).clamp(min=1)


def sequence_scores(
    logprobs: Float[Tensor, "R T"], mask: Bool[Tensor, "R T"]
) -> tuple[Float[Tensor, " R"], Float[Tensor, " R"]]:
    """Sum (nats per response) and mean (nats per token) over the response tokens of each row."""
    total = torch.where(mask, logprobs, 0.0).sum(dim=1)
    return total, total / mask.sum(dim=1).clamp(min=1)


def _forward(
    self: Any,
    *args: Any,
    lists: ListBatch | None = None,
    plan: Plan | None = None,
    vectors: bool = False,
    **kwargs: Any,
) -> Any:
    if lists is None:
        return type(self).forward(self, *args, **kwargs)
    plan = plan or Plan()
    run, passes = _runner(self, plan), Passes(self, lists["owner"].device, plan.responses_per_pass)
    states = (_cached_states if plan.layout == "cached_prefix" else _padded_states)(run, lists, passes)
    mask = lists["scored_mask"]
    project = self.get_output_embeddings() if plan.fused else nn.Identity()
    found = head_logprobs(project, states, lists["response_ids"][mask], self.config.get_text_config().vocab_size)
    logprobs = torch.zeros(mask.shape, dtype=found.dtype, device=found.device).masked_scatter(mask, found)
    return (logprobs, self.embedding_projection(response_means(states, mask))) if vectors else logprobs


def _runner(causal: Any, plan: Plan) -> Callable[..., Tensor]:
    """input ids and cache -> last hidden states [rows, length, D] (fused), or logits [rows, length, V]."""

    def run(**inputs: Any) -> Tensor:
        if not plan.fused:
            logits: Tensor = type(causal).forward(causal, use_cache=False, **inputs).logits
            return logits
        # Asked for by name, not called as causal.model: base models name their inner part differently.
        hidden: Tensor = getattr(causal, causal.base_model_prefix)(use_cache=False, **inputs)[0]
        return hidden

    return run


def _padded_states(run: Callable[..., Tensor], lists: ListBatch, passes: Passes) -> Float[Tensor, "N D"]:
    """States that predict each scored token, from rows [prompt, response, padding]."""
    before, mask = lists["prompt_mask"].sum(dim=1)[lists["owner"]], lists["response_mask"]
    lengths = before + mask.sum(dim=1)

    def states(part: Tensor) -> Tensor:
        owner, width = lists["owner"][part], int(lengths[part].max())
        ids = torch.cat([lists["prompt_ids"][owner], lists["response_ids"][part]], dim=1)
        present = torch.cat([lists["prompt_mask"][owner], mask[part]], dim=1)
        # Left padding is rolled to the right end: then no model needs positions, and no row begins masked.
        columns = torch.arange(ids.shape[1], device=ids.device)
        roll = (columns + (lists["prompt_ids"].shape[1] - before[part])[:, None]) % ids.shape[1]
        found = run(input_ids=ids.gather(1, roll)[:, :width], attention_mask=present.gather(1, roll)[:, :width].long())
        rows, tokens = lists["scored_mask"][part].nonzero(as_tuple=True)
        return found[rows, before[part][rows] + tokens - 1]

    return passes.states(lengths, lists["scored_mask"], states)


def _cached_states(run: Callable[..., Tensor], lists: ListBatch, passes: Passes) -> Float[Tensor, "N D"]:
    """The same states: prompts once, responses as an ordinary batch on the prompts' cache."""
    before, lengths = lists["prompt_mask"].sum(dim=1), lists["response_mask"].sum(dim=1)
    parts = passes.prompts(before)
    caches, ends = zip(*(_prompt(run, lists, part, int(before[part].max())) for part in parts), strict=True)
    order = torch.cat(parts).argsort()
    cache, last = PromptCache.joined(caches, order), torch.cat(ends)[order]

    def states(part: Tensor) -> Tensor:
        # At least two places: processes that share weights then all run responses after their prompts.
        owner, width = lists["owner"][part], max(2, int(lengths[part].max()))
        prompt = int(before[owner].max())
        here = [lists["prompt_mask"][owner][:, -prompt:], lists["response_mask"][part][:, : width - 1]]
        found = run(
            input_ids=lists["response_ids"][part][:, : width - 1],
            attention_mask=torch.cat(here, dim=1).long(),
            position_ids=torch.arange(width - 1, device=part.device) + before[owner][:, None],
            past_key_values=BranchCache(cache, owner, prompt),
        )
        return torch.cat([last[owner][:, None], found], dim=1)[lists["scored_mask"][part][:, :width]]

    return passes.states(lengths, lists["scored_mask"], states)


def _prompt(
    run: Callable[..., Tensor], lists: ListBatch, part: Int[Tensor, " b"], width: int
) -> tuple[PromptCache, Float[Tensor, "b D"]]:
    """Key-value states of some prompts, the longest of which has ``width`` tokens, and the last state of each."""
    cache, mask = PromptCache(), lists["prompt_mask"][part][:, -width:]
    found = run(
        input_ids=lists["prompt_ids"][part][:, -width:],
        attention_mask=mask.long(),
        position_ids=(mask.cumsum(dim=1) - 1).clamp(min=0),
        past_key_values=cache,
    )
    return cache, found[:, -1]
