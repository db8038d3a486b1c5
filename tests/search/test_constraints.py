"""Points that break a limit reach Optuna as violated constraints, and change nothing for a study that breaks none."""

from __future__ import annotations

from typing import Any

import optuna
import pytest
from optuna.trial import TrialState
from pydantic import TypeAdapter

from tests.search.fakes import SPACE, MemoryStore, goal, make_search, rules_of
from tune.adapters.optuna_parts import constraints_of
from tune.adapters.optuna_search import TruthfulOptunaSearch, make_sampler
from tune.adapters.samplers import make_sampler_of
from tune.core.goal import Goal, Limit, Objective
from tune.core.journal import StudyStarted
from tune.core.sampler_spec import Sampler as SamplerSpec
from tune.core.search import Assignment

TWO = Goal((Objective("m", "max"), Objective("cost", "min")))


def told(search: Any) -> list[tuple[TrialState, bool]]:
    """(state, infeasible) of every trial."""
    return [(t.state, constraints_of(t)[0] > 0) for t in search._ot_study.trials]


def test_out_of_memory_and_infeasible_points_are_infeasible_and_no_failures() -> None:
    search = TruthfulOptunaSearch(SPACE, goal("m"), "s", make_sampler("tpe", 1))
    for name in ("t0", "t1", "t2", "t3"):
        search.ask(name)
    search.observe("t0", 0, (0.5,))
    search.tell("t0", "failed", (), 1.0)  # out of memory after a report
    search.tell("t1", "pruned", (), 0.4)  # never ran
    search.tell("t2", "complete", (0.9,), 0.1)
    search.tell("t3", "failed", ())
    pruned, complete, failed = TrialState.PRUNED, TrialState.COMPLETE, TrialState.FAIL
    assert told(search) == [(pruned, True), (pruned, True), (complete, True), (failed, False)]


def test_tpe_keeps_away_from_the_half_of_the_space_that_is_too_large() -> None:
    """There the objective is best; without the limit it is where TPE goes."""

    def share_of_large(judged: bool) -> float:
        search = TruthfulOptunaSearch(SPACE, goal("m"), "s", make_sampler("tpe", 3))
        depths = []
        for i in range(60):
            point = search.ask(f"t{i}")
            depths.append(point["depth"])
            large = judged and point["depth"] > 4
            search.tell(f"t{i}", "pruned" if large else "complete", () if large else (float(point["depth"]),), 0.5 if large else 0.0)
        return sum(depth > 4 for depth in depths[20:]) / 40

    assert share_of_large(judged=True) < 0.45 < 0.75 < share_of_large(judged=False)


@pytest.mark.parametrize("multivariate", [False, True])
def test_a_study_that_breaks_nothing_draws_what_it_drew_without_constraints(multivariate: bool) -> None:
    def points(constrained: bool) -> list[dict]:
        sampler = make_sampler("tpe", 5, multivariate=multivariate, n_startup=4)
        if not constrained:
            sampler._constraints_func = None  # as Optuna has it by default
        search = TruthfulOptunaSearch(SPACE, goal("m"), "s", sampler)
        found = []
        for i in range(30):
            found.append(search.ask(f"t{i}"))
            search.observe(f"t{i}", 0, (found[-1]["lr"],))
            search.tell(f"t{i}", "pruned" if i % 3 == 1 else "complete", (found[-1]["lr"],))
        return found

    assert points(True) == points(False)


@pytest.mark.parametrize("kind", ["cmaes", "nsga2"])
def test_a_sampler_that_hears_complete_trials_alone_hears_of_broken_limits_as_the_worst(kind: str) -> None:
    spec = TypeAdapter(SamplerSpec).validate_python({"kind": kind})
    search = make_sampler_of(spec, Goal((Objective("m", "max"),), (Limit("x", max=1),)), SPACE, study="s", seed=1)
    assert isinstance(search, TruthfulOptunaSearch)
    for i in range(4):
        search.ask(f"t{i}")
    search.tell("t0", "complete", (0.9,))
    search.tell("t1", "complete", (0.2,))
    search.tell("t2", "failed", (), 1.0)
    search.tell("t3", "complete", (5.0,), 0.5)
    values = [t.value for t in search._ot_study.trials]
    assert values == [0.9, 0.2, 0.2, 0.2 if kind == "cmaes" else 5.0]  # CMA-ES knows no constraints at all


@pytest.mark.parametrize("multivariate", [False, True])
def test_tpe_of_two_objectives_bears_mostly_pruned_and_paused_trials(multivariate: bool) -> None:
    """Optuna's TPE raises when a pruned trial without values has to stand among the good ones."""
    search = TruthfulOptunaSearch(SPACE, TWO, "s", make_sampler("tpe", 1, multivariate=multivariate, n_startup=3))
    for i in range(60):
        search.ask(f"t{i}")
        search.observe(f"t{i}", 0, (1.0 / (i + 1), float(i)))
        if i % 20 == 0:
            search.tell(f"t{i}", "complete", (1.0 / (i + 1), float(i)))
        elif i % 2:
            search.pause(f"t{i}")
        else:
            search.tell(f"t{i}", "pruned", (1.0 / (i + 1), float(i)))
    shown = search._ot_study.get_trials(deepcopy=False)
    assert all((t.state == TrialState.PRUNED) == (constraints_of(t)[0] > 0) for t in shown)


@pytest.mark.skipif(not optuna.__version__.startswith("4."), reason="Optuna 5 bears them")
def test_stock_optuna_still_breaks_on_pruned_trials_of_two_objectives() -> None:
    """Why pruned trials of several objectives are told as infeasible. When this passes no more, that may go."""
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=make_sampler("tpe", 1, n_startup=3))

    def objective(trial: optuna.Trial) -> tuple[float, float]:
        x = trial.suggest_float("x", 0, 1)
        if trial.number > 3:
            raise optuna.TrialPruned
        return x, x * x

    with pytest.raises((ValueError, TypeError, AssertionError)):
        study.optimize(objective, n_trials=80)


def test_the_search_tells_its_sampler_of_points_that_never_ran() -> None:
    rules = rules_of(seed=1, slots=1, trials=6, infeasible=lambda point: {"peak_memory_bytes": 0.25} if point["depth"] > 4 else {})
    search = make_search(MemoryStore(), rules, asha=False)
    search.begin(StudyStarted("fake", "digest", {"metric": {"name": "val/score", "mode": "max"}}, {}), "fake")
    while isinstance(found := search.next(), Assignment):
        search.started(found.trial, 0)
        search.report(found.trial, 0, {"val/score": 1.0})
        search.finish(found.trial, {"val/score": 1.0}, {})
    infeasible = [state for state, broken in told(search.sampler) if broken]
    assert infeasible and set(infeasible) == {TrialState.PRUNED}
    assert len(infeasible) == search.fold.n_infeasible
