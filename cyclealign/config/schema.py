"""The configuration schema: every key of a run's YAML file, with its default.

Reading files, overrides and readable errors are ``config_loading``. These names are the public interface of the
package. Relative paths are relative to the current directory.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from cyclealign.config.black_box import BlackBoxConfig
from cyclealign.config.endpoints import check_url
from cyclealign.config.ranker_kinds import named_kind
from cyclealign.config.section import Section
from cyclealign.losses import RRHF, AnyLoss, feeds, unfed

Loss = Annotated[AnyLoss, Field(discriminator="name")]
BUILTIN_POLICY = "builtin:tiny-chat"
# Set by the run itself: from output_dir, seed and the cycle's own schedule.
OWNED_TRAINING_KEYS = (
    "output_dir",
    "seed",
    "data_seed",
    "max_steps",
    "remove_unused_columns",
    "resume_from_checkpoint",
    "ignore_data_skip",
    "train_sampling_strategy",
    "dataloader_drop_last",
    "auto_find_batch_size",
    "save_strategy",
    "save_steps",
    "save_only_model",
    "load_best_model_at_end",
    "eval_strategy",
    "push_to_hub",
)
MOST_CANDIDATES = 16


class DataConfig(Section):
    """``prompts`` and ``eval_prompts``: path, glob, hub id or ``builtin:openers-train`` / ``-eval`` / ``-report``.

    ``system_turns``, where the chat template takes none: ``fold`` puts their words before the first user turn's,
    ``skip`` leaves such prompts out.
    """

    prompts: str = Field(min_length=1)
    format: Literal["auto", "hh_rlhf", "trl", "jsonl", "parquet"] = "auto"
    split: str = "train"
    limit: int | None = Field(default=1000, ge=1)
    eval_prompts: str | None = None
    system_turns: Literal["keep", "fold", "skip"] = "keep"


class LoraConfig(Section):
    r: int = Field(default=16, ge=1)
    alpha: int = Field(default=32, ge=1)
    target_modules: str | tuple[str, ...] = "all-linear"


class PolicyConfig(Section):
    model: str = BUILTIN_POLICY
    max_prompt_tokens: int = Field(default=512, ge=8)
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    lora: LoraConfig | None = LoraConfig()
    quantization: Literal["4bit"] | None = None
    chat_template: str | None = None

    @model_validator(mode="after")
    def _quantised_weights_need_an_adapter(self) -> PolicyConfig:
        if self.quantization is not None and self.lora is None:
            raise ValueError("quantization: 4bit weights cannot be trained themselves; set policy.lora (e.g. r: 16)")
        return self


class GeneratorConfig(Section):
    backend: Literal["vllm", "server", "transformers", "auto"] = "auto"
    candidates: int = Field(default=3, ge=1, le=MOST_CANDIDATES)
    temperature: float = Field(default=1.0, gt=0)
    top_p: float = Field(default=0.95, gt=0, le=1)
    max_new_tokens: int = Field(default=128, ge=1)
    chunk: int = Field(default=64, ge=1)
    endpoints: tuple[str, ...] = ()
    adapter_root: Path | None = None

    @model_validator(mode="after")
    def _server_has_endpoints(self) -> GeneratorConfig:
        if self.backend == "server" and not self.endpoints:
            raise ValueError("endpoints: needed for backend server, e.g. [http://127.0.0.1:8000/v1]")
        for url in self.endpoints:
            check_url("endpoints", url)
        return self


class DemonstrationsConfig(Section):
    """``static``: a packaged file (``builtin:rank``) or a path. ``gate``: least chance-corrected agreement.
    ``encoder``: of ``select: nearest``, a sentence-transformers directory or hub id; null: all-MiniLM-L6-v2."""

    static: str = "builtin:rank"
    capacity: int = Field(default=8, ge=0)
    token_budget: int = Field(default=2048, ge=0)
    scope: Literal["shared", "prompt"] = "shared"
    select: Literal["recent", "agreement", "nearest"] = "recent"
    encoder: str | None = None
    evict: Literal["oldest", "agreement"] = "oldest"
    gate: float = Field(default=0.3, ge=-1, le=1)
    tie_break: Literal["black_box"] = "black_box"

    @model_validator(mode="after")
    def _encoder_is_used(self) -> DemonstrationsConfig:
        if self.encoder is not None and self.select != "nearest":
            raise ValueError(f"encoder: used by select: nearest only, got select: {self.select}")
        return self


class AnchorConfig(Section):
    """``weight`` times a distance from the start model, in nats per token (``trainer.anchor_terms``).

    kl: the k3 estimate of KL(policy, start model) on the candidates. nll: by how much the teacher-best candidate
    has become less likely than under the start model, where it has.
    """

    weight: float = Field(default=0.0, ge=0)
    kind: Literal["kl", "nll"] = "kl"


class LeafAuxiliary(Section):
    """LEAF's embedding match, ``weight`` times beside the ranking loss, which alone gives the order. ``teacher``: a
    sentence-transformers directory or hub id. Directions are compared: both vectors have length 1."""

    teacher: str = Field(min_length=1)
    weight: float = Field(default=1.0, gt=0)
    power: Literal[1, 2] = 2


class ListsConfig(Section):
    """Ranked lists that exist, which ``cyclealign train`` learns from instead of sampling its own; it sets ``source``.

    verdicts: of ``cyclealign rank`` on the candidate sets in ``source``. split: of a hub dataset. limit: so many lists
    are read. held_out: share of the prompts, drawn by their text, whose lists only measure. max_reply_tokens: longer
    replies are cut; null: by what the context leaves beside ``policy.max_prompt_tokens``. checkpoint_steps: a resume
    goes on from the training's state, which is saved every so many optimiser steps.
    """

    source: str = Field(min_length=1)
    verdicts: Path | None = None
    split: str = "train"
    limit: int | None = Field(default=None, ge=1)
    held_out: float = Field(default=0.05, ge=0, lt=1)
    max_reply_tokens: int | None = Field(default=None, ge=1)
    checkpoint_steps: int = Field(default=500, ge=1)


class WarmStart(Section):
    """What the policy learns before the first interaction. sft: data with chosen replies, by fine-tuning on them.
    lists: ranked lists, as ``cyclealign train`` takes them, by the run's own loss."""

    sft: str | None = None
    lists: str | None = None

    @model_validator(mode="after")
    def _one(self) -> WarmStart:
        if (self.sft is None) == (self.lists is None):
            raise ValueError("expected one of sft (data with chosen replies) and lists (ranked lists)")
        return self


class CycleConfig(Section):
    """``scorer``: a kind of ``ranker_kinds`` that scores single replies, as commands write it; takes no part in the
    training."""

    batch_size: int = Field(default=256, ge=1)
    max_interactions: int = Field(default=5, ge=1)
    target: Literal["black_box", "agreement"] = "black_box"
    warm_start: WarmStart | None = None
    eval_every: int = Field(default=1, ge=0)
    scorer: str | None = None

    @field_validator("scorer")
    @classmethod
    def _scores(cls, value: str | None) -> str | None:
        if value is not None:
            named_kind(value, flag="cycle.scorer", need="scores")
        return value


class DriftConfig(Section):
    """Limits against the start model; crossing one ends the run. ``keep``: which interaction is the product."""

    max_nll_rise: float | None = Field(default=None, gt=0)
    max_length_ratio: float | None = Field(default=None, gt=1)
    min_distinct2: float | None = Field(default=None, gt=0, le=1)
    keep: Literal["best", "last"] = "best"


class Config(Section):
    """One run."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    seed: int = Field(default=42, ge=0, lt=2**32)
    output_dir: Path = Path("runs")
    data: DataConfig
    policy: PolicyConfig = PolicyConfig()
    generator: GeneratorConfig = GeneratorConfig()
    black_box: BlackBoxConfig
    demonstrations: DemonstrationsConfig = DemonstrationsConfig()
    loss: Loss = RRHF()
    anchor: AnchorConfig = AnchorConfig()
    leaf: LeafAuxiliary | None = None
    training: dict[str, Any] = Field(default_factory=dict)
    layout: Literal["auto", "cached_prefix", "padded"] = "auto"
    cycle: CycleConfig = CycleConfig()
    drift: DriftConfig = DriftConfig()
    lists: ListsConfig | None = None

    @property
    def run_dir(self) -> Path:
        return self.output_dir / self.name

    @property
    def list_size(self) -> int:
        """Most candidates of a list: those that are sampled, and the black box's own reply."""
        return self.generator.candidates + bool(self.black_box.answers)

    @model_validator(mode="after")
    def _teacher_can_serve_the_loss(self) -> Config:
        check_teacher(self)
        if self.generator.candidates < 2:  # an eval samples one; an order needs two
            raise ValueError(f"generator.candidates: expected a value >= 2, got {self.generator.candidates}")
        if self.list_size > MOST_CANDIDATES:
            raise ValueError(f"generator.candidates: expected at most {MOST_CANDIDATES - 1} beside black_box.answers")
        if self.leaf is not None and self.policy.lora is None:
            raise ValueError("leaf: its projection is trained beside an adapter; set policy.lora, or leaf=null")
        cascade = self.black_box.cascade
        k = self.list_size
        if cascade is not None and cascade.min_agreement is None and (cascade.keep or k) >= k:
            raise ValueError(
                f"black_box.cascade.keep: {cascade.keep} of {k} candidates prunes nothing; keep fewer, or let"
                " it answer alone (black_box.cascade.min_agreement, e.g. 0.9)"
            )
        return self


def check_teacher(config: Config) -> None:
    """Refuse a loss that needs more than the black box can give, naming the losses that would work."""
    box = config.black_box
    if box.gives is None:  # the ranker refuses at load
        return
    if not feeds(box.gives, config.loss.needs):
        one_pass = box.cascade is None and box.gives == "order"
        who = "a cascade" if box.cascade else f"one pass of backend {box.backend}" if one_pass else box.backend
        ways = ("black_box.passes >= 2", "black_box.answer=scores")[: 1 if config.loss.needs == "votes" else 2]
        raise ValueError(unfed(config.loss, box.gives, who, ways if one_pass else ()))
