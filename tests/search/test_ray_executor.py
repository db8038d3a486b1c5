"""What the Ray executor does with a group's messages, told by hand: no Ray, the real search."""

from __future__ import annotations

from typing import Any

import pytest

from tests.search.fakes import METRIC, MemoryStore, entries, make_search, rules_of
from tune.adapters.ray_tune import RayTuneExecutor
from tune.core.journal import Ended

pytestmark = pytest.mark.slow


class Host:
    """Takes every call and does nothing with it."""

    def __getattr__(self, name: str) -> Any:
        return type("Method", (), {"remote": staticmethod(lambda *args: self.calls.append((name, *args)))})

    def __init__(self) -> None:
        self.__dict__["calls"] = []


def executor_of(store: MemoryStore) -> tuple[RayTuneExecutor, Host]:
    search = make_search(store, rules_of(seed=1, slots=1, trials=3), asha=False)
    search.begin(None, "fake")
    host = Host()
    executor = RayTuneExecutor(search, 1, lambda slot: (host, "host"), lambda assignment: assignment, lambda trial: None)
    executor._hosts[0] = (host, "host")
    return executor, host


def test_a_report_without_the_objective_fails_its_trial_once_and_the_slot_is_free_when_the_group_has_heard() -> None:
    store = MemoryStore()
    executor, host = executor_of(store)
    assert isinstance(executor.suggest("k1"), dict)
    executor.handle("k1", ("report", 0, {METRIC: 0.5}))
    executor.handle("k1", ("report", 1, {"other": 0.7}))
    assert host.calls[-1] == ("answer", "t0000", "stop")
    assert executor.suggest("k2") == "wait", "the group has not let go of it yet"
    executor.handle("k1", ("done", {}, {}))
    ended = [e.event for e in entries(store) if isinstance(e.event, Ended)]
    assert [(e.trial, e.state, e.reason) for e in ended] == [("t0000", "failed", "no_objective")]
    assert isinstance(executor.suggest("k2"), dict)
