"""A study that was killed anywhere and resumed is the study that was never killed."""

from __future__ import annotations

import random

import pytest

from tests.search.fakes import Killed, MemoryStore, essence, make_search, rules_of, run
from tune.core.errors import UserError
from tune.core.journal import SamplerState, decode_all

RULES = rules_of(seed=7, slots=1, trials=20)


@pytest.mark.parametrize(("sampler", "multivariate"), [("tpe", False), ("tpe", True), ("random", False), ("grid", False)])
def test_a_kill_at_any_event_changes_no_suggestion_and_no_decision(sampler: str, multivariate: bool) -> None:
    whole = MemoryStore()
    run(whole, RULES, sampler=sampler, multivariate=multivariate)
    rng = random.Random(0)
    n = len(whole.kept)
    for kill_at in [*sorted(rng.sample(range(1, n), 6)), n - 1]:
        store = MemoryStore(dies_after=kill_at)
        with pytest.raises(Killed):
            run(store, RULES, sampler=sampler, multivariate=multivariate)
        store.dies_after = None
        run(store, RULES, sampler=sampler, multivariate=multivariate)
        assert essence(store) == essence(whole), f"killed after {kill_at} of {n} events"


def test_many_kills_of_one_study_change_nothing_either() -> None:
    whole = MemoryStore()
    run(whole, RULES)
    store, rng = MemoryStore(), random.Random(3)
    for _ in range(200):
        store.dies_after = len(store.kept) + rng.randint(1, 25)
        try:
            run(store, RULES)
        except Killed:
            continue
        break
    assert essence(store) == essence(whole)


def test_a_recorded_sampler_state_gives_the_same_future_as_asking_the_whole_past_again() -> None:
    rules = rules_of(seed=1, slots=1, trials=140)
    whole = MemoryStore()
    run(whole, rules)
    assert sum(isinstance(e.event, SamplerState) for e in decode_all(whole.lines())) == 2
    store = MemoryStore(whole.kept[: int(len(whole.kept) * 0.7)])
    run(store, rules)
    assert essence(store) == essence(whole)


def test_with_several_slots_a_resumed_study_repeats_nothing_that_ended() -> None:
    rules = rules_of(seed=7, slots=3, trials=20)
    store = MemoryStore(dies_after=150)
    with pytest.raises(Killed):
        run(store, rules)
    ended = {line for line in store.kept if '"type":"ended"' in line}
    store.dies_after = None
    search = run(store, rules)
    assert ended <= set(store.kept)
    assert len(search.fold.trials) == 20 and not search.fold.running
    names = [e.event.trial for e in decode_all(store.lines()) if type(e.event).__name__ == "Ended"]
    assert len(names) == len(set(names)) == 20


def test_a_sampler_that_would_suggest_otherwise_is_refused_with_the_reason() -> None:
    store = MemoryStore()
    run(store, RULES)
    with pytest.raises(UserError, match=r"t0001[\s\S]*the sampler now suggests[\s\S]*environment\.json"):
        search = make_search(MemoryStore(), rules_of(seed=8, slots=1, trials=20))
        search.replay(decode_all(store.lines()))


def test_a_finished_study_that_is_resumed_only_ends_again() -> None:
    store = MemoryStore()
    run(store, RULES)
    before = essence(store)
    run(store, RULES)
    assert essence(store) == before
