"""The search space as a pure value: walk, grid, corners, samples, faults, digest."""

from __future__ import annotations

import json
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tune.core.space import Choice, Choose, Float, Int, Leaf, Space, extremes, misfit, sample
from tune.core.space_text import parse_space

PEFT = Space(
    (
        ("optim.lr", Float(1e-6, 1e-3, log=True)),
        ("batch", Choice((8, 16, 32))),
        ("peft", Choose("method", (("lora", (("r", Int(4, 128, log=True)), ("alpha", Choice((1, 2))))), ("ia3", ())))),
    )
)
NESTED = Space((("a", Choose("kind", (("x", (("b", Choose("how", (("p", (("c", Int(1, 2)),)), ("q", ())))),)), ("y", ())))),))


def test_the_walk_asks_in_the_order_of_the_file_and_only_the_chosen_branch() -> None:
    asked: list[str] = []

    def pick(key: str, param: Leaf) -> object:
        asked.append(key)
        return "ia3" if key == "peft.method" else extremes(param)[0]

    assert PEFT.draw(pick) == {"optim.lr": 1e-6, "batch": 8, "peft.method": "ia3"}
    assert asked == ["optim.lr", "batch", "peft.method"]


def test_a_branch_puts_its_keys_under_its_name() -> None:
    point = PEFT.draw(lambda key, param: "lora" if key == "peft.method" else extremes(param)[-1])
    assert point == {"optim.lr": 1e-3, "batch": 32, "peft.method": "lora", "peft.lora.r": 128, "peft.lora.alpha": 2}


def test_branches_nest() -> None:
    assert [place.key for place in NESTED.places()] == ["a.kind", "a.x.b.how", "a.x.b.p.c"]
    assert list(NESTED.grid()) == [
        {"a.kind": "x", "a.x.b.how": "p", "a.x.b.p.c": 1},
        {"a.kind": "x", "a.x.b.how": "p", "a.x.b.p.c": 2},
        {"a.kind": "x", "a.x.b.how": "q"},
        {"a.kind": "y"},
    ]
    assert NESTED.size() == 4


def test_a_float_without_a_step_makes_the_space_infinite_and_its_grid_an_error() -> None:
    assert PEFT.size() is None
    with pytest.raises(ValueError, match="no grid"):
        PEFT.grid()


def test_the_steps_of_a_float_have_no_dust_of_binary_fractions() -> None:
    space = Space((("drop", Float(0.0, 0.5, step=0.1)),))
    assert [point["drop"] for point in space.grid()] == [0.0, 0.1, 0.2, 0.3, 0.4, 0.5]


def test_a_huge_grid_is_walked_lazily() -> None:
    space = Space((("seed", Int(0, 10**12)), ("n", Int(1, 10**12))))
    assert next(space.grid()) == {"seed": 0, "n": 1}


def test_corners_of_a_small_space_are_all_combinations_of_its_ends() -> None:
    corners = list(PEFT.corners())
    assert len(corners) == 2 * 3 * (2 * 2 + 1)
    assert {"optim.lr": 1e-3, "batch": 16, "peft.method": "ia3"} in corners


def test_corners_of_a_large_space_are_few_and_still_reach_every_end_and_option() -> None:
    params = tuple((f"k{i}", Float(0.0, 1.0)) for i in range(30))
    space = Space((*params, ("c", Choice(tuple(range(20)))), PEFT.params[2]))
    corners = list(space.corners(128))
    assert len(corners) <= 128
    for place in space.places():
        reached = {point.get(place.key) for point in corners}
        assert reached.issuperset(extremes(place.param)), place.key


@given(seed=st.integers(0, 10_000))
def test_every_sample_grid_point_and_corner_is_in_the_space(seed: int) -> None:
    for space in (PEFT, NESTED):
        point = space.sample(random.Random(seed))
        assert space.problems(point) == []
        assert space.settled(point) == point
    assert all(NESTED.problems(point) == [] for point in NESTED.grid())
    assert all(PEFT.problems(point) == [] for point in PEFT.corners())


@given(
    low=st.floats(-1e3, 1e3),
    n=st.integers(1, 50),
    step=st.floats(1e-3, 10),
    seed=st.integers(0, 100),
)
def test_a_stepped_float_stays_on_its_steps_and_within_bounds(low: float, n: int, step: float, seed: int) -> None:
    param = Float(low, low + n * step, step=step)
    value = sample(param, random.Random(seed))
    assert param.low <= value <= param.high
    assert Space((("x", param),)).size() in (n, n + 1)


def test_samples_of_a_log_axis_are_uniform_in_the_logarithm() -> None:
    rng = random.Random(1)
    drawn = [math.log10(sample(Float(1e-6, 1e-2, log=True), rng)) for _ in range(4000)]
    assert abs(sum(drawn) / len(drawn) + 4) < 0.08
    whole = [sample(Int(1, 1000, log=True), rng) for _ in range(4000)]
    assert min(whole) == 1 and max(whole) > 900 and sum(value <= 31 for value in whole) / 4000 == pytest.approx(0.5, abs=0.08)


@pytest.mark.parametrize(
    ("point", "text"),
    [
        ({"batch": 64}, "batch: got 64; use one of 8, 16, 32"),
        ({"batch": True}, "batch: got True; use one of 8, 16, 32"),
        ({"optim.lr": 1.0}, "optim.lr: got 1.0; use a number from 1e-06 to 0.001"),
        ({"optim.lr": "1e-4"}, "optim.lr: got '1e-4'; use a number from 1e-06 to 0.001"),
        ({"optim.lr": float("nan")}, "optim.lr: got nan; use a number from 1e-06 to 0.001"),
        ({"peft.method": "lorra"}, "peft.method: got 'lorra'; use one of \"lora\", \"ia3\" (did you mean 'lora'?)"),
        (
            {"optim.lrr": 1e-4},
            "optim.lrr: got a key that is not in the space (did you mean 'optim.lr'?); "
            "use a key of the space: optim.lr, batch, peft.method, peft.lora.r, peft.lora.alpha",
        ),
        ({"peft.lora.r": 8}, "peft.lora.r: got a key of branch 'lora' without its selector; add peft.method: lora"),
        (
            {"peft.method": "ia3", "peft.lora.r": 8},
            "peft.lora.r: got a key of branch 'lora' while peft.method is 'ia3'; remove it, or change the selector",
        ),
        ({"peft.method": "lora", "peft.lora.r": 8.5}, "peft.lora.r: got 8.5; use a whole number from 4 to 128"),
    ],
)
def test_a_point_outside_the_space_is_named_with_its_key_and_the_way_back(point: dict[str, object], text: str) -> None:
    assert PEFT.problems(point) == [text]


def test_a_value_between_two_steps_is_a_fault() -> None:
    assert misfit(Float(0.0, 1.0, step=0.25), 0.3) == "use 0 plus a multiple of 0.25"
    assert misfit(Float(0.0, 1.0, step=0.1), 0.1 + 0.2) is None
    assert misfit(Int(1, 9, step=4), 5) is None


def test_a_partial_point_is_in_the_space() -> None:
    assert PEFT.problems({"batch": 8}) == []
    assert PEFT.problems({}) == []


def test_settled_values_have_the_types_of_the_space() -> None:
    space = Space((("lr", Float(0.0, 2.0)), ("batch", Choice((8, 16)))))
    settled = space.settled({"lr": 1, "batch": 8.0})
    assert [type(value) for value in settled.values()] == [float, int]


def test_the_digest_changes_with_bounds_and_with_the_order_of_keys_and_not_otherwise() -> None:
    a, b = ("a", Int(1, 2)), ("b", Float(0.0, 1.0))
    assert Space((a, b)).digest() == Space((a, b)).digest()
    assert Space((a, b)).digest() != Space((b, a)).digest()
    assert Space((a, b)).digest() != Space((("a", Int(1, 3)), b)).digest()


@pytest.mark.parametrize("space", [PEFT, NESTED, Space((("x", Float(0.0, 1.0, step=0.5)), ("n", Int(0, 4, step=2))))])
def test_a_space_written_as_json_is_read_back_equal(space: Space) -> None:
    again, mistakes = parse_space(json.loads(json.dumps(space.to_json())))
    assert mistakes == []
    assert again == space
