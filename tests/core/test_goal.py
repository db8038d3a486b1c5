"""Objectives, dominance, limits: what is better, what may win."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tune.core.goal import Goal, Limit, Objective

TWO = Goal((Objective("f1", "max"), Objective("seconds", "min")), (Limit("seconds", max=2.0), Limit("memory", min=1.0)))
vectors = st.lists(st.tuples(st.floats(-5, 5), st.floats(-5, 5)), min_size=1, max_size=30)


def test_the_goal_of_a_resolved_study_is_its_metric_or_its_objectives() -> None:
    assert Goal.of({"metric": {"name": "f1", "mode": "max"}, "objectives": []}) == Goal((Objective("f1", "max"),))
    entries = [{"name": "f1", "mode": "max"}, {"name": "seconds", "mode": "min", "max": 2.0}, {"name": "memory", "mode": None, "min": 1.0}]
    assert Goal.of({"metric": None, "objectives": entries}) == TWO


def test_limits_that_are_kept_or_not_reported_are_no_violation() -> None:
    assert TWO.violations({"f1": 0.1, "seconds": 2.0, "memory": 1.0}) == {}
    assert TWO.violations({"f1": 0.1}) == {}
    assert TWO.violations({"seconds": 3.0, "memory": 0.25}) == {"seconds": 0.5, "memory": 0.75}


@given(vectors)
def test_no_one_behind_in_the_order_dominates_one_before(items: list[tuple[float, float]]) -> None:
    ordered = [items[i] for i in TWO.order(items)]
    assert sorted(ordered) == sorted(items)
    for before, behind in itertools.combinations(ordered, 2):
        assert not TWO.dominates(behind, before)


@given(vectors)
def test_the_knee_is_one_of_the_front(items: list[tuple[float, float]]) -> None:
    assert 0 <= TWO.knee(items) < len(items)


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=30), st.sampled_from(["max", "min"]))
def test_one_objective_orders_as_sorting_does(values: list[float], mode: str) -> None:
    goal = Goal((Objective("m", mode),))  # type: ignore[arg-type]
    expected = sorted(range(len(values)), key=lambda i: -values[i] if mode == "max" else values[i])
    assert goal.order([(v,) for v in values]) == expected


def test_a_value_that_is_missing_makes_no_vector() -> None:
    assert TWO.values({"f1": 0.5}) is None
    assert TWO.values({"f1": 0.5, "seconds": 1.0, "other": 2.0}) == (0.5, 1.0)


@pytest.mark.parametrize("front", [[(1.0, 1.0)], [(1.0, 1.0), (1.0, 1.0)]])
def test_a_front_without_extent_has_a_knee(front: list[tuple[float, float]]) -> None:
    assert TWO.knee(front) == 0


@given(st.integers(2, 3), st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 4)), max_size=25))
def test_the_layers_are_those_of_comparing_all_with_all(m: int, points: list[tuple[int, int, int]]) -> None:
    import numpy as np

    from tune.core.goal import non_dominated_layers

    costs = np.array([point[:m] for point in points], dtype=float).reshape(len(points), m)
    goal = Goal(tuple(Objective(str(j), "min") for j in range(m)))
    left = list(range(len(points)))
    for layer in non_dominated_layers(costs):
        expected = [i for i in left if not any(goal.dominates(tuple(costs[j]), tuple(costs[i])) for j in left)]
        assert layer == expected
        left = [i for i in left if i not in layer]
    assert not left
