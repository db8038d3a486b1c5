"""Intervals and tests against values worked out by hand or known from tables."""

from __future__ import annotations

import numpy as np
import pytest

from tune.report import intervals


def test_the_interval_of_three_seeds_is_students_t() -> None:
    found = intervals.of_mean([0.60, 0.62, 0.64])
    assert found is not None
    half = 4.302653 * 0.02 / 3**0.5  # t(0.975, 2) * s / sqrt(3)
    assert (found.low, found.high) == pytest.approx((0.62 - half, 0.62 + half), abs=1e-6)
    assert "3 seeds" in found.how


def test_one_value_has_no_interval() -> None:
    assert intervals.of_mean([0.6]) is None


def test_equal_values_have_an_interval_of_no_width() -> None:
    found = intervals.of_mean([0.5, 0.5, 0.5])
    assert found is not None and (found.low, found.high) == (0.5, 0.5)


def test_wilsons_interval_of_156_of_180() -> None:
    found = intervals.of_share(0.8667, 180)
    assert (found.low, found.high) == pytest.approx((0.8093, 0.9087), abs=1e-4)


def test_the_paired_test_uses_the_seeds_that_both_have() -> None:
    a, b = {0: 0.70, 1: 0.72, 2: 0.71, 9: 0.1}, {0: 0.68, 1: 0.71, 2: 0.68}
    test = intervals.over_seeds(a, b)
    assert test is not None and test.n == 3
    assert test.difference == pytest.approx(0.02)
    assert test.p == pytest.approx(0.0742, abs=1e-3)  # t = 0.02 / (0.01 / sqrt(3)) = 3.46 with 2 degrees of freedom
    assert not test.significant


def test_repeats_without_a_common_seed_are_compared_unpaired() -> None:
    test = intervals.over_seeds({1: 0.70, 2: 0.72, 3: 0.71}, {4: 0.68, 5: 0.69, 6: 0.67})
    assert test is not None and test.how == "Welch's t test over 3 and 3 seeds"
    assert test.p == pytest.approx(0.0213, abs=1e-3)  # t = 0.03 / (0.01 * sqrt(2 / 3)) = 3.67 with 4 degrees of freedom


def test_one_common_seed_gives_no_test() -> None:
    assert intervals.over_seeds({0: 1.0, 1: 2.0}, {1: 1.0, 2: 2.0}) is None


@pytest.mark.parametrize(("shift", "p"), [(0.0, 1.0), (0.01, 0.0)])
def test_differences_without_spread_are_decided_without_a_division_by_zero(shift: float, p: float) -> None:
    a = {0: 0.5 + shift, 1: 0.6 + shift, 2: 0.7 + shift}
    test = intervals.over_seeds(a, {0: 0.5, 1: 0.6, 2: 0.7})
    assert test is not None and test.p == p


def test_mcnemar_looks_only_at_items_on_which_the_two_differ() -> None:
    winner = np.array([True] * 50 + [True] * 9 + [False] * 1 + [False] * 40)
    runner_up = np.array([True] * 50 + [False] * 9 + [True] * 1 + [False] * 40)
    test = intervals.over_items(winner, runner_up, seed=0)
    assert test is not None
    assert test.p == pytest.approx(2 * (1 + 10) / 2**10)  # exact: 9 against 1 of 10
    assert test.difference == pytest.approx(0.08)
    assert test.interval is not None and test.interval.low < 0.08 < test.interval.high


def test_two_that_never_differ_cannot_be_told_apart() -> None:
    right = np.array([True, False, True, True])
    test = intervals.over_items(right, right, seed=0)
    assert test is not None and test.p == 1.0 and test.difference == 0.0
