"""What a search says would begin if there were slots is what it hands out: nothing is asked of machines for trials that do not come."""

from __future__ import annotations

from typing import Any

import pytest

from tests.search.fakes import METRIC, MemoryStore, curve, make_search, rules_of
from tune.core.promotion import RungLadder
from tune.core.rules import Assignment
from tune.core.search import Search
from tune.core.steer_events import LimitsSet, Wanted

pytestmark = pytest.mark.slow

STUDIES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({}, {"asha": False}),
    "asha": ({}, {}),
    "baseline, finalists and refit": ({"baseline": True, "finalists": (2, 2), "refit": True}, {}),
    "a grid that ends before the budget does": ({"trials": 99}, {"sampler": "grid", "asha": False}),
}


def step(search: Search, running: dict[str, int], steps: int = 9) -> None:
    for trial, at in list(running.items()):
        view = search.fold.trials[trial]
        point = view.point or {"depth": 1, "lr": 1e-3}
        if at < steps and search.report(trial, at, {METRIC: curve(point, at)}) == "continue":
            running[trial] = at + 1
            continue
        last = search.fold.trials[trial].curve[-1][1][METRIC]
        search.finish(trial, {METRIC: last} if at >= steps else {}, {})
        del running[trial]


def drive(search: Search, promotes: bool = False) -> tuple[int, int]:
    """To its end; (trials that were promised, promises that were not kept)."""
    running: dict[str, int] = {}
    promised = broken = 0
    while True:
        while True:
            waiting, paused = search.n_waiting(), bool(search.fold.paused)
            found = search.next()
            if not isinstance(found, Assignment):
                broken += waiting > 0
                break
            promised += waiting > 0
            assert waiting or (promotes and paused), f"{found.trial} was not counted"
            view = search.fold.trials[found.trial]
            search.started(found.trial, len(running), view.last_step)
            running[found.trial] = 0 if view.last_step is None else view.last_step + 1
        if found == "over":
            return promised, broken
        step(search, running)


@pytest.mark.parametrize("name", STUDIES)
def test_as_many_trials_begin_as_were_waiting(name: str) -> None:
    rules, kinds = STUDIES[name]
    search = make_search(MemoryStore(), rules_of(**{"seed": 1, "slots": 3, "trials": 9, **rules}), **kinds)
    search.begin(None, "fake")
    promised, broken = drive(search)
    assert promised >= 9 and broken <= (1 if "grid" in name else 0), "only a sampler that turns out to have no further point"


def test_of_paused_trials_one_is_counted_when_nothing_else_is_left() -> None:
    rules = rules_of(seed=1, slots=3, trials=9)
    ladder = RungLadder(rules.goal, 1, form="promote", grace=2, factor=3, max_steps=9)
    search = make_search(MemoryStore(), rules, asha=ladder)
    search.begin(None, "fake")
    promised, broken = drive(search, promotes=True)
    assert promised >= 9 and broken <= 1, "the last paused ones end without having gone on"
    assert search.n_waiting() == 0


def test_a_point_of_a_person_is_counted_when_the_sampler_has_none_left() -> None:
    search = make_search(MemoryStore(), rules_of(seed=1, slots=3, trials=99), sampler="grid", asha=False)
    search.begin(None, "fake")
    running: list[str] = []
    while isinstance(found := search.next(), Assignment):
        search.started(found.trial, len(running), None)
        running.append(found.trial)
        if len(running) > 1:
            search.finish(running.pop(0), {METRIC: 0.5}, {})
    assert search.n_waiting() == 0 and search.next() == "wait"
    search.steer(Wanted({"depth": 1, "lr": 2e-3}, "ann", "r1"))
    assert search.n_waiting() == 1
    found = search.next()
    assert isinstance(found, Assignment) and search.n_waiting() == 0


def test_finalists_of_trials_that_came_later_are_counted_as_they_are_handed_out() -> None:
    search = make_search(MemoryStore(), rules_of(seed=1, slots=1, trials=3, finalists=(2, 1)), asha=False)
    search.begin(None, "fake")
    values = {"t0000": 0.1, "t0001": 0.2, "t0002": 0.3, "t0003": 0.9, "t0004": 0.8}
    while (found := search.next()).trial != "t0002-s1":  # type: ignore[union-attr]
        search.started(found.trial, 0, None)  # type: ignore[union-attr]
        search.finish(found.trial, {METRIC: values.get(found.trial, 0.5)}, {})  # type: ignore[union-attr]
    search.started("t0002-s1", 0, None)
    search.steer(LimitsSet({"trials": 5}, "ann"))
    search.finish("t0002-s1", {METRIC: 0.5}, {})
    handed: list[str] = []
    while search.n_waiting():
        found = search.next()
        assert isinstance(found, Assignment)
        handed.append(found.trial)
        search.started(found.trial, 0, None)
        search.finish(found.trial, {METRIC: values.get(found.trial, 0.5)}, {})
    assert search.next() == "over" and handed == ["t0003", "t0004", "t0003-s1", "t0004-s1"]
