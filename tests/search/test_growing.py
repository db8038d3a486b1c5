"""A study that grows: which groups it asks for, when they take trials, and when it lets them go. The real search, no Ray, no clock."""

from __future__ import annotations

from typing import Any

import pytest

from tests.search.fake_groups import FakeGroups, fake_when_up
from tests.search.fakes import METRIC, MemoryStore, entries, make_search, rules_of
from tune.adapters.ray_tune import RayTuneExecutor
from tune.adapters.slots import Growth
from tune.core.errors import StopStudy
from tune.core.journal import GroupNoted, SessionStarted
from tune.core.steer_events import Held, LimitsSet
from tune.status import steering_lines

pytestmark = pytest.mark.slow

UP = {"seconds": 1.0, "pids": [1], "node": "n"}


class Growing:
    """A study with room for one group at first, which is up. A call of `later` is a look at the groups after so many seconds."""

    def __init__(
        self, trials: int = 8, max_trials: int = 3, idle_s: float = 60.0, patience_s: float | None = None, up: bool = True, **rules: Any
    ):
        self.store, self.groups, self.time_s, self._keys = MemoryStore(), FakeGroups(), 0.0, 0
        self.search = make_search(self.store, rules_of(seed=1, slots=max_trials, trials=trials, **rules), asha=False)
        self.search.begin(None, "fake", slots=1)
        told = {"growth": Growth(idle_s, patience_s), "clock": lambda: self.time_s, "looks": fake_when_up}
        self.executor = RayTuneExecutor(self.search, 1, self.groups, lambda a: a, lambda trial: None, **told)
        self.executor.slots.begin()
        if up:
            self.nodes_come()

    def later(self, seconds: float = 1.0) -> None:
        self.time_s += seconds
        self.executor.poll()

    def begin(self) -> list[str]:
        """The hosts of the trials that begin now."""
        hosts = []
        while isinstance(given := self.executor.suggest(f"k{self._keys}"), dict):
            hosts.append(given["host"])
            self._keys += 1
        return hosts

    def end(self, *keys: str) -> None:
        for key in keys:
            self.executor.handle(key, ("done", {METRIC: 0.5}, {}))

    def nodes_come(self) -> None:
        """Every room gets its place, and the groups in them come up."""
        for room in self.groups.rooms:
            room.has_its_place = True
        self.later()
        for slot in self.groups.in_room:
            self.groups.hosts[slot].facts = UP
        self.later()

    def noted(self) -> list[tuple[int, str]]:
        return [(e.event.slot, e.event.what) for e in entries(self.store) if isinstance(e.event, GroupNoted)]


def test_a_study_begins_on_the_groups_that_fit_and_asks_for_room_up_to_its_bound() -> None:
    growing = Growing()
    assert growing.begin() == ["host 0"]
    growing.later()
    assert growing.groups.pending == 2 and growing.groups.made == [0]
    assert growing.begin() == [], "room that is asked for holds no trial"
    assert growing.noted() == [(1, "asked"), (2, "asked")]
    assert [e.event.slots for e in entries(growing.store) if isinstance(e.event, SessionStarted)] == [1]


def test_a_group_takes_a_trial_when_its_workers_are_up_and_not_before() -> None:
    growing = Growing()
    growing.begin()
    growing.later()
    growing.groups.rooms[1].has_its_place = True
    growing.later()
    assert growing.groups.in_room == [0, 1] and growing.begin() == []
    growing.groups.hosts[1].facts = UP
    growing.later()
    assert growing.begin() == ["host 1"] and growing.groups.pending == 1
    assert growing.noted()[-1] == (1, "grown")
    fold = growing.search.fold
    assert (fold.groups, fold.asked, fold.slots) == (2, {2}, 2)
    assert "  groups     2 may have trials, 1 asked for" in steering_lines(fold)


def test_room_that_never_comes_stalls_nothing_and_is_withdrawn_when_no_trial_waits_for_it() -> None:
    growing = Growing(trials=3)
    for i in range(3):
        assert growing.begin() == ["host 0"]
        growing.later()
        growing.end(f"k{i}")
    assert growing.executor.suggest("k9") == "over"
    growing.later()
    assert growing.groups.pending == 0 and [room.withdrawn for room in growing.groups.rooms] == [False, True, True]
    assert [what for _, what in growing.noted()].count("withdrawn") == 2


def test_no_more_groups_are_asked_for_than_trials_could_begin() -> None:
    growing = Growing(trials=2, max_trials=16)
    growing.begin()
    growing.later()
    assert growing.groups.pending == 1


def test_a_group_that_had_no_trial_for_a_while_is_let_go_the_last_to_come_first() -> None:
    growing = Growing(trials=4)
    growing.begin()
    growing.later()
    growing.nodes_come()
    assert growing.begin() == ["host 1", "host 2"]
    growing.end("k1", "k2")
    assert growing.begin() == ["host 1"], "the fourth trial takes the lowest free slot"
    growing.later(59)
    assert growing.groups.released == []
    growing.later(1)
    assert growing.groups.released == [2]
    growing.end("k0", "k3")
    assert growing.noted()[-1] == (2, "released")


def test_a_paused_study_lets_all_groups_go_and_asks_for_them_again_when_it_goes_on() -> None:
    growing = Growing(max_trials=1)
    assert growing.begin() == ["host 0"]
    growing.search.steer(Held(True, "ann"))
    growing.end("k0")
    growing.later(61)
    assert growing.groups.released == [0] and growing.begin() == []
    growing.search.steer(Held(False, "ann"))
    assert growing.begin() == []
    growing.later()
    growing.nodes_come()
    assert growing.begin() == ["host 0"]


def test_a_study_that_is_over_while_no_group_is_left_ends() -> None:
    growing = Growing(max_trials=1)
    growing.begin()
    growing.search.steer(Held(True, "ann"))
    growing.end("k0")
    growing.later(61)
    growing.search.ask_stop(None, "ann")
    assert growing.executor.suggest("k1") == "over"


def test_a_person_lowers_and_raises_the_concurrency_of_a_study_that_grows() -> None:
    growing = Growing(most_slots=3)
    growing.begin()
    growing.later()
    growing.search.steer(LimitsSet({"concurrency": 2}, "ann"))
    growing.later()
    assert growing.groups.pending == 1
    growing.nodes_come()
    growing.search.steer(LimitsSet({"concurrency": 1}, "ann"))
    growing.later()
    assert growing.groups.released == [1], "at once: a person asked"
    growing.search.steer(LimitsSet({"concurrency": 3}, "ann"))
    growing.later()
    assert growing.groups.pending == 2


def test_a_trial_goes_to_a_group_again_whose_workers_are_back_and_room_is_asked_for_in_place_of_a_lost_group() -> None:
    growing = Growing(max_trials=1)
    growing.begin()
    growing.executor.handle("k0", ("retry", "worker_lost", "its node is gone"))
    growing.later()
    assert growing.begin() == [] and growing.groups.pending == 0, "its own workers come back, or do not"
    growing.groups.hosts[0].facts = UP
    growing.later()
    assert growing.begin() == ["host 0"]
    growing.executor.handle("k1", ("retry", "group_lost", "its host is gone"))
    growing.later()
    assert growing.groups.released == [0] and growing.groups.pending == 1
    growing.nodes_come()
    assert growing.begin() == ["host 0"]


def test_a_group_that_is_being_recycled_takes_a_trial_when_its_new_workers_are_up() -> None:
    growing = Growing(max_trials=1)
    growing.begin()
    growing.executor.handle("k0", ("note", "recycled", "it holds too much", 0.0, 1.0))
    growing.end("k0")
    assert growing.begin() == []
    growing.groups.hosts[0].facts = UP
    growing.later()
    assert growing.begin() == ["host 0"]


def test_groups_whose_workers_never_come_up_are_given_up_and_the_study_goes_on_with_the_others() -> None:
    growing = Growing(max_trials=2)
    growing.begin()
    for _ in range(3):
        growing.later()
        growing.groups.rooms[-1].has_its_place = True
        growing.later()
        growing.groups.hosts[1].facts = {"error": "3 starts failed"}
        growing.later()
    growing.later()
    assert len(growing.groups.rooms) == 4 and growing.groups.pending == 0, "no fourth one is asked for"
    growing.end("k0")
    assert growing.begin() == ["host 0"]
    growing.executor.handle("k1", ("retry", "group_lost", "its host is gone"))
    with pytest.raises(StopStudy, match="3 starts failed"):
        growing.later()


def test_after_a_rest_that_doubles_a_study_asks_again_for_the_groups_that_did_not_come_up() -> None:
    growing = Growing(max_trials=2, idle_s=1e9)
    growing.begin()
    growing.later()
    for n, rest_s in enumerate((0.0, 0.0, 60.0, 120.0, 240.0)):
        growing.groups.rooms[-1].has_its_place = True
        growing.later()
        growing.groups.hosts[1].facts = {"error": "a bad image"}
        growing.later(1.0)
        if rest_s:
            growing.later(rest_s - 2.0)
            assert growing.groups.pending == 0, n
            growing.later(2.0)
        growing.later()
        assert growing.groups.pending == 1, n
    growing.nodes_come()
    assert growing.begin() == ["host 1"]


def test_what_a_study_that_grows_decides_can_be_resumed_from_its_journal() -> None:
    growing = Growing(trials=3)
    growing.begin()
    growing.later()
    growing.nodes_come()
    growing.begin()
    growing.end("k1")
    again = make_search(MemoryStore(), rules_of(seed=1, slots=3, trials=3), asha=False)
    again.replay(entries(growing.store))
    assert again.n_waiting() == 2 and again.fold.slots == 3


def test_a_group_that_cannot_come_back_ends_no_study_that_has_others() -> None:
    growing = Growing(trials=8, max_trials=2)
    growing.later()
    growing.nodes_come()
    assert growing.begin() == ["host 0", "host 1"]
    growing.executor.handle("k1", ("failed", "group_start_failed", "3 starts failed"))
    assert (1, "released") in growing.noted() and growing.begin() == []
    growing.end("k0")
    assert growing.begin() == ["host 0"]
    assert growing.search.fold.trials["t0001"].attempt == 2, "it goes on where there is a group"


def test_an_elastic_group_begins_with_fewer_workers_where_no_whole_one_has_room_for_long() -> None:
    growing = Growing(patience_s=10.0, up=False)
    growing.later(9.0)
    assert growing.groups.made == []
    growing.later(1.0)
    assert (growing.groups.made, growing.groups.in_room, growing.groups.rooms[0].withdrawn) == ([0], [], True)
    growing.later(30.0)
    assert growing.groups.made == [0], "it looks itself; the others are whole ones"
    growing.groups.hosts[0].facts = UP
    growing.later()
    assert growing.begin() == ["host 0"]


def test_a_group_that_needs_all_its_workers_waits_for_their_room() -> None:
    growing = Growing(up=False)
    growing.later(1000.0)
    assert growing.groups.made == []


def test_a_group_that_looks_for_room_itself_is_let_go_when_no_trial_waits_for_it() -> None:
    growing = Growing(patience_s=10.0, up=False)
    growing.later(10.0)
    assert growing.groups.made == [0]
    growing.search.steer(Held(True, "ann"))
    growing.later()
    assert growing.groups.released == [0]
