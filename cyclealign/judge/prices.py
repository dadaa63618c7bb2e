"""What tokens cost: the user's own price, or that of a list of public prices that is installed beside us."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from typing import TYPE_CHECKING

from cyclealign.config.black_box import BlackBoxConfig, Price
from cyclealign.config.endpoints import OPENAI_URL, host_of
from cyclealign.judge.providers import profile_of
from cyclealign.types import UserError

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, ModelPrice

LIST = "genai-prices"
OWN = "the config"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tariff:
    """steps: from how many input tokens of a call on which price holds for all of its tokens, rising from 0. source:
    who says so, with its version."""

    steps: tuple[tuple[int, Price], ...]
    source: str

    def of(self, input_tokens: float) -> Price:
        """The price of a call with so many input tokens."""
        return [price for start, price in self.steps if input_tokens >= start][-1]

    @property
    def listed(self) -> bool:
        """Whether it is a public price, which a server's own account of a call comes before."""
        return self.source != OWN


def tariff_of(config: BlackBoxConfig) -> Tariff | None:
    """What calls of a judge cost; None where no price is given. UserError where ``auto`` finds none."""
    if config.price is None:
        return None
    if isinstance(config.price, Price):
        return Tariff(steps=((0, config.price),), source=OWN)
    source = f"{LIST} {metadata.version(LIST)}"
    try:
        return Tariff(steps=_steps(_model(config)), source=source)
    except LookupError as error:
        own = "" if profile_of(config).prices else ", or leave it out for a server of your own"
        raise UserError(
            f"black_box.price: auto finds no price of model {config.model!r} at {host_of(config.base_url)} in"
            f" {source}; set black_box.price.input and black_box.price.output (USD per million tokens){own}"
        ) from error


def price_of(config: BlackBoxConfig, input_tokens: float = 0) -> Price | None:
    """The price of a call with so many input tokens; None where no price is given. UserError as ``tariff_of``."""
    tariff = tariff_of(config)
    if tariff is None:
        return None
    return in_batch(tariff.of(input_tokens)) if config.batch else tariff.of(input_tokens)


def in_batch(price: Price) -> Price:
    """What tokens cost in a batch."""
    each = {name: value * price.batch for name, value in price.model_dump(exclude_none=True, exclude={"batch"}).items()}
    return Price(**each, batch=1.0)


def dearest(price: Price) -> Price:
    """The same with all input, and all output, at the dearest of its kinds."""
    inputs = (price.input, price.cached_input, price.cache_write)
    outputs = (price.output, price.thinking)
    return Price(input=max(p for p in inputs if p is not None), output=max(p for p in outputs if p is not None))


def _model(config: BlackBoxConfig) -> ModelInfo:
    """LookupError where the list knows no such provider or model."""
    from genai_prices.data_snapshot import get_snapshot

    provider = profile_of(config).prices or None
    url = None if provider else config.base_url or OPENAI_URL
    return get_snapshot().find_provider_model(config.model or "", None, provider, url)[1]


def _steps(model: ModelInfo) -> tuple[tuple[int, Price], ...]:
    """Where the price depends on the time of day, the dearest of today's: a budget must hold at any hour."""
    now = datetime.now(tz=UTC)
    today = [model.get_prices(now.replace(hour=hour)) for hour in range(24)]
    listed = max(today, key=lambda p: (_at(p, "output_mtok", 0) or 0.0, _at(p, "input_mtok", 0) or 0.0))
    starts = {0}
    for value in vars(listed).values():
        starts |= {tier.start + 1 for tier in getattr(value, "tiers", ())}
    return tuple((start, _price(listed, start)) for start in sorted(starts))


def _price(listed: ModelPrice, tokens: int) -> Price:
    given, made = _at(listed, "input_mtok", tokens), _at(listed, "output_mtok", tokens)
    if given is None or made is None:
        raise LookupError("no price of its tokens")
    return Price(
        input=given,
        output=made,
        cached_input=_at(listed, "cache_read_mtok", tokens),
        cache_write=_at(listed, "cache_write_mtok", tokens),
        thinking=_at(listed, "output_reasoning_mtok", tokens),
    )


def _at(listed: ModelPrice, name: str, tokens: int) -> float | None:
    """One of its prices for a call with so many input tokens."""
    value = vars(listed).get(name)
    found = getattr(value, "base", value)
    for tier in getattr(value, "tiers", ()):
        found = tier.price if tokens > tier.start else found
    return None if found is None else float(found)
