"""A study that people steer while drivers die is the study that they steered while none died."""

from __future__ import annotations

import random

import pytest

from tests.search.fakes import MemoryStore, essence, make_search, rules_of
from tests.steer.driving import Script, ladder, run, run_with_deaths
from tune.core.fold import StudyFold
from tune.core.journal import decode_all
from tune.core.steer_requests import Add, Clone, Hold, Pin, SetLimits, Stop, What

RULES = rules_of(seed=7, slots=1, trials=14)


def wish(rng: random.Random) -> What:
    trial = f"t{rng.randrange(12):04d}"
    lr = rng.choice([1e-4, 1e-3, 1e-2])
    return rng.choice(
        [
            Stop(trial),
            Hold(True),
            Hold(False),
            Pin(trial, True),
            Pin(trial, False),
            SetLimits({"trials": rng.randrange(3, 20)}),
            Add({"lr": lr, "depth": 3, "peft.method": "ia3"}),
            Add({"lr": lr}),
            Clone(trial, {"lr": lr}),
            Clone(trial, {"depth": 2}),
        ]
    )


def wishes(seed: int) -> list[tuple[int, What]]:
    rng = random.Random(seed)
    drawn = sorted((rng.randrange(90), i) for i in range(12))
    return [*((due, wish(rng)) for due, _ in drawn), (95, Hold(False))]


def picture(fold: StudyFold) -> dict[str, object]:
    """All that a fold knows, but for times and attempts, which deaths change."""
    return {
        "trials": {name: (v.state, v.point, v.curve, v.values, v.reason, v.pinned, v.of) for name, v in fold.trials.items()},
        "rest": (fold.held_by, fold.limits, fold.untried, fold.requests, list(fold.paused), fold.n_search),
    }


@pytest.mark.parametrize("form", ["stop", "promote"])
@pytest.mark.parametrize("seed", range(8))
def test_deaths_at_random_events_change_nothing_that_people_or_the_search_decided(form: str, seed: int) -> None:
    whole, script = MemoryStore(), Script(wishes(seed))
    search = run(whole, RULES, script, form=form, sampler="random")
    rng = random.Random(seed)
    store = MemoryStore()
    again = run_with_deaths(store, RULES, wishes(seed), [rng.randint(1, 30) for _ in range(60)], form=form, sampler="random")
    assert essence(store) == essence(whole)
    assert picture(again.fold) == picture(search.fold)


@pytest.mark.parametrize("form", ["stop", "promote"])
@pytest.mark.parametrize("seed", range(4))
def test_a_replayed_journal_leaves_sampler_and_scheduler_where_the_driver_left_them(form: str, seed: int) -> None:
    store = MemoryStore()
    search = run(store, RULES, Script(wishes(seed)), form=form)
    replayed = make_search(MemoryStore(), RULES, asha=ladder(form))
    replayed.replay(decode_all(store.lines()))
    assert picture(replayed.fold) == picture(search.fold)
    assert replayed.rules == search.rules
    if form == "promote":
        assert replayed._proposer.scheduler.rungs() == search._proposer.scheduler.rungs()  # type: ignore[attr-defined]
    assert replayed.sampler.state() == search.sampler.state()
