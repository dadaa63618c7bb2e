"""What tokens cost: by kind, by the user's own price, by a list."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from genai_prices import calc_price
from genai_prices.types import Usage as Listed

from cyclealign.config.black_box import BlackBoxConfig, Price
from cyclealign.judge.costs import most_usd, usage_usd
from cyclealign.judge.ledger import Ledger
from cyclealign.judge.money import Money
from cyclealign.judge.prices import dearest, in_batch, price_of, tariff_of
from cyclealign.judge.usage import Usage
from cyclealign.types import UserError


def box(**more: Any) -> BlackBoxConfig:
    return BlackBoxConfig(**{"model": "gpt-5-mini", "price": "auto"} | more)


def test_each_kind_of_token_has_its_price() -> None:
    used = Usage(1000, 500, cached=600, written=100, thinking=400)
    own = Price(input=10, output=20, cached_input=1, cache_write=12, thinking=40)
    assert usage_usd(own, used) == pytest.approx((300 * 10 + 600 * 1 + 100 * 12 + 100 * 20 + 400 * 40) / 1e6, abs=1e-15)
    assert usage_usd(Price(input=10, output=20), used) == pytest.approx((1000 * 10 + 500 * 20) / 1e6, abs=1e-15)
    assert usage_usd(None, used) == 0.0
    assert dearest(own) == Price(input=12, output=40)
    half = in_batch(own)
    assert usage_usd(half, used) == pytest.approx(usage_usd(own, used) / 2, rel=1e-12)
    assert in_batch(half) == half
    assert usage_usd(in_batch(own.model_copy(update={"batch": 0.2})), used) == pytest.approx(usage_usd(own, used) / 5)


@pytest.mark.parametrize(
    ("url", "model"),
    [
        (None, "gpt-5-mini"),
        ("https://api.anthropic.com/v1/", "claude-sonnet-4-5"),
        ("https://generativelanguage.googleapis.com/v1beta/openai/", "gemini-2.5-pro"),
        ("https://openrouter.ai/api/v1", "openai/gpt-5-mini"),
        ("https://api.groq.com/openai/v1", "openai/gpt-oss-20b"),
        ("https://api.x.ai/v1", "grok-4"),
    ],
)
@pytest.mark.parametrize("given", [10_000, 200_000, 200_001, 300_000])
def test_the_list_is_read_as_its_own_package_reads_it(url: str | None, model: str, given: int) -> None:
    price = price_of(box(base_url=url, model=model), given)
    used = Usage(given, 2000, cached=given // 2)
    theirs = calc_price(
        Listed(input_tokens=given, output_tokens=2000, cache_read_tokens=given // 2),
        model,
        provider_api_url=url or "https://api.openai.com/v1",
    )
    assert usage_usd(price, used) == pytest.approx(float(theirs.total_price), abs=1e-12)


def test_the_price_and_its_list_are_on_record_and_the_users_own_comes_first(tmp_path: Path) -> None:
    version = metadata.version("genai-prices")
    with Ledger(tmp_path / "l.sqlite") as ledger:
        Money(box(price={"input": 1, "output": 2}), ledger, "e m")
        assert ledger.fact("price: e m") is None
        Money(box(), ledger, "e m")
        known = ledger.fact("price: e m") or ""
    assert f'"source": "genai-prices {version}"' in known
    assert '"input": 0.25' in known
    assert tariff_of(box(price={"input": 1, "output": 2})).of(10**6) == Price(input=1, output=2)  # type: ignore[union-attr]
    assert tariff_of(box(price=None)) is None


def test_a_proxy_has_the_prices_of_the_provider_that_it_is_said_to_be() -> None:
    found = price_of(box(base_url="http://127.0.0.1:9/v1", provider="openai"))
    assert found is not None
    assert found.input == 0.25


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": "nobodys"}, "model 'nobodys' at api.openai.com in genai-prices"),
        ({"base_url": "http://127.0.0.1:11434/v1"}, "or leave it out for a server of your own"),
        ({"base_url": "https://api.groq.com/openai/v1", "model": "whisper-large-v3"}, "no price of model"),
    ],
)
def test_what_the_list_does_not_know_is_refused_with_the_keys_to_set(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as error:
        tariff_of(box(**changes))
    assert said in str(error.value)
    assert "black_box.price.input and black_box.price.output (USD per million tokens)" in str(error.value)


def test_a_dry_run_counts_the_dearest_kind_and_step() -> None:
    dear = box(base_url="https://generativelanguage.googleapis.com/v1beta/openai/", model="gemini-2.5-pro")
    assert most_usd(dear, 1, 300_000, 1000) == pytest.approx((300_000 * 2.5 + 1000 * 15) / 1e6)
    assert most_usd(dear, 3, 300_000, 1000) == pytest.approx((300_000 * 1.25 + 1000 * 10) / 1e6)
    assert most_usd(box(price=None), 1, 10, 10) is None
