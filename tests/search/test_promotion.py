"""The promotion form in the search: trials pause and go on, kills change nothing, and what is left over ends as pruned."""

from __future__ import annotations

import random

import pytest

from tests.search.fakes import Killed, MemoryStore, entries, essence, goal, make_search, rules_of, run
from tune.core.fold import StudyFold
from tune.core.goal import Goal, Objective
from tune.core.journal import Promoted, Reported, Started
from tune.core.ports import Scheduler
from tune.core.promotion import RungLadder
from tune.core.search import Search

STEPS = 9


def promoting(target: Goal | None = None) -> Scheduler:
    return RungLadder(target or goal(), 7, form="promote", grace=1, factor=3, max_steps=STEPS)


def study(store: MemoryStore, slots: int = 1, trials: int = 24) -> Search:
    return run(store, rules_of(seed=7, slots=slots, trials=trials), asha=promoting())


def test_exactly_the_best_third_of_each_rung_has_gone_on_in_the_end() -> None:
    store = MemoryStore()
    fold = study(store).fold
    ladder = promoting()
    for step in (1, 3):
        values = {
            t.trial: dict(t.curve)[step]["val/score"] for t in fold.of_role("search") if t.last_step is not None and t.last_step >= step
        }
        went_on = {t.trial for t in fold.of_role("search") if t.last_step is not None and t.last_step > step}
        best = sorted(values, key=lambda trial: -values[trial])[: len(values) // 3]
        assert set(best) <= went_on, "one of the best was left behind"
        assert len(went_on) < len(values)
    assert ladder.promote([]) is None
    assert not fold.paused and not fold.running
    assert fold.count("complete") >= 1 and fold.n_ended == 24


def test_a_promoted_trial_takes_up_after_its_rung_and_repeats_no_step() -> None:
    store = MemoryStore()
    study(store)
    promoted = [e.event for e in entries(store) if isinstance(e.event, Promoted)]
    assert promoted, "nothing was promoted, so this test shows nothing"
    for event in promoted:
        steps = [e.event.step for e in entries(store) if isinstance(e.event, Reported) and e.event.trial == event.trial]
        assert steps == sorted(set(steps)) and steps[: event.rung + 1] == list(range(event.rung + 1))
        starts = [e.event.after_step for e in entries(store) if isinstance(e.event, Started) and e.event.trial == event.trial]
        assert event.rung in starts


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_kills_at_random_events_change_no_suggestion_and_no_promotion(seed: int) -> None:
    whole = MemoryStore()
    study(whole)
    rng = random.Random(seed)
    for _ in range(12):
        store = MemoryStore(dies_after=rng.randrange(1, len(whole.kept)))
        while True:
            try:
                study(store)
                break
            except Killed:
                store = MemoryStore(store.kept, dies_after=len(store.kept) + rng.randrange(1, 60) if rng.random() < 0.5 else None)
        assert essence(store) == essence(whole)


@pytest.mark.parametrize("slots", [2, 5])
def test_several_slots_end_all_trials_and_waste_no_report(slots: int) -> None:
    store = MemoryStore()
    fold = study(store, slots=slots, trials=30).fold
    assert fold.n_ended == 30 and not fold.paused
    for trial in fold.of_role("search"):
        steps = [step for step, _ in trial.curve]
        assert steps == list(range(len(steps)))


def test_a_study_that_is_stopped_keeps_its_paused_trials_for_the_resume() -> None:
    store = MemoryStore()
    search = make_search(store, rules_of(seed=7, slots=1, trials=24), asha=promoting())
    search.begin(None, "fake")
    while len(search.fold.paused) < 3:
        found = search.next()
        assert not isinstance(found, str)
        search.started(found.trial, 0)
        step = 0
        while search.report(found.trial, step, {"val/score": -float(search.fold.n_search)}) == "continue":
            step += 1
        search.finish(found.trial, {}, {})
    search.ask_stop(None, "a test")
    assert search.next() == "over"
    assert search.end().state == "interrupted"
    paused = set(search.fold.paused)
    again = run(store, rules_of(seed=7, slots=1, trials=24), asha=promoting())
    assert all(again.fold.trials[trial].ended for trial in paused)


def test_rungs_of_two_objectives_keep_who_is_not_dominated() -> None:
    target = Goal((Objective("a", "max"), Objective("b", "min")))
    ladder = promoting(target)
    points = [(0.9, 9.0), (0.5, 1.0), (0.4, 5.0), (0.3, 6.0), (0.2, 7.0), (0.1, 8.0)]
    for i, values in enumerate(points):
        ladder.add(f"t{i}")
        ladder.decide(f"t{i}", 0, values)
        ladder.decide(f"t{i}", 1, values)
    ready = [f"t{i}" for i in range(len(points))]
    gone_on = set()
    while (found := ladder.promote(ready)) is not None:
        gone_on.add(found[0])
    assert gone_on <= {"t0", "t1"} and gone_on


def test_the_fold_of_the_journal_is_the_fold_of_the_search() -> None:
    store = MemoryStore()
    search = study(store)
    assert StudyFold.of(entries(store)).trials == search.fold.trials


def test_a_study_of_fewer_trials_than_the_factor_still_ends_with_a_complete_one() -> None:
    fold = run(MemoryStore(), rules_of(seed=7, slots=2, trials=2), asha=promoting()).fold
    assert fold.count("complete") == 1 and fold.count("pruned") == 1
    assert fold.best is not None and fold.ended is not None and fold.ended.state == "done"


@pytest.mark.slow
def test_rungs_of_two_objectives_over_thousands_of_trials_take_no_square_time() -> None:
    target = Goal((Objective("a", "max"), Objective("b", "min")))
    ladder, rng = promoting(target), random.Random(3)
    for i in range(1500):
        ladder.add(f"t{i}")
        ladder.decide(f"t{i}", 1, (rng.random(), rng.random()))
    assert len(ladder.rungs()[0][0][1]) == 1500
