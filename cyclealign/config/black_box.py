"""The section ``black_box``: who is asked, how, at what price, and within which limits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from cyclealign.config.endpoints import OPENAI_URL, check_url, named_like_a_key
from cyclealign.config.ranker_kinds import KINDS, code_place
from cyclealign.config.section import Section

# Set by the black-box ranker for each call.
OWNED_REQUEST_KEYS = ("model", "messages", "response_format", "stream", "n")
Provider = Literal[
    "auto", "openai", "azure", "anthropic", "gemini", "mistral", "deepseek", "openrouter", "groq", "together", "ollama",
    "llama_cpp", "lm_studio", "vllm", "sglang", "other",
]  # fmt: skip
Reasoning = Literal["off", "minimal", "low", "medium", "high"]
Answer = Literal["ranking", "scores", "first_token"]
# By which providers are told how much to think; ``black_box.reasoning`` says it for all of them.
REASONING_REQUEST_KEYS = (
    "reasoning",
    "reasoning_effort",
    "thinking",
    "thinking_budget",
    "enable_thinking",
    "chat_template_kwargs",
    "prompt_mode",
)


class Price(Section):
    """USD per million tokens. What has no price of its own costs as all input, or all output, does."""

    input: float = Field(ge=0)
    """Input tokens."""
    output: float = Field(ge=0)
    """Output tokens."""
    cached_input: float | None = Field(default=None, ge=0)
    """Input tokens that a provider's cache served."""
    cache_write: float | None = Field(default=None, ge=0)
    """Input tokens that a provider's cache took in."""
    thinking: float | None = Field(default=None, ge=0)
    """Output tokens that were thought."""
    batch: float = Field(default=0.5, ge=0, le=1)
    """What each costs in a batch, times its price."""


class JudgeConfig(Section):
    """One judge of several: what it does not say itself is as in ``black_box``."""

    model: str = Field(min_length=1)
    """The name that its API knows."""
    base_url: str | None = None
    """Address of its API."""
    api_key_env: str | None = None
    """Environment variable that holds its key."""
    provider: Provider | None = None
    """Whose manners the first request takes."""
    price: Price | Literal["auto"] | None = None
    """USD per million tokens, or ``auto``."""

    @field_validator("api_key_env")
    @classmethod
    def _named_like_a_key(cls, value: str | None) -> str | None:
        return value if value is None else named_like_a_key(value)

    @field_validator("base_url")
    @classmethod
    def _is_url(cls, value: str | None) -> str | None:
        if value is not None:
            check_url("", value)
        return value


class FirstJudge(JudgeConfig):
    """The cheap judge of a cascade."""

    passes: int = Field(default=2, ge=2)
    """Orders that it is shown each list in; how far its answers agree with each other is how sure it is."""


class CascadeConfig(Section):
    """A cheap ranker decides what the judge is asked."""

    judge: Literal["openai", "replay"] = "openai"
    """Who is asked, by the other keys of ``black_box``."""
    first: Literal["local"] | FirstJudge = "local"
    """The cheap one; ``local``: distilled from the judge's rankings so far."""
    keep: int | None = Field(default=None, ge=2)
    """Candidates that the judge ranks; null: all."""
    min_agreement: float | None = Field(default=None, gt=0.5, lt=1)
    """The first answers alone where it is so sure that, with error at most ``alpha``, this share of pairs is ordered as
    by the judge; null: never."""
    alpha: float = Field(default=0.1, gt=0, lt=0.5)
    """Error that the promise of ``min_agreement`` allows."""
    calibration: int = Field(default=200, ge=50)
    """Lists that both rank to find out from where on the promise holds."""
    audit: float = Field(default=0.1, gt=0, le=1)
    """Share of lists that are sent whole all the same."""
    warm_up: int = Field(default=100, ge=10)
    """Lists that the judge has ranked before the local ranker prunes."""

    @model_validator(mode="after")
    def _spares_something(self) -> CascadeConfig:
        if self.keep is None and self.min_agreement is None:
            raise ValueError(
                "keep: without it and without min_agreement nothing is spared; set keep (e.g. 2: the judge orders the"
                " two best) or min_agreement (e.g. 0.9: lists that the first is sure of are not sent)"
            )
        return self


class BlackBoxConfig(Section):
    """Who is asked, how, at what price, and within which limits."""

    backend: str = "openai"
    """A kind of ranker by its name in the table of rankers."""
    model: str | None = None
    """The name that the API knows (backend ``openai``)."""
    base_url: str | None = None
    """Address of the API; null: OpenAI's."""
    judges: tuple[JudgeConfig, ...] = ()
    """Several judges in place of ``model`` and ``base_url``: pass i goes to judge i mod n."""
    quorum: int | None = Field(default=None, ge=1)
    """So many judges must have answered for a list to be ranked; null: all."""
    provider: Provider = "auto"
    """Whose manners the first request takes; ``auto``: by the host's name or a server's usual port."""
    reasoning: Reasoning | None = None
    """How much the model may think, said as the provider wants it; null: as the model does."""
    api_key_env: str = "OPENAI_API_KEY"
    """Environment variable that holds the key; its name ends in ``_API_KEY``."""
    template: str = "rank"
    """The ranking template: a packaged name or a path."""
    answer: Answer = "ranking"
    """What is asked for: ``ranking``, an order; ``scores``, a whole number from 1 to 10 for each response;
    ``first_token``, an order of which only the probabilities of its first letter are read."""
    form: Literal["auto", "schema", "text"] = "auto"
    """How the answer is asked for; ``schema`` is refused where the server does not hold its answers to one."""
    ties: bool = False
    """The order may tie responses."""
    explain: bool = False
    """The judge may write why, before its verdict."""
    rubric: str | None = Field(default=None, min_length=1)
    """What to judge by, for all prompts."""
    scale: float | None = Field(default=None, gt=0)
    """By what scores, centred on their list, are divided to be utilities; null: of a judge by the spread of the run's
    own, of any other ranker's they are utilities as they come."""
    passes: int = Field(default_factory=lambda given: max(len(given.get("judges", ())), 1), ge=1)
    """Orders that each list is shown in; by default 1, of several judges one each."""
    max_concurrency: int = Field(default=64, ge=1)
    """Most calls under way at once."""
    requests_per_minute: int | None = Field(default=None, ge=1)
    """Most calls begun in a minute; null: no limit."""
    tokens_per_minute: int | None = Field(default=None, ge=1)
    """Most tokens sent and asked for in a minute; null: no limit."""
    price: Price | Literal["auto"] | None = None
    """USD per million tokens; ``auto``: by the list of prices that is installed; null: money is not counted."""
    budget_usd: float | None = Field(default=None, ge=0)
    """The run never spends more; null: no limit."""
    timeout_s: float | None = Field(default=None, gt=0)
    """Seconds that one attempt may take; null: by the limit of the answer."""
    attempts: int = Field(default=8, ge=1, le=100)
    """Most attempts of a request."""
    outage_minutes: float = Field(default=10, gt=0)
    """A judge that answers no call for so long ends the run, with all that was ranked."""
    max_unranked: float = Field(default=0.2, ge=0, le=1)
    """A run stops where a larger share of a batch has no verdict."""
    repeat: float | None = Field(default=None, ge=0, le=1)
    """Share of the lists after a run's first 32 that are also shown in reverse; null: 0.05 at one pass, else 0."""
    min_consistency: float | None = Field(default=0.0, ge=-1, lt=1)
    """A run stops at 32 lists where the mean tau of an order and its reverse is surely below 0, and at 128 unless it is
    surely above this; null: never."""
    batch: bool = False
    """Calls are collected and go out by the provider's batch API, which answers within a day at ``price.batch`` of the
    price."""
    plain_http: bool = False
    """The key may go to another machine over http, which all on the way can read."""
    path: Path | None = None
    """What follows the name of a kind in the table of rankers: a directory, a file, a hub id or
    ``FILE.py:FUNCTION``."""
    request: dict[str, Any] = Field(default_factory=dict)
    """Options of the provider, sent verbatim with each call."""
    cascade: CascadeConfig | None = None
    """A cheap ranker first (backend ``cascade``); with ``path`` instead, what another run's cascade has learnt."""
    answers: bool | str = False
    """The black box's own reply to a prompt joins the candidates: true asks for it, a name is a column of the data."""

    @property
    def answer_column(self) -> str | None:
        """The column of the data that ``answers`` names."""
        return self.answers if isinstance(self.answers, str) else None

    @property
    def judge(self) -> str:
        """The back end that is asked: a cascade's own judge, else ``backend``."""
        return self.cascade.judge if self.backend == "cascade" and self.cascade else self.backend

    @property
    def members(self) -> tuple[BlackBoxConfig, ...]:
        """A section for each judge, with its share of the passes and nothing before it; for a lone judge this one."""
        n = len(self.judges)
        if n:
            return tuple(self._of(j, len(range(i, self.passes, n))) for i, j in enumerate(self.judges))
        return (self,) if self.cascade is None else (self.model_copy(update={"backend": self.judge, "cascade": None}),)

    @property
    def first(self) -> BlackBoxConfig | None:
        """The section of a cascade's first judge; None where there is none, or it is local."""
        first = self.cascade.first if self.cascade is not None else "local"
        return None if first == "local" else self._of(first, first.passes)

    @property
    def everyone(self) -> tuple[BlackBoxConfig, ...]:
        """A section for each judge behind an API who may be paid: those that are asked, and a cascade's first."""
        asked = self.members if self.judge == "openai" else ()
        return asked if self.first is None else (*asked, self.first)

    @property
    def judge_name(self) -> str:
        """Whom it asks, for people."""
        return ", ".join(j.model for j in self.judges) or str(self.model or self.path or self.backend)

    def _of(self, judge: JudgeConfig, passes: int) -> BlackBoxConfig:
        own = {name: getattr(judge, name) for name in ("api_key_env", "provider", "price")}
        given = {name: value for name, value in own.items() if value is not None}
        alone = {"backend": "openai", "cascade": None, "path": None, "judges": (), "quorum": None, "passes": passes}
        return self.model_copy(update={"model": judge.model, "base_url": judge.base_url} | given | alone)

    @property
    def repeated(self) -> float:
        """``repeat``, or what stands for it."""
        return self.repeat if self.repeat is not None else 0.05 if self.passes <= max(len(self.judges), 1) else 0.0

    @property
    def gives(self) -> Literal["order", "magnitude", "votes"] | None:
        """What its rankings carry; None where only the recording, or the user's own function, tells."""
        if self.cascade is not None:
            return "order"
        if self.backend in ("replay", "python"):
            return None
        if self.backend == "openai" and self.answer == "ranking":
            n = max(len(self.judges), 1)
            return "order" if (self.quorum or n) * (self.passes // n) < 2 else "votes"
        return "magnitude"

    @field_validator("backend")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in KINDS:
            known = ", ".join(map(repr, KINDS))
            raise PydanticCustomError("literal_error", "Input should be {expected}", {"expected": known})
        return value

    @field_validator("api_key_env")
    @classmethod
    def _named_like_a_key(cls, value: str) -> str:
        return named_like_a_key(value)

    @model_validator(mode="after")
    def _complete(self) -> BlackBoxConfig:
        learns = self.backend == "cascade" and self.path is None
        if (self.cascade is None and learns) or (self.cascade is not None and self.backend != "cascade"):
            raise ValueError("cascade: needed for backend cascade and for no other, e.g. {keep: 2}")
        place = KINDS[self.judge].place
        if place == "MODEL" and not self.model and not self.judges:
            raise ValueError("model: needed for backend openai (the name that the API knows)")
        if place not in ("", "MODEL") and self.path is None:
            raise ValueError(f"path: needed for backend {self.judge}")
        if self.judge == "python" and code_place(str(self.path)) is None:
            raise ValueError(f"path: expected FILE.py:FUNCTION for backend python, got {str(self.path)!r}")
        self._check_judges()
        if self.budget_usd is not None and any(judge.price is None for judge in self.everyone or (self,)):
            raise ValueError(
                "price: needed with budget_usd, e.g. {input: 0.15, output: 0.6} (USD per million tokens), or auto"
            )
        self._check_answer()
        if self.answers is True and self.judge != "openai":
            raise ValueError(f"answers: backend {self.judge} writes no replies; name the column of the data with them")
        if self.answers == "":
            raise ValueError("answers: expected true, false or the name of a column, got an empty one")
        if self.base_url is not None:
            check_url("base_url", self.base_url)
        for key in self.request:
            _check_request_key(key)
            if self.reasoning is not None and key in REASONING_REQUEST_KEYS:
                raise ValueError(f"request.{key}: black_box.reasoning={self.reasoning} says it too; remove one of them")
        return self

    def _check_answer(self) -> None:
        """ValueError for what cannot be asked for together."""
        if self.answer != "ranking" and self.ties:
            raise ValueError(f"ties: said in a ranking alone; with answer: {self.answer} remove it")
        if self.answer != "first_token":
            return
        if self.explain or self.form == "schema":
            key = "explain: true" if self.explain else "form: schema"
            raise ValueError(f"answer: first_token reads the first token of an answer, and {key} puts another there")
        if self.reasoning not in (None, "off"):
            raise ValueError("answer: first_token reads the first token of an answer; set reasoning: off, or null")

    def _check_judges(self) -> None:
        n = len(self.judges)
        asked = [(j.base_url, j.model) for j in self.judges] or [(self.base_url, self.model or "")]
        if self.first is not None and _is_one_of((self.first.base_url, self.first.model or ""), asked):
            raise ValueError("cascade.first: the judge itself; name a cheaper one, or remove it")
        if self.cascade is not None and self.cascade.first != "local" and self.judge != "openai":
            raise ValueError(f"cascade.first: a judge stands before one of backend openai, got {self.judge}")
        if self.quorum is not None and self.quorum > n:
            raise ValueError(f"quorum: expected at most as many as judges ({n}), got {self.quorum}")
        if n == 0:
            return
        if self.judge != "openai":
            raise ValueError(f"judges: of backend openai, got {self.judge}")
        if self.model is not None or self.base_url is not None:
            raise ValueError("judges: in place of model and base_url; name all judges there, and remove those two")
        if n == 1:
            raise ValueError("judges: expected two or more; one judge is black_box.model and black_box.base_url")
        if any(_is_one_of(one, asked[:place]) for place, one in enumerate(asked)):
            raise ValueError("judges: one model at one endpoint stands there twice; give it more passes instead")
        if self.passes < n:
            raise ValueError(f"passes: expected at least one for each of the {n} judges, got {self.passes}")
        if self.answer != "ranking":
            raise ValueError(f"judges: several judges vote with rankings; with answer: {self.answer} name one model")
        if self.batch:
            raise ValueError("batch: of one judge; with several remove it, or name one model")
        if self.answers is True:
            raise ValueError("answers: of several judges none is the one that writes; name the column with its replies")


def _is_one_of(one: tuple[str | None, str], others: Sequence[tuple[str | None, str]]) -> bool:
    """Whether an address and a model are those of another judge, however the address is written."""
    url, *urls = ((u or OPENAI_URL).rstrip("/") for u, _ in (one, *others))
    return (url, one[1]) in zip(urls, (model for _, model in others), strict=True)


def _check_request_key(key: str) -> None:
    if key in OWNED_REQUEST_KEYS:
        raise ValueError(f"request.{key}: set by the ranker for each call; remove it")
    if any(word in key.lower() for word in ("api_key", "authorization", "headers", "secret")):
        raise ValueError(f"request.{key}: a secret in it would be written to the run directory; use api_key_env")
