"""What every scheduler promises, run over each kind that a study may name."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from tests.search.fakes import goal
from tune.adapters.schedulers import make_scheduler
from tune.core.goal import Goal, Objective
from tune.core.ports import Scheduler
from tune.core.scheduler_spec import AshaScheduler, HyperbandScheduler, MedianScheduler, NoScheduler, PatienceScheduler

STEPS = 27
TWO = Goal((Objective("a", "max"), Objective("b", "min")))
SPECS = {
    "none": NoScheduler(kind="none"),
    "asha": AshaScheduler(kind="asha", grace=1, factor=3, max=STEPS),
    "asha brackets": AshaScheduler(kind="asha", grace=1, factor=3, max=STEPS, brackets=3),
    "asha promote": AshaScheduler(kind="asha", form="promote", grace=1, factor=3, max=STEPS),
    "asha promote brackets": AshaScheduler(kind="asha", form="promote", grace=1, factor=3, max=STEPS, brackets=2),
    "hyperband": HyperbandScheduler(kind="hyperband", grace=1, factor=3, max=STEPS),
    "hyperband promote": HyperbandScheduler(kind="hyperband", form="promote", grace=1, factor=3, max=STEPS),
    "median": MedianScheduler(kind="median", grace=3),
    "patience": PatienceScheduler(kind="patience", grace=3, patience=4),
}
KINDS: dict[str, tuple[Goal, Callable[[int], Scheduler]]] = {
    f"{name} {mode}": (goal("m", mode), lambda seed, spec=spec, mode=mode: make_scheduler(spec, goal("m", mode), seed))  # type: ignore[misc]
    for name, spec in SPECS.items()
    for mode in ("max", "min")
}
for _name in ("none", "asha", "asha promote", "hyperband"):
    KINDS[f"{_name} of two objectives"] = (TWO, lambda seed, spec=SPECS[_name]: make_scheduler(spec, TWO, seed))  # type: ignore[misc]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> tuple[Goal, Callable[[int], Scheduler]]:
    return KINDS[request.param]


Past = list[tuple[str, str, int, tuple[float, ...], object]]


def drive(scheduler: Scheduler, target: Goal, seed: int, n: int = 30, mirror: Scheduler | None = None) -> list[tuple[object, ...]]:
    """Random curves on one slot, promotions first. What happened; a mirror is only told of it, as a resume does."""
    rng, told = random.Random(seed), []
    next_step: dict[str, int] = {}
    paused: list[str] = []
    started = 0
    while True:
        promotion = scheduler.promote(paused) if paused else None
        if promotion is not None:
            trial, rung = promotion
            paused.remove(trial)
            told.append(("promoted", trial, rung))
            if mirror is not None:
                mirror.promoted(trial, rung)
        elif started < n:
            trial = f"t{started}"
            started += 1
            scheduler.add(trial)
            if mirror is not None:
                mirror.add(trial)
        else:
            return told
        for step in range(next_step.get(trial, 0), STEPS):
            values = tuple(rng.random() for _ in target.objectives)
            verdict = scheduler.decide(trial, step, values)
            if mirror is not None:
                mirror.recall(trial, step, values, verdict)
            told.append((verdict.action, trial, step))
            next_step[trial] = step + 1
            if verdict.action != "continue":
                assert verdict.why, "a person wants to know why"
                break
        if verdict.action == "pause":
            paused.append(trial)
            continue
        scheduler.remove(trial)
        if mirror is not None:
            mirror.remove(trial)


def test_the_same_reports_give_the_same_decisions(kind) -> None:
    target, make = kind
    assert drive(make(1), target, 5) == drive(make(1), target, 5)


def test_what_never_got_worse_is_never_stopped(kind) -> None:
    target, make = kind
    scheduler = make(1)
    scheduler.add("t0")
    sign = [1.0 if o.mode == "max" else -1.0 for o in target.objectives]
    actions = {scheduler.decide("t0", step, tuple(s * (1 + step) for s in sign)).action for step in range(STEPS)}
    assert "stop" not in actions


def test_recalling_the_past_gives_the_decisions_of_having_lived_it(kind) -> None:
    target, make = kind
    lived, recalled = make(4), make(4)
    drive(lived, target, 8, n=25, mirror=recalled)
    assert continued(lived, target) == continued(recalled, target)


def continued(scheduler: Scheduler, target: Goal) -> list[tuple[object, ...]]:
    rng, told = random.Random(9), []
    for i in range(100, 130):
        scheduler.add(f"t{i}")
        for step in range(STEPS):
            verdict = scheduler.decide(f"t{i}", step, tuple(rng.random() for _ in target.objectives))
            told.append((verdict.action, i, step))
            if verdict.action != "continue":
                break
        scheduler.remove(f"t{i}") if verdict.action != "pause" else None
    return told


def test_an_ended_trial_can_be_removed_whatever_it_reported(kind) -> None:
    target, make = kind
    scheduler = make(1)
    scheduler.add("t0")
    scheduler.remove("t0")
    scheduler.add("t1")
    scheduler.decide("t1", 0, tuple(1.0 for _ in target.objectives))
    scheduler.remove("t1")
    assert drive(scheduler, target, 5) == drive(make(1), target, 5), "what was removed at its first step judges nobody"


def test_only_a_paused_trial_that_is_ready_and_among_the_best_is_promoted(kind, request) -> None:
    target, make = kind
    scheduler = make(2)
    paused = []
    for i in range(40):
        scheduler.add(f"t{i}")
        for step in range(STEPS):
            verdict = scheduler.decide(f"t{i}", step, tuple(float(-i) if o.mode == "max" else float(i) for o in target.objectives))
            if verdict.action != "continue":
                if verdict.action == "pause":
                    paused.append(f"t{i}")
                break
    if "promote" not in request.node.callspec.id:
        assert not paused, "only the promotion form pauses"
        return
    assert scheduler.promote([]) is None
    assert scheduler.promote(paused[-1:]) is None, "the worst of forty is not among the best third"
    best = next(trial for trial in (f"t{i}" for i in range(40)) if trial in paused)
    found = scheduler.promote(paused)
    assert found is not None and int(found[0][1:]) <= int(best[1:]) + 13
    again = scheduler.promote(paused)
    assert again is None or again[0] != found[0], "nobody goes on twice from one rung"
