"""Which limit ends a study, in words."""

from __future__ import annotations

import pytest

from tune.core.cost import Budget, Used, exceeded

BUDGET = Budget(trials=32, wall_hours=2, gpu_hours=8, usd=20)


@pytest.mark.parametrize(
    ("use", "reason"),
    [
        (Used(), None),
        (Used(wall_s=7199, gpu_seconds=28_799, usd=19.99), None),
        (Used(wall_s=7200), "budget.wall_hours: 2 of 2 hours"),
        (Used(gpu_seconds=30_000), "budget.gpu_hours: 8.33 of 8 GPU-hours"),
        (Used(usd=20.5), "budget.usd: $20.50 of $20.00"),
    ],
)
def test_the_first_limit_that_is_reached_is_named_with_both_figures(use: Used, reason: str | None) -> None:
    assert exceeded(BUDGET, use) == reason


def test_an_absent_limit_is_never_reached() -> None:
    assert exceeded(Budget(trials=1), Used(wall_s=1e12, gpu_seconds=1e12, usd=1e12)) is None
    assert Budget().unlimited and not BUDGET.unlimited
