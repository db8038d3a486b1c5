"""What every sampler promises, run over each kind that a study may name."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.search.fakes import goal
from tune.adapters.optuna_search import GridSearch, TruthfulOptunaSearch, make_sampler
from tune.core.ports import Sampler
from tune.core.space import Choice, Choose, Float, Int, Space

SPACE = Space(
    (
        ("lr", Float(1e-5, 1e-1, log=True)),
        ("share", Float(0.0, 1.0, step=0.25)),
        ("depth", Int(1, 8)),
        ("batch", Choice((8, 16, "auto", None, True))),
        ("peft", Choose("method", (("lora", (("r", Int(4, 128, log=True)),)), ("ia3", ())))),
    )
)
FINITE = Space(
    (("depth", Int(1, 4)), ("batch", Choice((8, 16, None))), ("peft", Choose("method", (("a", (("r", Int(1, 2)),)), ("b", ())))))
)
KINDS: dict[str, tuple[Space, Callable[[int], Sampler]]] = {
    "tpe": (SPACE, lambda seed: TruthfulOptunaSearch(SPACE, goal("m", "max"), "s", make_sampler("tpe", seed, n_startup=4))),
    "tpe multivariate": (
        SPACE,
        lambda seed: TruthfulOptunaSearch(SPACE, goal("m", "max"), "s", make_sampler("tpe", seed, multivariate=True, n_startup=4)),
    ),
    "random": (SPACE, lambda seed: TruthfulOptunaSearch(SPACE, goal("m", "min"), "s", make_sampler("random", seed))),
    "grid": (FINITE, lambda seed: GridSearch(FINITE)),
}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> tuple[Space, Callable[[int], Sampler]]:
    return KINDS[request.param]


def play(sampler: Sampler, n: int, start: int = 0) -> list[dict]:
    """Ask and tell n trials with every kind of end."""
    points = []
    for i in range(start, start + n):
        point = sampler.ask(f"t{i}")
        assert point is not None
        points.append(point)
        value = float(point["depth"])
        sampler.observe(f"t{i}", 0, (value / 2,))
        if i % 5 == 4:
            sampler.tell(f"t{i}", "failed", ())
        else:
            sampler.tell(f"t{i}", "pruned" if i % 3 == 2 else "complete", (value,))
    return points


def test_every_point_lies_in_the_space(kind) -> None:
    space, make = kind
    for point in play(make(1), 18):
        assert space.faults(point) == [] and list(point)[:2] == [key for key, _ in space.params][:2]


def test_the_same_seed_and_history_give_the_same_points(kind) -> None:
    _, make = kind
    assert play(make(3), 18) == play(make(3), 18)


def test_several_open_trials_are_fine(kind) -> None:
    space, make = kind
    sampler = make(2)
    points = [sampler.ask(f"t{i}") for i in range(6)]
    assert all(point is not None and space.faults(point) == [] for point in points)
    for i in reversed(range(6)):
        sampler.tell(f"t{i}", "complete", (float(i),))
    assert sampler.ask("t6") is not None


def test_adopting_the_past_and_restoring_the_state_gives_the_same_future(kind) -> None:
    _, make = kind
    one, other = make(7), make(7)
    past = play(one, 9)
    state = one.state()
    for i, point in enumerate(past):
        other.adopt(f"t{i}", point)
        other.observe(f"t{i}", 0, (point["depth"] / 2,))
        if i % 5 == 4:
            other.tell(f"t{i}", "failed", ())
        else:
            other.tell(f"t{i}", "pruned" if i % 3 == 2 else "complete", (float(point["depth"]),))
    if state is not None:
        other.restore(state)
    assert play(one, 5, start=9) == play(other, 5, start=9)


def test_points_are_plain_json(kind) -> None:
    import json

    _, make = kind
    for point in play(make(1), 8):
        assert json.loads(json.dumps(point)) == point
