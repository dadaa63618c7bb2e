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
from cyclealign.config.engine_keys import check_engine
from cyclealign.config.keeping import Keep, KeepRule, keep_rule, keep_text
from cyclealign.config.ranker_kinds import named_kind
from cyclealign.config.section import Section
from cyclealign.config.witness import WitnessConfig
from cyclealign.losses import RRHF, AnyLoss, AnyPolicyLoss, feeds, unfed

OwnKeys = dict[str, Any]  # of a section whose keys are others': TrainingArguments', vLLM's, a template's
Loss = Annotated[AnyLoss, Field(discriminator="name")]
PolicyLoss = Annotated[AnyPolicyLoss, Field(discriminator="name")]
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
# What every rendering of a chat template is given.
RENDERED = ("messages", "tools", "documents", "add_generation_prompt", "continue_final_message")
MOST_CANDIDATES = 16


class DataConfig(Section):
    """Where the prompts come from."""

    prompts: str = Field(min_length=1)
    """Prompts to train on: path, glob, hub id or ``builtin:openers-train``."""
    format: Literal["auto", "hh_rlhf", "trl", "jsonl", "parquet"] = "auto"
    """How rows are read; ``auto`` goes by their columns."""
    split: str = "train"
    """Split of a hub dataset."""
    limit: int | None = Field(default=1000, ge=1)
    """Most prompts that are read; null: all."""
    eval_prompts: str | None = None
    """Held-out prompts: path, glob, hub id, ``builtin:openers-eval`` or ``builtin:openers-report``; null: nothing is
    measured."""
    system_turns: Literal["keep", "fold", "skip"] = "keep"
    """Where the chat template takes no system turn, ``fold`` puts its words before the first user turn's, ``skip``
    leaves such prompts out."""


class LoraConfig(Section):
    """The adapter that is trained in place of the weights."""

    r: int = Field(default=16, ge=1)
    """Rank of the adapter's matrices."""
    alpha: int = Field(default=32, ge=1)
    """Scale of the adapter: its product is multiplied by alpha / r."""
    target_modules: str | tuple[str, ...] = "all-linear"
    """Modules with an adapter: ``all-linear``, or a list of their names."""


class PolicyConfig(Section):
    """The model that learns."""

    model: str = BUILTIN_POLICY
    """Directory or hub id of a causal language model, or ``builtin:tiny-chat``."""
    max_prompt_tokens: int = Field(default=512, ge=8)
    """Of a longer chat the oldest turns are left out, whole, until it fits."""
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """What the model computes in; ``auto``: bfloat16 on a GPU, float32 on a CPU. On a CPU that multiplies in it (AMX,
    AVX512-BF16) bfloat16 is several times as fast for models of 100M parameters and more."""
    lora: LoraConfig | None = LoraConfig()
    """The adapter; null: all weights are trained."""
    quantization: Literal["4bit"] | None = None
    """Hold the frozen weights in 4 bits (needs a GPU and an adapter)."""
    chat_template: str | None = None
    """File with a Jinja chat template, or a packaged one (``builtin:human-assistant``); null: the tokenizer's own."""
    chat_template_kwargs: OwnKeys = Field(default_factory=dict)
    """Variables of the template with their values (``enable_thinking: false``), for every chat that it renders, also in
    what the run exports."""

    @field_validator("chat_template_kwargs")
    @classmethod
    def _of_the_template(cls, value: OwnKeys) -> OwnKeys:
        for name in value:
            if name in RENDERED or not name.isidentifier():
                raise ValueError(f"{name}: expected a variable of the chat template, e.g. enable_thinking: false")
        return value

    @model_validator(mode="after")
    def _quantised_weights_need_an_adapter(self) -> PolicyConfig:
        if self.quantization is not None and self.lora is None:
            raise ValueError("quantization: 4bit weights cannot be trained themselves; set policy.lora (e.g. r: 16)")
        return self


class ThinkingConfig(Section):
    """Thinking before an answer."""

    open: str | None = Field(default=None, min_length=1)
    """The tag that begins it; null: both tags are found in the chat template."""
    close: str | None = Field(default=None, min_length=1)
    """The tag that ends it."""
    max_tokens: int | None = Field(default=None, ge=1)
    """Most tokens of thinking, its close included, which is written for a policy that has not done so by then;
    ``generator.max_new_tokens`` is then the answer's own. null: both share it."""
    train: Literal["answer", "all"] = "answer"
    """What the likelihood and the loss are of: the ``answer`` given its thinking, or ``all`` of the reply."""

    @model_validator(mode="after")
    def _both_tags(self) -> ThinkingConfig:
        if (self.open is None) != (self.close is None) or (self.open is not None and self.open == self.close):
            raise ValueError("open, close: expected two tags, e.g. open: <think>, close: </think>; or neither")
        return self


class GeneratorConfig(Section):
    """Who samples the candidates, and how."""

    backend: Literal["vllm", "server", "transformers", "auto"] = "auto"
    """``vllm`` in this process, ``server``: running vLLM servers, ``transformers``; ``auto``: vLLM where it can run,
    else transformers."""
    candidates: int = Field(default=3, ge=1, le=MOST_CANDIDATES)
    """Replies sampled for each prompt."""
    temperature: float = Field(default=1.0, gt=0)
    """Temperature of the sampling."""
    top_p: float = Field(default=0.95, gt=0, le=1)
    """Nucleus of the sampling: the likeliest tokens whose probabilities add up to this."""
    max_new_tokens: int = Field(default=128, ge=1)
    """Longest reply, in tokens."""
    chunk: int = Field(default=64, ge=1)
    """Prompts sampled at a time; what is sampled is kept before the next chunk begins."""
    endpoints: tuple[str, ...] = ()
    """Addresses of the vLLM servers of backend ``server``, e.g. ``[http://127.0.0.1:8000/v1]``."""
    adapter_root: Path | None = None
    """Directory that the servers see too, where each interaction's adapter is copied for them; null: they see the run
    directory."""
    engine: OwnKeys = Field(default_factory=dict)
    """vLLM's own arguments by its names, e.g. ``{tensor_parallel_size: 2}``."""
    warm: Literal["auto", "always", "never"] = "auto"
    """Whether vLLM's process lives on between interactions; ``auto``: on a CPU."""

    thinking: ThinkingConfig = ThinkingConfig()
    """Thinking before an answer: its tags, its limit, and whether it is learnt."""

    @field_validator("engine")
    @classmethod
    def _vllm_has_it(cls, value: OwnKeys) -> OwnKeys:
        check_engine(value)
        return value

    @property
    def reply_tokens(self) -> int:
        """Most tokens of a reply, thinking included."""
        return self.max_new_tokens + (self.thinking.max_tokens or 0)

    @model_validator(mode="after")
    def _server_has_endpoints(self) -> GeneratorConfig:
        if self.backend == "server" and not self.endpoints:
            raise ValueError("endpoints: needed for backend server, e.g. [http://127.0.0.1:8000/v1]")
        for url in self.endpoints:
            check_url("endpoints", url)
        return self

    @model_validator(mode="after")
    def _engine_is_used(self) -> GeneratorConfig:
        if self.engine and self.backend == "transformers":
            raise ValueError("engine: used by vLLM only, got backend: transformers")
        if self.backend in ("vllm", "auto") and self.engine.get("data_parallel_size", 1) > 1:
            raise ValueError(
                "engine.data_parallel_size: takes servers; start them by cyclealign serve, and set backend: server"
            )
        return self


class DemonstrationsConfig(Section):
    """The ranked lists that the judge is shown before the one it ranks."""

    static: str = "builtin:rank"
    """Demonstrations that are always there: a packaged set (``builtin:rank``) or a path."""
    capacity: int = Field(default=8, ge=0)
    """Most of the run's own demonstrations that are kept, and shown."""
    token_budget: int = Field(default=2048, ge=0)
    """Most tokens that all demonstrations together may take in a judge's prompt, estimated."""
    scope: Literal["shared", "prompt"] = "shared"
    """``shared``: one pool, of which a prompt sees all but its own; ``prompt``: it sees its own alone."""
    select: Literal["recent", "agreement", "nearest"] = "recent"
    """Which of the pool are shown: the latest, those with the highest agreement, or those nearest to the prompt."""
    encoder: str | None = None
    """Of ``select: nearest``, a sentence-transformers directory or hub id; null: all-MiniLM-L6-v2."""
    evict: Literal["oldest", "agreement"] = "oldest"
    """Who leaves a full pool: the oldest, or the one with the lowest agreement."""
    gate: float = Field(default=0.3, ge=-1, le=1)
    """Least chance-corrected agreement of both rankings that makes a demonstration."""
    tie_break: Literal["black_box"] = "black_box"
    """Whose order stands where the agreement leaves candidates tied."""

    @model_validator(mode="after")
    def _encoder_is_used(self) -> DemonstrationsConfig:
        if self.encoder is not None and self.select != "nearest":
            raise ValueError(f"encoder: used by select: nearest only, got select: {self.select}")
        return self


class AnchorConfig(Section):
    """``weight`` times a distance from the start model (``trainer.anchor_terms``)."""

    weight: float = Field(default=0.0, ge=0)
    """Weight of the distance, which is in nats per token; 0: none."""
    kind: Literal["kl", "nll"] = "kl"
    """``kl``: the k3 estimate of KL(policy, start model) on the candidates; ``nll``: by how much the teacher-best
    candidate has become less likely than under the start model, where it has."""


class LeafAuxiliary(Section):
    """LEAF's embedding match beside the ranking loss, which alone gives the order. Directions are compared: both
    vectors have length 1."""

    teacher: str = Field(min_length=1)
    """The big encoder: a sentence-transformers directory or hub id."""
    weight: float = Field(default=1.0, gt=0)
    """Weight of the match beside the ranking loss."""
    power: Literal[1, 2] = 2
    """Power of the distance of two vectors."""


class ListsConfig(Section):
    """Ranked lists that exist, which ``cyclealign train`` learns from instead of sampling its own; it sets
    ``source``."""

    source: str = Field(min_length=1)
    """The ranked lists: file, glob, hub id or run directory."""
    verdicts: Path | None = None
    """Verdicts of ``cyclealign rank`` on the candidate sets in ``source``; all of them are held in memory."""
    split: str = "train"
    """Split of a hub dataset."""
    limit: int | None = Field(default=None, ge=1)
    """So many lists are read; null: all."""
    held_out: float = Field(default=0.05, ge=0, lt=1)
    """Share of the prompts, drawn by their text, whose lists only measure."""
    max_reply_tokens: int | None = Field(default=None, ge=1)
    """Longer replies are cut; null: by what the context leaves beside ``policy.max_prompt_tokens``."""
    checkpoint_steps: int = Field(default=500, ge=1)
    """A resume goes on from the training's state, which is saved every so many optimiser steps."""


class WarmStart(Section):
    """What the policy learns before the first interaction."""

    sft: str | None = None
    """Data with chosen replies, to fine-tune on."""
    lists: str | None = None
    """Ranked lists, as ``cyclealign train`` takes them, to learn by the run's own loss."""

    @model_validator(mode="after")
    def _one(self) -> WarmStart:
        if (self.sft is None) == (self.lists is None):
            raise ValueError("expected one of sft (data with chosen replies) and lists (ranked lists)")
        return self


class CycleConfig(Section):
    """The loop."""

    batch_size: int = Field(default=256, ge=1)
    """Prompts of one interaction; further ones make batches, one after the other."""
    max_interactions: int = Field(default=5, ge=1)
    """Most interactions of a batch, each of which samples, ranks and trains once."""
    target: Literal["black_box", "agreement"] = "black_box"
    """Whose order is trained on: the black box's, or the agreement of both rankings."""
    warm_start: WarmStart | None = None
    """What the policy learns before the first interaction; null: nothing."""
    eval_every: int = Field(default=1, ge=0)
    """Interactions from one evaluation on the held-out prompts to the next; the last one is measured too; 0: none."""
    scorer: str | None = None
    """Short form of ``cycle.witness``: the name of its scorer alone; null: no witness."""
    witness: WitnessConfig | None = None
    """Who says whether the policy gets better, and takes no part in its training; null: nobody."""

    @property
    def watched_by(self) -> WitnessConfig | None:
        """The witness, in whichever form it is named."""
        return WitnessConfig(scorer=self.scorer) if self.scorer is not None else self.witness

    @property
    def watched_key(self) -> str:
        """The key that names it."""
        return "cycle.scorer" if self.scorer is not None else "cycle.witness.scorer"

    @field_validator("scorer")
    @classmethod
    def _watches(cls, value: str | None) -> str | None:
        if value is not None:
            named_kind(value, flag="cycle.scorer", need="witness")
        return value

    @model_validator(mode="after")
    def _one_witness(self) -> CycleConfig:
        if self.scorer is not None and self.witness is not None:
            raise ValueError("scorer: the short form of cycle.witness, which is set too; remove one of them")
        return self


class DriftConfig(Section):
    """Limits against the start model; crossing one ends the run."""

    max_nll_rise: float | None = Field(default=None, gt=0)
    """Largest rise of the NLL of the policy's replies under the start model, as a share of its first value; null: no
    limit."""
    max_length_ratio: float | None = Field(default=None, gt=1)
    """Largest factor by which the mean reply may be longer or shorter than the start model's; null: no limit."""
    min_distinct2: float | None = Field(default=None, gt=0, le=1)
    """Least distinct-2 of the replies, as a share of the start model's; null: no limit."""
    keep: Keep = "auto"
    """Which interaction is the product: the ``best`` of those within the limits by the witness (with it a run also ends
    where the witness falls while the ranker is ever better pleased), the latest one ``within_limits``, the ``last``;
    ``auto``: best with a witness, else within_limits."""


class Config(Section):
    """One run."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the run and of its directory: letters, digits, ``.``, ``_``, ``-``."""
    seed: int = Field(default=42, ge=0, lt=2**32)
    """Of sampling, presentation orders, shuffling and new weights."""
    output_dir: Path = Path("runs")
    """Where run directories lie."""
    data: DataConfig
    """Where the prompts come from."""
    policy: PolicyConfig = PolicyConfig()
    """The model that learns."""
    generator: GeneratorConfig = GeneratorConfig()
    """Who samples the candidates, and how."""
    black_box: BlackBoxConfig
    """Who judges."""
    demonstrations: DemonstrationsConfig = DemonstrationsConfig()
    """The ranked lists that the judge is shown before the one it ranks."""
    loss: PolicyLoss = RRHF()
    """The ranking loss, by its ``name`` and its own keys."""
    anchor: AnchorConfig = AnchorConfig()
    """What holds the policy near the start model."""
    leaf: LeafAuxiliary | None = None
    """LEAF's embedding match beside the ranking loss; null: none."""
    training: OwnKeys = Field(default_factory=dict)
    """transformers' TrainingArguments by their own names; what the run sets itself is refused."""
    layout: Literal["auto", "cached_prefix", "padded"] = "auto"
    """How lists are laid out for training: ``cached_prefix`` reads each prompt once, ``padded`` once a candidate;
    ``auto``: the first where the model allows it."""
    responses_per_pass: int | None = Field(default=None, ge=1)
    """Responses whose activations training holds at once: long lists then take the memory of short ones, for about a
    third more time, as each pass is computed again for its gradients; null: all of a batch."""
    cycle: CycleConfig = CycleConfig()
    """The loop."""
    drift: DriftConfig = DriftConfig()
    """Limits against the start model."""
    lists: ListsConfig | None = None
    """Of ``cyclealign train``: the ranked lists that exist."""

    @property
    def run_dir(self) -> Path:
        return self.output_dir / self.name

    @property
    def kept_by(self) -> KeepRule:
        """The rule by which an interaction is kept."""
        return keep_rule(self.drift.keep, self._watched_by)

    @property
    def kept_by_text(self) -> str:
        """The same, for people."""
        return keep_text(self.drift.keep, self._watched_by)

    @property
    def _watched_by(self) -> str | None:
        witness = self.cycle.watched_by
        return None if witness is None else witness.scorer

    @property
    def list_size(self) -> int:
        """Most candidates of a list: those that are sampled, and the black box's own reply."""
        return self.generator.candidates + bool(self.black_box.answers)

    @model_validator(mode="after")
    def _witness_can_be_believed(self) -> Config:
        witness = self.cycle.watched_by
        if witness is None:
            if self.drift.keep == "best":
                raise ValueError(
                    "drift.keep: best is what a witness scores highest, and there is none; name one (cycle.scorer, or"
                    " cycle.witness), or keep within_limits or last"
                )
        elif not witness.allow_same and witness.is_of(self.black_box):
            raise ValueError(
                f"{self.cycle.watched_key}: {witness.scorer} is the run's own judge: a gain by it shows only that the"
                f" policy pleases it; name another, or set cycle.witness={{scorer: {witness.scorer}, allow_same: true}}"
            )
        return self

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
