"""Passwords in addresses are never written down."""

from __future__ import annotations

import pytest

from tune.core.secrets import has_password, masked


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://me:s3cret@db:5432/mlflow", "postgresql://me:***@db:5432/mlflow"),
        ("--tracking-uri=postgresql+psycopg://me:p@ss@db/x", "--tracking-uri=postgresql+psycopg://me:***@db/x"),
        ("https://user:token@host and http://a:b@c", "https://user:***@host and http://a:***@c"),
    ],
)
def test_the_password_of_an_address_is_masked(text: str, shown: str) -> None:
    assert masked(text) == shown
    assert has_password(text)


@pytest.mark.parametrize("text", ["sqlite:////tmp/mlflow.db", "http://host:5000", "ray://head:10001", "peft.lora.r=8", "user@host"])
def test_an_address_without_a_password_stays_as_it_is(text: str) -> None:
    assert masked(text) == text
    assert not has_password(text)
