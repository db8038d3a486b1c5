"""What every scheduler promises, run over each kind that a study may name."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from tune.adapters.schedulers import NoScheduler, SeededASHA
from tune.core.ports import Scheduler

KINDS: dict[str, Callable[[int], Scheduler]] = {
    "none": lambda seed: NoScheduler(),
    "asha": lambda seed: SeededASHA("max", seed, grace=1, factor=3, max_steps=27),
    "asha min": lambda seed: SeededASHA("min", seed, grace=2, factor=2, max_steps=27),
    "asha brackets": lambda seed: SeededASHA("max", seed, grace=1, factor=3, max_steps=27, brackets=3),
}


@pytest.fixture(params=KINDS)
def make(request: pytest.FixtureRequest) -> Callable[[int], Scheduler]:
    return KINDS[request.param]


def decisions(scheduler: Scheduler, seed: int, n: int = 30) -> list[tuple[str, int, str]]:
    """Decisions on random curves, trials in a row."""
    rng, made = random.Random(seed), []
    for trial_i in range(n):
        name = f"t{trial_i}"
        scheduler.add(name)
        for step in range(27):
            decision = scheduler.decide(name, step, rng.random())
            made.append((name, step, decision))
            if decision == "stop":
                break
        scheduler.remove(name)
    return made


def test_the_same_reports_give_the_same_decisions(make) -> None:
    assert decisions(make(1), 5) == decisions(make(1), 5)


def test_the_first_trial_is_never_stopped(make) -> None:
    scheduler = make(1)
    scheduler.add("t0")
    assert {scheduler.decide("t0", step, -1e6) for step in range(27)} == {"continue"}


def test_recalling_the_past_gives_the_decisions_of_having_lived_it(make) -> None:
    lived, recalled, rng = make(4), make(4), random.Random(8)
    for trial_i in range(25):
        name = f"t{trial_i}"
        lived.add(name)
        recalled.add(name)
        for step in range(27):
            value = rng.random()
            decision = lived.decide(name, step, value)
            recalled.recall(name, step, value)
            if decision == "stop":
                break
        lived.remove(name)
        recalled.remove(name)
    assert decisions(lived, 3) == decisions(recalled, 3)


def test_a_trial_that_is_removed_twice_or_early_does_no_harm(make) -> None:
    scheduler = make(1)
    scheduler.add("t0")
    scheduler.remove("t0")
    scheduler.remove("t0")
    scheduler.add("t1")
    assert scheduler.decide("t1", 0, 1.0) == "continue"
