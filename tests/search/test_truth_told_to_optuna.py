"""What Optuna is told, beside what Ray's stock OptunaSearch tells it."""

from __future__ import annotations

import optuna
import pytest
from optuna.trial import TrialState
from ray.tune.search.optuna import OptunaSearch

from tests.search.fakes import SPACE, goal
from tune.adapters.grid_search import GridSearch
from tune.adapters.optuna_search import TruthfulOptunaSearch, make_sampler
from tune.core.space import Choice, Float, Int, Space


def ours(study: str = "a", seed: int = 1) -> TruthfulOptunaSearch:
    return TruthfulOptunaSearch(SPACE, goal("m", "max"), study, make_sampler("tpe", seed))


def stock(study_name: str | None = None, storage: optuna.storages.BaseStorage | None = None) -> OptunaSearch:
    space = {"x": optuna.distributions.FloatDistribution(0, 1)}
    return OptunaSearch(space, metric="m", mode="max", sampler=make_sampler("tpe", 1), study_name=study_name, storage=storage)


def states(search: OptunaSearch) -> list[TrialState]:
    return [trial.state for trial in search._ot_study.trials]


def test_a_stopped_trial_is_pruned_with_its_curve_where_the_stock_class_says_complete() -> None:
    search = ours()
    search.ask("t0")
    search.observe("t0", 0, (0.1,))
    search.observe("t0", 5, (0.2,))
    search.tell("t0", "pruned", (0.2,))
    trial = search._ot_study.trials[0]
    assert (trial.state, trial.value, trial.intermediate_values) == (TrialState.PRUNED, 0.2, {0: 0.1, 5: 0.2})
    old = stock()
    old.suggest("t0")
    old.on_trial_result("t0", {"m": 0.2, "training_iteration": 6})
    old.on_trial_complete("t0", {"m": 0.2, "training_iteration": 6})  # what Tune calls after ASHA's STOP
    assert states(old) == [TrialState.COMPLETE], "the stock class tells the truth now: our tell may go"


def test_a_failed_or_nan_trial_fails_where_the_stock_class_leaves_it_running() -> None:
    search = ours()
    for name, state, value in (("t0", "failed", ()), ("t1", "complete", (float("nan"),))):
        search.ask(name)
        search.tell(name, state, value)  # type: ignore[arg-type]
    assert states(search) == [TrialState.FAIL, TrialState.FAIL]
    old = stock()
    old.suggest("t0")
    old.on_trial_complete("t0", {"m": float("nan")})
    assert states(old) == [TrialState.RUNNING], "the stock class ends a NaN trial now"


def test_two_studies_never_share_a_memory_where_the_stock_default_name_merges_them() -> None:
    first, second = ours("a"), ours("b")
    first.ask("t0")
    assert len(second._ot_study.trials) == 0 and first._ot_study.study_name == "a"
    storage = optuna.storages.InMemoryStorage()
    one, other = stock(storage=storage), stock(storage=storage)
    one.suggest("t0")
    assert len(other._ot_study.trials) == 1, "the stock default no longer merges"


def test_a_second_telling_changes_nothing() -> None:
    search = ours()
    search.ask("t0")
    search.tell("t0", "complete", (1.0,))
    search.tell("t0", "failed", ())
    assert states(search) == [TrialState.COMPLETE]


def test_first_points_come_first_and_partial_ones_are_filled_up() -> None:
    search = TruthfulOptunaSearch(
        SPACE, goal("m", "max"), "s", make_sampler("tpe", 3), first=[{"lr": 1e-3, "depth": 3}, {"peft.method": "ia3"}]
    )
    one, two = search.ask("t0"), search.ask("t1")
    assert (one["lr"], one["depth"]) == (1e-3, 3) and "peft.method" in one
    assert two["peft.method"] == "ia3" and "peft.lora.r" not in two


def test_conditional_keys_appear_with_their_branch_only() -> None:
    search = ours()
    points = [search.ask(f"t{i}") for i in range(30)]
    assert {p["peft.method"] for p in points} == {"lora", "ia3"}
    assert all(("peft.lora.r" in p) == (p["peft.method"] == "lora") for p in points)


def test_a_restored_state_draws_what_the_original_would_have_drawn() -> None:
    one, other = ours(seed=5), ours(seed=99)
    for i in range(15):
        point = one.ask(f"t{i}")
        one.tell(f"t{i}", "complete", (point["lr"],))
        other.adopt(f"t{i}", point)
        other.tell(f"t{i}", "complete", (point["lr"],))
    saved = one.state()
    assert saved is not None
    other.restore(saved)
    assert [one.ask(f"n{i}") for i in range(5)] == [other.ask(f"n{i}") for i in range(5)]


def test_a_grid_walks_every_point_once_first_points_first() -> None:
    space = Space((("a", Choice(("x", "y"))), ("b", Int(1, 3)), ("c", Float(0.0, 1.0, step=0.5))))
    search = GridSearch(space, first=[{"a": "y", "b": 3, "c": 1.0}])
    points = []
    while (point := search.ask(f"t{len(points)}")) is not None:
        points.append(point)
    assert points[0] == {"a": "y", "b": 3, "c": 1.0}
    assert len(points) == 18 and len({tuple(p.items()) for p in points}) == 18


def test_a_paused_trial_looks_pruned_and_a_promoted_one_is_complete_once() -> None:
    search = ours()
    search.ask("t0")
    search.observe("t0", 0, (0.1,))
    search.pause("t0")
    assert seen_by_samplers(search) == [(TrialState.PRUNED, {0: 0.1})]
    search.promote("t0")
    search.observe("t0", 1, (0.3,))
    assert seen_by_samplers(search) == [(TrialState.PRUNED, {0: 0.1, 1: 0.3})], "it counts by what it has shown while it runs on"
    search.tell("t0", "complete", (0.4,))
    search.ask("t1")
    assert [state for state, _ in seen_by_samplers(search)] == [TrialState.COMPLETE, TrialState.RUNNING]
    assert search._ot_study.trials[0].value == 0.4


@pytest.mark.parametrize("multivariate", [False, True])
def test_tpe_learns_from_paused_trials_as_from_pruned_ones(multivariate: bool) -> None:
    def asked_after(end: str) -> list[dict]:
        search = TruthfulOptunaSearch(SPACE, goal("m", "max"), "s", make_sampler("tpe", 1, multivariate=multivariate, n_startup=5))
        for i in range(12):
            point = search.ask(f"t{i}")
            search.observe(f"t{i}", 0, (point["lr"],))
            if end == "pause":
                search.pause(f"t{i}")
            elif end == "tell":
                search.tell(f"t{i}", "pruned", (point["lr"],))
        return [search.ask(f"n{i}") for i in range(4)]

    assert asked_after("pause") == asked_after("tell") != asked_after("nothing")


@pytest.mark.parametrize("multivariate", [False, True])
def test_keeping_away_from_running_points_changes_nothing_with_one_slot(multivariate: bool) -> None:
    def asked(constant_liar: bool, slots: int) -> list[dict]:
        made = make_sampler("tpe", 1, multivariate=multivariate, constant_liar=constant_liar, n_startup=3)
        search = TruthfulOptunaSearch(SPACE, goal("m", "max"), "s", made)
        points = []
        for i in range(24):
            points.append(search.ask(f"t{i}"))
            if i >= slots - 1:
                search.tell(f"t{i - slots + 1}", "complete", (points[i - slots + 1]["lr"],))
        return points

    assert asked(True, 1) == asked(False, 1)
    assert asked(True, 4) != asked(False, 4)


def test_without_branches_groups_change_nothing() -> None:
    space = Space((("lr", Float(1e-5, 1e-1, log=True)), ("depth", Int(1, 8)), ("batch", Choice((8, 16)))))

    def asked(group: bool) -> list[dict]:
        search = TruthfulOptunaSearch(space, goal("m", "max"), "s", make_sampler("tpe", 1, multivariate=True, group=group, n_startup=3))
        points = []
        for i in range(20):
            points.append(search.ask(f"t{i}"))
            search.tell(f"t{i}", "complete", (points[i]["lr"],))
        return points

    assert asked(True) == asked(False)


def seen_by_samplers(search: TruthfulOptunaSearch) -> list[tuple[TrialState, dict[int, float]]]:
    return [(trial.state, trial.intermediate_values) for trial in search._ot_study.get_trials(deepcopy=False)]
