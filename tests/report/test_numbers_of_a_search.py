"""Importances, hypervolume and the words for numbers."""

from __future__ import annotations

import random

import pytest

from tune.adapters.optuna_importance import importances
from tune.core.goal import Goal, Objective
from tune.core.space import Choice, Choose, Float, Int, Space
from tune.report.front import Box, history
from tune.report.wording import number, seconds, with_unit

TWO = Goal((Objective("a", "max"), Objective("s", "min")))


@pytest.mark.parametrize(("n_trials", "method"), [(60, "fANOVA"), (200, "PED-ANOVA")])
def test_the_parameter_that_matters_comes_first(n_trials: int, method: str) -> None:
    space = Space((("x", Float(0.0, 1.0)), ("lr", Float(1e-5, 1e-1, log=True)), ("n", Int(1, 8)), ("c", Choice((1, "b", None)))))
    rng = random.Random(0)
    points = [space.sample(rng) for _ in range(n_trials)]
    [group] = importances(space, [(point, (point["x"] - 0.3) ** 2 + 0.001 * point["n"]) for point in points])
    assert group.method == method
    assert group.shares[0][0] == "x" and group.shares[0][1] > 0.5
    assert sum(share for _, share in group.shares) == pytest.approx(1.0)
    assert not group.too_few


def test_a_branch_is_judged_among_its_own_trials() -> None:
    space = Space(
        (
            ("lr", Float(0.0, 1.0)),
            ("peft", Choose("method", (("lora", (("r", Int(1, 64)), ("alpha", Float(0.0, 1.0)))), ("none", ())))),
        )
    )
    rng = random.Random(1)
    points = [space.sample(rng) for _ in range(60)]
    groups = importances(space, [(point, point["lr"] + point.get("peft.lora.r", 0) / 64) for point in points])
    assert [group.within for group in groups] == ["", "peft.method = lora"]
    assert groups[1].shares[0][0] == "peft.lora.r"


@pytest.mark.parametrize("n_trials", [0, 3])
def test_too_few_trials_have_no_importances(n_trials: int) -> None:
    space = Space((("x", Float(0.0, 1.0)),))
    assert importances(space, [({"x": i / 10}, float(i)) for i in range(n_trials)]) == ()


def test_equal_values_have_no_importances() -> None:
    assert importances(Space((("x", Float(0.0, 1.0)),)), [({"x": i / 10}, 1.0) for i in range(10)]) == ()


def test_hypervolume_is_the_share_of_the_box_that_is_dominated() -> None:
    measured = [(0.0, 1.0), (1.0, 1.0), (0.5, 0.0), (0.0, 0.5)]
    box = Box.of(TWO, measured)
    assert box.share(TWO, [(0.5, 0.0)]) == pytest.approx(0.5)  # half the accuracy at the lowest cost
    assert history(TWO, measured, box) == pytest.approx([0.0, 0.0, 0.5, 0.5])


def test_hypervolume_in_three_dimensions() -> None:
    goal = Goal((Objective("a", "max"), Objective("b", "max"), Objective("c", "min")))
    box = Box((-1.0, -1.0, 0.0), (0.0, 0.0, 1.0))
    assert box.share(goal, [(0.5, 0.5, 0.5)]) == pytest.approx(0.125)
    assert box.share(goal, [(0.5, 0.5, 0.5), (1.0, 0.5, 0.75)]) == pytest.approx(0.125 + 0.5 * 0.5 * 0.25)


def test_an_objective_with_one_value_has_no_volume() -> None:
    assert Box.of(TWO, [(0.5, 1.0), (0.7, 1.0)]).is_flat


@pytest.mark.parametrize(
    ("value", "unit", "said"),
    [
        (0.6, "share", "0.6000"),
        (0.00012345, "", "0.0001234"),
        (1234567.0, "images/s", "1,234,567 images/s"),
        (2.5 * 2**20, "bytes", "2.5 MiB"),
        (1.25, "nats", "1.25 nats"),
        (3.0, "seconds", "3 s"),
        (None, "share", "-"),
    ],
)
def test_numbers_carry_digits_that_mean_something_and_their_unit(value: float | None, unit: str, said: str) -> None:
    assert with_unit(value, unit) == said


def test_durations_and_plain_numbers() -> None:
    assert [seconds(t) for t in (0.0, 0.42, 12.4, 200.0, 7400.0)] == ["0 s", "0.42 s", "12 s", "3 min 20 s", "2 h 03 min"]
    assert number(12345.6) == "12,346"
