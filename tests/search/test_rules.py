"""Budgets, finalists, limits and infeasible points: what the search does about each, told through its journal."""

from __future__ import annotations

import pytest

from tests.search.fakes import METRIC, MemoryStore, entries, essence, make_search, rules_of, run
from tune.core.cost import Budget
from tune.core.goal import Goal, Limit, Objective
from tune.core.journal import Charged
from tune.core.rules import Assignment, Rules


def begun(rules: Rules, store: MemoryStore | None = None, **kinds):
    search = make_search(store or MemoryStore(), rules, **kinds)
    search.begin(None, "fake")
    return search


def handed_out(search, slot: int = 0) -> str:
    found = search.next()
    assert isinstance(found, Assignment)
    search.started(found.trial, slot)
    return found.trial


def test_finalists_are_the_best_over_further_seeds_and_the_best_mean_wins() -> None:
    rules = rules_of(seed=7, slots=2, trials=10, finalists=(2, 3), refit=True)
    store = MemoryStore()
    search = run(store, rules)
    best = [trial.trial for trial in search.fold.ranked()[:2]]
    finalists = search.fold.of_role("finalist")
    assert [(t.trial, t.of) for t in finalists] == [(f"{of}-s{seed}", of) for seed in (1, 2, 3) for of in best]
    assert all(t.point == search.fold.trials[t.of].point and t.state == "complete" for t in finalists)
    assert search.fold.winner is not None and search.fold.winner.trial in best
    assert [t.point for t in search.fold.of_role("refit")] == [search.fold.winner.point]


def test_the_winner_is_who_repeats_best_not_who_was_lucky_once() -> None:
    search = begun(rules_of(seed=1, slots=1, trials=2, finalists=(2, 2)), asha=False)
    for value in (0.9, 0.8):
        search.finish(handed_out(search), {METRIC: value}, {})
    for value in (0.5, 0.7, 0.6, 0.8):  # t0000-s1, t0001-s1, t0000-s2, t0001-s2
        search.finish(handed_out(search), {METRIC: value}, {})
    assert search.next() == "over"
    assert search.fold.best.trial == "t0000" and search.fold.winner.trial == "t0001"


def test_a_point_that_breaks_a_limit_is_told_of_and_does_not_run_or_count() -> None:
    rules = rules_of(seed=3, slots=1, trials=6, infeasible=lambda point: {"memory": 0.5} if point["depth"] > 4 else {})
    store = MemoryStore()
    search = run(store, rules)
    ran = [t for t in search.fold.of_role("search") if t.curve]
    never = [t for t in search.fold.of_role("search") if not t.curve]
    assert len(ran) == 6 and never and all(t.point["depth"] <= 4 for t in ran)
    assert {(t.state, t.reason) for t in never} == {("pruned", "infeasible")}
    resumed = MemoryStore(store.kept[: len(store.kept) // 2])
    run(resumed, rules)
    assert essence(resumed) == essence(store)


def test_a_space_without_a_feasible_point_ends_the_study_by_saying_so() -> None:
    search = begun(rules_of(seed=3, slots=1, trials=6, infeasible=lambda point: {"memory": 1.0}), sampler="random")
    assert search.next() == "over"
    assert "in a row that break a limit" in search.end().why


def test_a_trial_that_breaks_a_limit_completes_and_cannot_win() -> None:
    target = Goal((Objective(METRIC, "max"),), (Limit("seconds", max=1.0),))
    search = begun(rules_of(seed=1, slots=1, trials=2, goal=target), asha=False)
    search.finish(handed_out(search), {METRIC: 0.9, "seconds": 3.0}, {})
    search.finish(handed_out(search), {METRIC: 0.4, "seconds": 0.5}, {})
    assert search.fold.trials["t0000"].violations == {"seconds": 2.0}
    assert search.fold.best.trial == "t0001"


def test_a_report_without_an_objective_fails_the_trial_by_name() -> None:
    from tune.core.errors import FailTrial

    search = begun(rules_of(seed=1, slots=1, trials=2))
    trial = handed_out(search)
    with pytest.raises(FailTrial, match="no_objective"):
        search.report(trial, 0, {"other": 1.0})


def test_gpu_hours_are_counted_while_trials_run() -> None:
    rules = rules_of(seed=1, slots=1, trials=5, budget=Budget(trials=5, gpu_hours=60 / 3600), gpus=2.0)
    search = begun(rules, asha=False)  # the clock goes on by a second each time it is read
    trial = handed_out(search)
    step = 0
    while search.report(trial, step, {METRIC: 0.1}) == "continue":
        step += 1
        assert step < 60, "the limit was never noticed"
    search.finish(trial, {}, {})
    assert search.fold.trials[trial].reason == "budget"
    assert search.next() == "over"
    assert 60 <= search.fold.gpu_seconds < 70


def test_what_a_killed_attempt_used_is_charged_on_resume() -> None:
    rules = rules_of(seed=1, slots=1, trials=5, cpus=2.0)
    store = MemoryStore()
    search = begun(rules, store)
    trial = handed_out(search)
    for step in range(3):
        search.report(trial, step, {METRIC: 0.1})
    lived_s = entries(store)[-1].t - search.fold.trials[trial].attempt_at
    again = make_search(store, rules)
    again.replay(entries(store))
    again.begin(None, "fake")
    charged = [e.event for e in entries(store) if isinstance(e.event, Charged)]
    assert [(c.trial, c.cpu_seconds) for c in charged] == [(trial, 2 * lived_s)]


def test_a_resume_after_the_limit_ends_what_was_running_and_starts_nothing() -> None:
    rules = rules_of(seed=1, slots=1, trials=5, budget=Budget(trials=5, wall_hours=20 / 3600))
    store = MemoryStore()
    search = begun(rules, store, asha=False)
    trial = handed_out(search)
    for step in range(30):
        search.report(trial, step, {METRIC: 0.1})
    again = make_search(store, rules)
    again.replay(entries(store))
    again.begin(None, "fake")
    assert again.next() == "over"
    assert again.fold.trials[trial].state == "pruned" and again.fold.trials[trial].reason == "budget"


def test_a_stop_that_comes_after_the_last_step_does_not_take_the_result_away() -> None:
    search = begun(rules_of(seed=1, slots=1, trials=2), asha=False)
    trial = handed_out(search)
    search.report(trial, 0, {METRIC: 0.5})
    search.ask_stop(trial, "phasetune stop")  # while it makes its final evaluation
    search.finish(trial, {METRIC: 0.7}, {})
    assert search.fold.trials[trial].state == "complete" and search.fold.trials[trial].value == 0.7


def test_of_two_objectives_the_front_and_its_knee_are_kept() -> None:
    target = Goal((Objective("f1", "max"), Objective("seconds", "min")))
    search = begun(rules_of(seed=1, slots=1, trials=4, goal=target), sampler="random", asha=False)
    for f1, seconds in ((0.9, 10.0), (0.85, 2.0), (0.2, 1.0), (0.8, 9.0)):
        search.finish(handed_out(search), {"f1": f1, "seconds": seconds}, {})
    assert {t.trial for t in search.fold.front} == {"t0000", "t0001", "t0002"}
    assert search.fold.best.trial == "t0001"


def test_a_study_of_several_slots_and_finalists_is_the_same_after_any_kill() -> None:
    rules = rules_of(seed=5, slots=1, trials=6, finalists=(1, 2), refit=True, baseline=True)
    whole = MemoryStore()
    run(whole, rules)
    for n in range(1, len(whole.kept), 3):
        store = MemoryStore(whole.kept[:n])
        run(store, rules)
        assert essence(store) == essence(whole)


def test_a_finalist_some_of_whose_runs_failed_wins_nothing() -> None:
    search = begun(rules_of(seed=1, slots=1, trials=2, finalists=(2, 2)), asha=False)
    for value in (0.9, 0.8):
        search.finish(handed_out(search), {METRIC: value}, {})
    search.finish(handed_out(search), {METRIC: 0.99}, {})  # t0000-s1
    search.finish(handed_out(search), {METRIC: 0.8}, {})
    search.fail(handed_out(search), "not_finite", "it diverged")  # t0000-s2
    search.finish(handed_out(search), {METRIC: 0.8}, {})
    assert search.fold.winner.trial == "t0001"


def test_of_two_objectives_the_knee_is_repeated_and_can_win() -> None:
    target = Goal((Objective("f1", "max"), Objective("seconds", "min")))
    search = begun(rules_of(seed=1, slots=1, trials=3, goal=target, finalists=(2, 2)), sampler="random", asha=False)
    for f1, seconds in ((0.90, 100.0), (0.89, 10.0), (0.50, 5.0)):
        search.finish(handed_out(search), {"f1": f1, "seconds": seconds}, {})
    repeated = []
    while (found := search.next()) != "over":
        search.started(found.trial, 0)
        of = search.fold.trials[found.trial].of
        repeated.append(of)
        f1, seconds = search.fold.trials[of].values
        search.finish(found.trial, {"f1": f1, "seconds": seconds}, {})
    assert repeated[0] == "t0001" and search.fold.winner.trial == "t0001"


def test_a_study_in_which_nothing_ran_to_its_end_has_failed() -> None:
    search = begun(rules_of(seed=3, slots=1, trials=6, infeasible=lambda point: {"memory": 1.0}), sampler="random")
    assert search.next() == "over"
    assert search.end().state == "failed"


def test_a_stop_is_heard_between_points_that_do_not_run() -> None:
    search = begun(rules_of(seed=3, slots=1, trials=6, infeasible=lambda point: {"memory": 1.0}), sampler="random")
    search.between = lambda: search.ask_stop(None, "a test")
    assert search.next() == "over"
    assert search.end().state == "interrupted" and search.fold.n_infeasible == 1
