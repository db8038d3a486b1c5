"""What the Ray executor does with a group's messages, told by hand: no Ray, the real search."""

from __future__ import annotations

from typing import Any

import pytest

from tests.search.fake_groups import FakeGroups, fake_when_up
from tests.search.fakes import METRIC, MemoryStore, entries, make_search, rules_of
from tune.adapters.ray_tune import RayTuneExecutor
from tune.core.errors import StopStudy
from tune.core.journal import Ended, GroupNoted
from tune.core.search import Search
from tune.core.steer_events import Held, LimitsSet

pytestmark = pytest.mark.slow


def executor_of(search: Search, groups: FakeGroups, slots: int = 1, **more: Any) -> RayTuneExecutor:
    search.begin(None, "fake", slots=slots)
    executor = RayTuneExecutor(search, slots, groups, lambda assignment: assignment, lambda trial: None, **more)
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


class TwoGroups:
    """A study of three trials at two groups, whose workers come up when a test says so."""

    def __init__(self) -> None:
        self.store, self.groups, self.time_s = MemoryStore(), FakeGroups(), 0.0
        self.search = make_search(self.store, rules_of(seed=1, slots=2, trials=3), asha=False)
        self.executor = executor_of(self.search, self.groups, slots=2, clock=lambda: self.time_s, looks=fake_when_up)

    def begun(self, key: str) -> tuple[str, str]:
        given = self.executor.suggest(key)
        assert isinstance(given, dict)
        return given["host"], given["order"].trial

    def later(self) -> None:
        self.time_s += 1.0
        self.executor.poll()

    def homeless(self, key: str) -> None:
        self.executor.handle(key, ("note", "waits", "no workers in 120 s", 0.0, 1.0))
        self.executor.handle(key, ("retry", "no_workers", "no workers in 120 s"))


def test_a_trial_whose_group_has_no_workers_goes_to_another_and_its_own_gets_one_when_its_workers_are_up() -> None:
    two = TwoGroups()
    assert (two.begun("k0"), two.begun("k1")) == (("host 0", "t0000"), ("host 1", "t0001"))
    two.homeless("k1")
    view = two.search.fold.trials["t0001"]
    assert (view.state, view.retries, view.moves) == ("waiting", 0, 1)
    two.later()
    assert two.executor.suggest("k2") == "wait", "the only group with workers has a trial"
    two.executor.handle("k0", ("done", {METRIC: 0.5}, {}))
    assert two.begun("k2") == ("host 0", "t0001") and two.groups.made == [0, 1]
    assert two.executor.suggest("k3") == "wait"
    two.groups.hosts[1].facts = {"seconds": 1.0, "pids": [1], "node": "n"}
    two.later()
    assert two.begun("k3") == ("host 1", "t0002")
    assert two.search.fold.gpu_seconds == 0.0 and two.search.fold.groups == 2


def test_a_study_all_of_whose_groups_have_no_workers_waits_for_the_first_that_has_some() -> None:
    two = TwoGroups()
    two.begun("k0"), two.begun("k1")
    two.homeless("k0")
    two.homeless("k1")
    for _ in range(3):
        two.later()
        assert two.executor.suggest("k2") == "wait"
    two.groups.hosts[1].facts = {"seconds": 1.0, "pids": [1], "node": "n"}
    two.later()
    assert two.begun("k2") == ("host 1", "t0000")


def test_a_group_that_cannot_be_started_ends_the_study_only_where_it_was_the_last_one() -> None:
    two = TwoGroups()
    two.begun("k0"), two.begun("k1")
    two.executor.handle("k1", ("failed", "group_start_failed", "3 starts failed, the last with no GPU"))
    two.later()
    assert two.executor.suggest("k2") == "wait" and two.groups.made == [0, 1]
    two.executor.handle("k0", ("done", {METRIC: 0.5}, {}))
    assert two.begun("k2") == ("host 0", "t0001"), "no fault of the trial"
    noted = [(e.event.slot, e.event.what) for e in entries(two.store) if isinstance(e.event, GroupNoted)]
    assert noted == [(1, "released")]
    with pytest.raises(StopStudy, match="no GPU"):
        two.executor.handle("k2", ("failed", "group_start_failed", "3 starts failed, the last with no GPU"))
    assert two.search.fold.trials["t0001"].state == "waiting", "it stays open for a resume"


def test_a_homeless_group_whose_workers_cannot_be_started_either_is_given_up() -> None:
    two = TwoGroups()
    two.begun("k0"), two.begun("k1")
    two.homeless("k1")
    two.later()
    two.groups.hosts[1].facts = {"error": "3 starts failed"}
    two.later()
    assert two.groups.released == [1] and two.executor.suggest("k2") == "wait"
    two.executor.handle("k0", ("done", {METRIC: 0.5}, {}))
    assert two.begun("k2")[0] == "host 0" and two.executor.suggest("k3") == "wait"
