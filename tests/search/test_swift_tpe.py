"""Our TPE draws what Optuna's draws, from every kind of past. How much sooner: `tests/bench/scale.py --parts tpe`."""

from __future__ import annotations

from typing import Any

import optuna
import pytest

from tests.search.fakes import SPACE, goal
from tune.adapters.optuna_parts import constraints_of
from tune.adapters.optuna_search import TruthfulOptunaSearch
from tune.adapters.swift_tpe import SwiftTpe, tpe_class
from tune.core.goal import Goal, Objective
from tune.core.ports import PastTrial, Point

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(tpe_class() is not SwiftTpe, reason="with this version it is Optuna's own"),
    pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning"),
]
TWO = Goal((Objective("m", "max"), Objective("cost", "min")))


def search_of(cls: type[optuna.samplers.TPESampler], of: Goal, **settings: Any) -> TruthfulOptunaSearch:
    made = cls(seed=4, constraints_func=constraints_of, warn_independent_sampling=False, **settings)
    return TruthfulOptunaSearch(SPACE, of, "s", made)


def played(search: TruthfulOptunaSearch, of: Goal, n: int, slots: int) -> list[Point]:
    """Every kind of end, pauses, and several open trials."""
    partial = [PastTrial({"depth": depth}, "complete", (float(depth), 1.0)[: len(of.objectives)]) for depth in (2, 7)]
    search.learn([*partial, PastTrial({"lr": 1e-3}, "failed", (), violation=2.0)])
    points: list[Point] = []
    for i in range(n):
        points.append(search.ask(f"t{i}"))
        j = i - slots + 1
        if j < 0:
            continue
        values = (points[j]["lr"] * points[j]["depth"], float(points[j]["depth"]))[: len(of.objectives)]
        search.observe(f"t{j}", 0, values)
        match j % 6:
            case 0:
                search.pause(f"t{j}")
            case 1:
                search.tell(f"t{j}", "pruned", values)
            case 2:
                search.tell(f"t{j}", "failed", (), 0.5)
            case 3:
                search.tell(f"t{j}", "failed", ())
            case _:
                search.tell(f"t{j}", "complete", values)
    return points


@pytest.mark.parametrize("of", [goal("m"), TWO], ids=["one", "two"])
@pytest.mark.parametrize("slots", [1, 4])
@pytest.mark.parametrize("settings", [{}, {"multivariate": True, "group": True}, {"multivariate": True}], ids=["plain", "groups", "joint"])
@pytest.mark.parametrize("constant_liar", [False, True])
def test_the_draws_are_those_of_optunas_own(of: Goal, slots: int, settings: dict[str, Any], constant_liar: bool) -> None:
    found = [
        played(search_of(cls, of, n_startup_trials=4, constant_liar=constant_liar, **settings), of, 45, slots)
        for cls in (optuna.samplers.TPESampler, SwiftTpe)
    ]
    assert found[0] == found[1]


def test_the_draws_are_those_of_optunas_own_after_more_trials_than_there_was_room_for() -> None:
    found = [
        played(search_of(cls, goal("m"), n_startup_trials=290, constant_liar=True), goal("m"), 370, slots=4)
        for cls in (optuna.samplers.TPESampler, SwiftTpe)
    ]
    assert found[0] == found[1]
