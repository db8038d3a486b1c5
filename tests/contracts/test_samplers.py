"""What every sampler promises, run over each kind that a study may name, with one objective and with two."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from pydantic import TypeAdapter

from tune.adapters.samplers import make_sampler_of
from tune.core.goal import Goal, Limit, Objective
from tune.core.ports import PastTrial, Point, Sampler, Values
from tune.core.sampler_spec import Sampler as SamplerSpec
from tune.core.sampler_spec import warm_start_of
from tune.core.space import Choice, Choose, Float, Int, Space

SPACE = Space(
    (
        ("lr", Float(1e-5, 1e-1, log=True)),
        ("share", Float(0.0, 1.0, step=0.25)),
        ("depth", Int(1, 8)),
        ("width", Int(1, 512, log=True)),
        ("batch", Choice((8, 16, "auto", None, True))),
        ("peft", Choose("method", (("lora", (("r", Int(4, 128, log=True)),)), ("ia3", ())))),
    )
)
FINITE = Space(
    (("depth", Int(1, 4)), ("batch", Choice((8, 16, None))), ("peft", Choose("method", (("a", (("r", Int(1, 2)),)), ("b", ())))))
)
ONE = Goal((Objective("m", "max"),))
TWO = Goal((Objective("m", "max"), Objective("cost", "min")))
LIMITED = Goal((Objective("m", "max"),), (Limit("cost", max=1.0),))
SPECS: dict[str, dict[str, Any]] = {
    "tpe": {"kind": "tpe", "n_startup": 4},
    "tpe multivariate": {"kind": "tpe", "n_startup": 4, "multivariate": True},
    "tpe joint without groups": {"kind": "tpe", "n_startup": 4, "multivariate": True, "group": False},
    "tpe after sobol": {"kind": "tpe", "n_startup": 4, "startup": "quasi_random"},
    "gp": {"kind": "gp", "n_startup": 4},
    "gp after sobol": {"kind": "gp", "n_startup": 4, "startup": "quasi_random"},
    "cmaes": {"kind": "cmaes", "population": 4},
    "nsga2": {"kind": "nsga2", "population": 4},
    "nsga2 after sobol": {"kind": "nsga2", "population": 4, "startup": "quasi_random"},
    "nsga3": {"kind": "nsga3", "population": 4},
    "quasi_random": {"kind": "quasi_random"},
    "random": {"kind": "random"},
    "grid": {"kind": "grid"},
}
SLOW = ("gp", "gp after sobol")  # imports torch, and takes a second a suggestion


@dataclass(frozen=True)
class Kind:
    spec: SamplerSpec
    goal: Goal
    space: Space

    def some(self, n: int) -> int:
        """So many trials, or fewer of a sampler that takes its time."""
        return max(3, n // 3) if self.spec.kind == "gp" else n

    def make(self, seed: int, first: tuple[Point, ...] = ()) -> Sampler:
        return make_sampler_of(self.spec, self.goal, self.space, study="s", seed=seed, first=first)


def cases() -> list[Any]:
    found = []
    for name, raw in SPECS.items():
        spec = TypeAdapter(SamplerSpec).validate_python(raw)
        goals = {"one": ONE, "two": TWO, "limited": LIMITED}
        for words, goal in goals.items():
            if (spec.kind == "cmaes" and goal is TWO) or (spec.kind == "nsga3" and goal is not TWO):
                continue  # refused by check
            if name.endswith(("after sobol", "without groups")) and goal is not ONE:
                continue  # as without it
            marks = [pytest.mark.slow] if name in SLOW else []
            found.append(pytest.param(Kind(spec, goal, FINITE if spec.kind == "grid" else SPACE), id=f"{name}, {words}", marks=marks))
    return found


every_kind = pytest.mark.parametrize("kind", cases())


def values(goal: Goal, point: Point) -> Values:
    return (float(point["depth"]), 1.0 / point["depth"])[: len(goal.objectives)]


def end(kind: Kind, i: int, point: Point, tell: Callable[..., None]) -> None:
    """Every kind of end in turn; a limit is broken now and then."""
    found = values(kind.goal, point)
    match i % 7:
        case 2:
            tell(f"t{i}", "pruned", found)
        case 4:
            tell(f"t{i}", "failed", ())
        case 5:
            tell(f"t{i}", "failed", (), 1.0)
        case 6:
            tell(f"t{i}", "complete", found, 0.5 if kind.goal.limits else 0.0)
        case _:
            tell(f"t{i}", "complete", found)


def play(kind: Kind, sampler: Sampler, n: int, start: int = 0, past: list[Point] | None = None) -> list[Point]:
    """Ask and tell n trials with every kind of end; with `past`, adopt those points instead of asking."""
    points = []
    for i in range(start, start + n):
        if past is None:
            point = sampler.ask(f"t{i}")
            assert point is not None
        else:
            point = past[i]
            sampler.adopt(f"t{i}", point)
        points.append(point)
        sampler.observe(f"t{i}", 0, tuple(value / 2 for value in values(kind.goal, point)))
        if i % 4 == 3:
            sampler.pause(f"t{i}")
            sampler.promote(f"t{i}")
            sampler.observe(f"t{i}", 1, values(kind.goal, point))
        end(kind, i, point, sampler.tell)
    return points


@every_kind
def test_every_point_lies_in_the_space_and_is_plain_json(kind: Kind) -> None:
    for point in play(kind, kind.make(1), kind.some(12)):
        assert kind.space.faults(point) == [] and json.loads(json.dumps(point)) == point
        wanted = [p.key for p in kind.space.places() if all(point[selector] == name for selector, name in p.under)]
        assert list(point) == wanted


@every_kind
def test_the_same_seed_and_history_give_the_same_points(kind: Kind) -> None:
    assert play(kind, kind.make(3), kind.some(12)) == play(kind, kind.make(3), kind.some(12))


@every_kind
def test_another_seed_gives_other_points_unless_it_is_a_grid(kind: Kind) -> None:
    one, other = play(kind, kind.make(3), kind.some(12)), play(kind, kind.make(4), kind.some(12))
    assert (one == other) == (kind.spec.kind == "grid")


@every_kind
def test_several_open_trials_are_fine(kind: Kind) -> None:
    sampler = kind.make(2)
    for batch in range(2):
        names = [f"t{batch}-{i}" for i in range(max(kind.some(6), 4 - 2 * batch))]
        points = [sampler.ask(name) for name in names]
        assert all(point is not None and kind.space.faults(point) == [] for point in points)
        for name, point in reversed(list(zip(names, points, strict=True))):
            assert point is not None
            sampler.tell(name, "complete", values(kind.goal, point))
    assert sampler.ask("last") is not None


@every_kind
def test_a_resume_from_the_recorded_state_or_by_asking_again_has_the_same_future(kind: Kind) -> None:
    one, other, n = kind.make(7), kind.make(7), kind.some(10)
    past = play(kind, one, n)
    state = one.state()
    if state is None:
        assert play(kind, other, n) == past
    else:
        play(kind, other, n, past=past)
        other.restore(json.loads(json.dumps(state)))
    assert play(kind, one, kind.some(6), start=n) == play(kind, other, kind.some(6), start=n)


@every_kind
def test_first_points_come_first_and_partial_ones_are_filled_up(kind: Kind) -> None:
    whole = next(kind.space.corners())
    if kind.spec.kind == "grid":
        assert kind.make(1, (whole,)).ask("t0") == whole
        return
    sampler = kind.make(1, ({"depth": 3}, {"peft.method": "ia3"}, whole))
    one, two, three = (sampler.ask(f"t{i}") for i in range(3))
    assert one is not None and two is not None
    assert one["depth"] == 3 and two["peft.method"] == "ia3" and three == whole
    assert kind.space.faults(one) == kind.space.faults(two) == [] and "peft.lora.r" not in two


@every_kind
def test_nothing_but_infeasible_points_is_no_end(kind: Kind) -> None:
    """A sampler that hears of broken limits alone goes on, and does not come back to the same point for ever."""
    sampler = kind.make(5)
    points = []
    for i in range(12):
        point = sampler.ask(f"t{i}")
        points.append(json.dumps(point))
        sampler.tell(f"t{i}", "pruned", (), 0.3)
    assert len(set(points)) > 6


@every_kind
def test_samplers_with_a_model_learn_from_earlier_trials(kind: Kind) -> None:
    if not hasattr(kind.spec, "warm_start"):
        assert warm_start_of(kind.spec) == ()
        return
    rows = play(
        kind, make_sampler_of(TypeAdapter(SamplerSpec).validate_python({"kind": "random"}), kind.goal, SPACE, study="r", seed=1), 12
    )
    past = [PastTrial(row, "complete", values(kind.goal, row)) for row in rows]
    past[3] = PastTrial(rows[3], "failed", (), violation=1.0)
    cold, warm, again = kind.make(2), kind.make(2), kind.make(2)
    warm.learn(past)
    again.learn(past)
    futures = [play(kind, sampler, kind.some(8)) for sampler in (cold, warm, again)]
    assert futures[1] == futures[2] != futures[0]
    assert all(kind.space.faults(point) == [] for point in futures[1])


@every_kind
def test_points_that_a_person_chose_are_taken_as_they_are_and_the_sampler_goes_on(kind: Kind) -> None:
    sampler = kind.make(3, first=(({"depth": 2, "batch": 8, "peft.method": "b"}) if kind.space is FINITE else {"depth": 2},))
    whole = kind.make(4).ask("t0000")
    assert whole is not None
    assert sampler.take("t0000", whole) == whole
    partial = sampler.take("t0001", {"depth": 3})
    assert partial["depth"] == 3 and kind.space.is_whole(partial) and not kind.space.faults(partial)
    first = sampler.ask("t0002")
    assert first is not None and first["depth"] == 2, "what a person adds takes no place of the study's first points"
    for trial in ("t0000", "t0001", "t0002"):
        sampler.tell(trial, "complete", tuple(0.5 for _ in kind.goal.objectives))
    assert sampler.ask("t0003") is not None
