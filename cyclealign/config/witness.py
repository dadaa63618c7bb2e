"""The section ``cycle.witness``: who watches a run and takes no part in its training."""

from __future__ import annotations

import os.path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from cyclealign.config.black_box import BlackBoxConfig, Price
from cyclealign.config.endpoints import check_url, named_like_a_key
from cyclealign.config.ranker_kinds import KINDS, named_kind
from cyclealign.config.section import Section

# What a witness behind an API has of ``black_box``: by which words it judges, how often and how patiently it is called.
SHARED = (
    *("template", "rubric", "max_concurrency", "requests_per_minute", "tokens_per_minute"),
    *("timeout_s", "attempts", "outage_minutes", "plain_http"),
)


class WitnessConfig(Section):
    """Who says whether the policy gets better, and takes no part in its training."""

    scorer: str
    """A kind of ranker that scores single replies, or ``openai:MODEL``: a judge that compares each prompt's first reply
    with the start model's, in both orders."""
    base_url: str | None = None
    """Address of that judge's API; null: OpenAI's."""
    api_key_env: str | None = None
    """Environment variable that holds its key; null: ``OPENAI_API_KEY``."""
    price: Price | Literal["auto"] | None = None
    """USD per million tokens of it; ``auto``: by the list of prices that is installed; null: money is not counted."""
    budget_usd: float | None = Field(default=None, ge=0)
    """Most that it may cost, in USD, apart from the judge's budget; null: no limit."""
    allow_same: bool = False
    """Whether it may be the judge itself, whose taste is what the policy learns."""

    @property
    def judges(self) -> bool:
        """Whether it compares replies, and is paid for it; else it scores each by itself."""
        return not KINDS[self.scorer.partition(":")[0]].scores

    def judge(self, box: BlackBoxConfig) -> BlackBoxConfig | None:
        """The section of a witness behind an API, of a run with this ``black_box``; None of one that scores."""
        if not self.judges:
            return None
        return BlackBoxConfig(
            model=self.scorer.partition(":")[2],
            base_url=self.base_url,
            api_key_env=self.api_key_env or BlackBoxConfig.model_fields["api_key_env"].default,
            price=self.price,
            budget_usd=self.budget_usd,
            passes=2,
            **{name: getattr(box, name) for name in SHARED},
        )

    def is_of(self, box: BlackBoxConfig) -> bool:
        """Whether it is whom the run learns from: a model of its name, whichever host has it; the same path."""
        name, _, place = self.scorer.partition(":")
        if self.judges:
            return _model(place) in {_model(judge.model or "") for judge in box.everyone}
        if not place:
            return name == box.judge
        return box.path is not None and os.path.normpath(place) == os.path.normpath(box.path)

    @field_validator("scorer")
    @classmethod
    def _watches(cls, value: str) -> str:
        named_kind(value, flag="cycle.witness.scorer", need="witness")
        return value

    @field_validator("api_key_env")
    @classmethod
    def _named_like_a_key(cls, value: str | None) -> str | None:
        return value if value is None else named_like_a_key(value)

    @model_validator(mode="after")
    def _complete(self) -> WitnessConfig:
        for name in ("base_url", "api_key_env", "price", "budget_usd"):
            if getattr(self, name) is not None and not self.judges:
                raise ValueError(f"{name}: of a witness openai:MODEL; {self.scorer} calls nobody, remove it")
        if self.base_url is not None:
            check_url("base_url", self.base_url)
        if self.budget_usd is not None and self.price is None:
            raise ValueError(
                "price: needed with budget_usd, e.g. {input: 0.15, output: 0.6} (USD per million tokens), or auto"
            )
        return self


def _model(name: str) -> str:
    """A model's own name, without whose it is: ``openai/gpt-4o`` of a router is ``gpt-4o``."""
    return name.rpartition("/")[2].lower()
