"""What the Ray executor does with a group's messages, told by hand: no Ray, the real search."""

from __future__ import annotations

from typing import Any

import pytest

from tests.search.fake_groups import FakeGroups
from tests.search.fakes import METRIC, MemoryStore, entries, make_search, rules_of
from tune.adapters.ray_tune import RayTuneExecutor
from tune.core.journal import Ended, GroupNoted
from tune.core.search import Search
from tune.core.steer_events import Held, LimitsSet

pytestmark = pytest.mark.slow


def executor_of(search: Search, groups: FakeGroups, **more: Any) -> RayTuneExecutor:
    search.begin(None, "fake")
    executor = RayTuneExecutor(search, 1, groups, lambda assignment: assignment, lambda trial: None, **more)
    executor.slots.begin()
    return executor


def test_a_report_without_the_objective_fails_its_trial_once_and_the_slot_is_free_when_the_group_has_heard() -> None:
    store, groups = MemoryStore(), FakeGroups()
    executor = executor_of(make_search(store, rules_of(seed=1, slots=1, trials=3), asha=False), groups)
    assert isinstance(executor.suggest("k1"), dict)
    executor.handle("k1", ("report", 0, {METRIC: 0.5}))
    executor.handle("k1", ("report", 1, {"other": 0.7}))
    assert groups.hosts[0].calls[-1] == ("answer", "t0000", "stop")
    assert executor.suggest("k2") == "wait", "the group has not let go of it yet"
    executor.handle("k1", ("done", {}, {}))
    ended = [e.event for e in entries(store) if isinstance(e.event, Ended)]
    assert [(e.trial, e.state, e.reason) for e in ended] == [("t0000", "failed", "no_objective")]
    assert isinstance(executor.suggest("k2"), dict)


def test_leaving_a_drained_node_is_no_retry_however_often_it_happens_and_no_lost_group() -> None:
    store = MemoryStore()
    executor = executor_of(make_search(store, rules_of(seed=1, slots=1, trials=3), asha=False), FakeGroups())  # two retries are allowed
    for i in range(5):
        assert executor.suggest(f"k{i}")["order"].trial == "t0000"  # type: ignore[index]
        executor.handle(f"k{i}", ("note", "preempted", "node 1a2b3c is drained", 0.0, 1.0))
        executor.handle(f"k{i}", ("retry", "preempted", "node 1a2b3c is drained"))
    view = executor._search.fold.trials["t0000"]
    assert (view.state, view.retries, view.moves, view.attempt) == ("waiting", 0, 5, 5)
    for i, state in enumerate(["waiting", "waiting", "failed"]):
        executor.suggest(f"l{i}")
        executor.handle(f"l{i}", ("note", "lost", "worker_lost: SIGKILL", 0.0, 1.0))
        executor.handle(f"l{i}", ("retry", "worker_lost", "SIGKILL"))
        assert executor._search.fold.trials["t0000"].state == state
    noted = [e.event.what for e in entries(store) if isinstance(e.event, GroupNoted)]
    assert noted == ["preempted"] * 5 + ["lost"] * 3


def test_a_trial_whose_actor_died_is_tried_again_when_its_workers_have_left_it_and_not_before() -> None:
    groups, left = FakeGroups(), list[Any]()
    search = make_search(MemoryStore(), rules_of(seed=1, slots=1, trials=3), asha=False)
    executor = executor_of(search, groups, ready=lambda calls: [call for call in calls if call in left])
    assert isinstance(executor.suggest("k1"), dict)
    executor.lost("k1")
    assert groups.hosts[0].calls[-1] == ("stop_trial", "t0000")
    assert executor.suggest("k2") == "wait" and executor._search.fold.trials["t0000"].state == "running"
    left.append(executor._leases["k1"].leaving)
    assert executor.suggest("k2") == "wait", "it looks, and the slot is free for the next question"
    assert executor._search.fold.trials["t0000"].reason == "trial_actor_lost"
    assert executor.suggest("k2")["order"].trial == "t0000"  # type: ignore[index]


def test_groups_are_made_and_released_as_a_person_changes_the_concurrency() -> None:
    store, groups = MemoryStore(), FakeGroups()
    search = make_search(store, rules_of(seed=1, slots=1, trials=9, most_slots=3), asha=False)
    executor = executor_of(search, groups)
    assert isinstance(executor.suggest("k1"), dict) and executor.suggest("k2") == "wait"
    search.steer(LimitsSet({"concurrency": 2}, "ann"))
    assert executor.suggest("k2")["host"] == "host 1" and executor.suggest("k3") == "wait" and groups.made == [0, 1]  # type: ignore[index]
    search.steer(LimitsSet({"concurrency": 1}, "ann"))
    executor.poll()
    assert groups.released == [], "both run trials"
    executor.handle("k1", ("done", {METRIC: 0.5}, {}))
    executor.poll()
    assert groups.released == [0] and executor.suggest("k3") == "wait"
    executor.handle("k2", ("done", {METRIC: 0.5}, {}))
    assert executor.suggest("k3")["host"] == "host 1"  # type: ignore[index]
    noted = [e.event for e in entries(store) if isinstance(e.event, GroupNoted)]
    assert [(event.slot, event.what) for event in noted] == [(1, "grown"), (0, "released")]


def test_a_group_whose_host_is_lost_is_made_anew_at_once_and_one_whose_workers_are_lost_keeps_its_slot() -> None:
    groups = FakeGroups()
    executor = executor_of(make_search(MemoryStore(), rules_of(seed=1, slots=1, trials=3), asha=False), groups)
    assert isinstance(executor.suggest("k1"), dict)
    executor.handle("k1", ("retry", "group_lost", "its node is gone"))
    assert groups.made == [0, 0] and isinstance(executor.suggest("k2"), dict)
    executor.handle("k2", ("retry", "worker_lost", "rank 0"))
    assert groups.made == [0, 0] and isinstance(executor.suggest("k3"), dict)


def test_while_a_study_is_paused_requests_are_heard_although_tune_runs_no_step() -> None:
    polls: list[int] = []
    search = make_search(MemoryStore(), rules_of(seed=1, slots=1, trials=3), asha=False)
    executor = executor_of(search, FakeGroups(), poll=lambda: polls.append(1))
    search.steer(Held(True, "ann"))
    assert executor.suggest("k1") == "wait" and polls == [1]
