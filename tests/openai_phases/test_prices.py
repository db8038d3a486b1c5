"""Prices as listed, by model id and way of asking; nothing is guessed; mistakes of a file have lines."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from trainables.openai_phases.prices import SHIPPED, By, Prices, prices_of, read_prices
from trainables.openai_phases.profile import ProfileSpec
from tune.core.errors import UserError

TUNED = "ft:gpt-4o-2024-08-06:org:phase-1-resolution-400:AbCd1234"


def prices() -> Prices:
    return prices_of(ProfileSpec())


def refusal(text: str, folder: Path) -> str:
    path = folder / "prices.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        read_prices(path)
    return str(caught.value).replace(str(path), "prices.yaml")


@pytest.mark.parametrize(
    ("model", "by", "listed"),
    [
        ("gpt-4o-2024-08-06", "chat", ("2.5", "1.25", "10")),
        ("gpt-4o", "chat", ("2.5", "1.25", "10")),
        ("gpt-4o-2024-08-06", "batch", ("1.25", None, "5")),
        (TUNED, "chat", ("3.75", "1.875", "15")),
        (TUNED, "batch", ("2.225", "0.9", "12.5")),
        ("ft:gpt-4.1-2025-04-14:org::abc", "chat", ("3", "0.75", "12")),
        ("ft:gpt-4.1-2025-04-14:org::abc", "batch", ("1.5", "0.5", "6")),
    ],
)
def test_tokens_cost_what_is_listed_to_the_digit(model: str, by: By, listed: tuple[str, str | None, str]) -> None:
    found = prices().tokens(model, by)
    assert (found.input, found.cached_input, found.output) == tuple(None if text is None else Decimal(text) for text in listed)


def test_the_price_by_batch_of_a_tuned_model_is_listed_and_not_half() -> None:
    chat, batch = (prices().tokens(TUNED, by).input for by in ("chat", "batch"))
    assert batch * 2 != chat


def test_a_model_that_is_yet_to_be_tuned_has_the_tuned_price() -> None:
    assert prices().tokens("gpt-4o-2024-08-06", "chat", tuned=True) == prices().tokens(TUNED, "chat")


def test_training_is_priced_by_the_base_of_a_tuned_model() -> None:
    assert prices().training(TUNED) == prices().training("gpt-4o-2024-08-06") == 25


def test_a_price_that_is_not_listed_is_asked_for_by_name() -> None:
    with pytest.raises(UserError) as caught:
        prices().tokens("gpt-4.1-2025-04-14", "batch")
    assert "tables.openai.models.gpt-4.1-2025-04-14.base_batch\n    got: null: not listed\n    fix: fill it in" in str(caught.value)
    with pytest.raises(UserError, match=r"no prices of gpt-4u.*did you mean 'gpt-4o'"):
        prices().training("gpt-4u")


def test_a_table_that_is_not_there_is_named_with_those_that_are() -> None:
    with pytest.raises(UserError, match="name one of openai, azure_foundry"):
        prices_of(ProfileSpec(prices="opnai"))


def test_every_shipped_table_has_a_source_and_a_date() -> None:
    file = read_prices(SHIPPED)
    assert all(part.source and part.read_on for part in (*file.tables.values(), *file.devices.values()))
    assert file.tables["azure_foundry"].hosting_usd_per_hour == Decimal("1.7")


def test_the_paper_s_device_costs_what_its_seconds_did() -> None:
    assert read_prices(SHIPPED).devices["roumeliotis2025_colab"].usd_per_hour / 3600 == Decimal("0.000281392488")


def test_mistakes_of_a_file_come_at_once_with_their_lines(tmp_path: Path) -> None:
    text = SHIPPED.read_text()
    first = text.splitlines().index("        training: 25") + 1
    said = refusal(text.replace("training: 25", "training: free", 1).replace("read_on: 2026-11", "read_on: lately", 1), tmp_path)
    assert f"prices.yaml:{first}: tables.openai.models.gpt-4o-2024-08-06.training" in said
    assert "tables.openai.read_on" in said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("tables: [", "prices.yaml:1"),
        ("tables: {}\nextra: 1\n", "prices.yaml:2: extra"),
        ("3", "prices.yaml:1"),
        ("", "prices.yaml:1"),
        ("tables: {t: {read_on: 2026-11, source: s, hosting_usd_per_hour: .nan, models: {}}}", "hosting_usd_per_hour"),
        ("tables: {t: {read_on: 2026-11, source: s, hosting_usd_per_hour: -1, models: {}}}", "greater than or equal to 0"),
        ("a: 1\na: 2\n", "prices.yaml:"),
    ],
)
def test_a_file_that_is_no_price_file_is_refused(tmp_path: Path, text: str, said: str) -> None:
    assert said in refusal(text, tmp_path)


def test_a_file_that_is_not_there_is_a_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        prices_of(ProfileSpec(price_file=str(tmp_path / "none.yaml")))


@pytest.mark.parametrize("model", ["gpt-4o-2024-08-06", "gpt-4.1-2025-04-14"])
def test_foundry_s_prices_of_tokens_are_one_s_own_to_fill_in(model: str) -> None:
    with pytest.raises(UserError) as caught:
        prices_of(ProfileSpec(prices="azure_foundry")).training(model)
    assert f"tables.azure_foundry.models.{model}.training\n    got: null\n    fix: fill in the price of training" in str(caught.value)
