"""A search space: a typed patch on a trainable's spec, walked define-by-run.

`Space.draw` asks `pick` for one value after another in the order of the file; a `Choose` first picks the name of a branch (under
`key.selector`) and then walks that branch alone (under `key.branch.sub-key`). Samplers, the grid, the corners and the check of
`first:` points are all this one walk with another `pick`. Nothing here knows a sampler library, a trainable or a file; a space is
read from a study file, and checked, by `tune.core.space_text`.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tune.core.errors import did_you_mean
from tune.core.ports import Point

ON_STEP = 1e-9  # relative distance from a step that still counts as on it (0.1 + 0.2 is on a step of 0.1)


@dataclass(frozen=True)
class Float:
    """A real number in [low, high]; `log`: uniform in its logarithm; `step`: only low, low + step, ... (not with `log`)."""

    low: float
    high: float
    log: bool = False
    step: float | None = None


@dataclass(frozen=True)
class Int:
    """A whole number in [low, high]; `log`: uniform in its logarithm (step is then 1); `step`: only low, low + step, ..."""

    low: int
    high: int
    log: bool = False
    step: int = 1


@dataclass(frozen=True)
class Choice:
    """One of `options` without an order between them: strings, numbers, booleans or None (what every sampler can take)."""

    options: tuple[Any, ...]


@dataclass(frozen=True)
class Choose:
    """One of several branches, each with its own parameters. `branches`: ((name, ((sub-key, Param), ...)), ...)."""

    selector: str
    branches: tuple[tuple[str, tuple[tuple[str, Param], ...]], ...]


Leaf = Float | Int | Choice
Param = Float | Int | Choice | Choose
Pick = Callable[[str, Leaf], Any]


@dataclass(frozen=True)
class Fault:
    """What is wrong with one key of a point."""

    key: str
    got: str
    fix: str

    def __str__(self) -> str:
        return f"{self.key}: got {self.got}; {self.fix}"


@dataclass(frozen=True)
class Place:
    """A parameter that can be drawn, its dotted key, and the selector values ((key, branch), ...) under which it is."""

    key: str
    param: Leaf
    under: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Space:
    """Parameters under their dotted keys, in the order in which they are drawn (the order is part of the space)."""

    params: tuple[tuple[str, Param], ...] = ()

    def draw(self, pick: Pick) -> Point:
        """The point that `pick` gives, asked key by key."""
        point: Point = {}
        _draw(self.params, "", pick, point)
        return point

    def places(self) -> tuple[Place, ...]:
        """Every parameter that some point has, in order; a selector stands as a Choice of its branch names."""
        return tuple(_places(self.params, "", ()))

    def size(self) -> int | None:
        """Number of points, or None if a Float without a step makes it infinite."""
        return _size(self.params)

    def grid(self) -> Iterator[Point]:
        """Every point, the last key varying fastest. Raises ValueError if the space is infinite."""
        if self.size() is None:
            raise ValueError("an infinite space has no grid")
        return _product(self.params, "", values)

    def corners(self, limit: int = 128) -> Iterator[Point]:
        """At most `limit` extreme points: all combinations of bounds, options and branches if so few, else each alone.

        In the second case each bound, option and branch is combined with the lower and with the upper bounds of the rest.
        """
        if _count_corners(self.params) <= limit:
            return _product(self.params, "", extremes)
        return itertools.islice(self._single_corners(), limit)

    def _single_corners(self) -> Iterator[Point]:
        seen: set[str] = set()
        for last in (False, True):
            for place in self.places():
                for value in extremes(place.param):
                    fixed = dict(place.under) | {place.key: value}

                    def pick(key: str, param: Leaf, fixed: Mapping[str, Any] = fixed, last: bool = last) -> Any:
                        return fixed[key] if key in fixed else extremes(param)[-1 if last else 0]

                    point = self.draw(pick)
                    mark = json.dumps(point)
                    if mark not in seen:
                        seen.add(mark)
                        yield point

    def sample(self, rng: random.Random) -> Point:
        """A point drawn from the prior of each parameter."""
        return self.draw(lambda _key, param: sample(param, rng))

    def faults(self, point: Mapping[str, Any]) -> list[Fault]:
        """What keeps `point`, which may leave keys out, from being in this space."""
        places = {place.key: place for place in self.places()}
        found: list[Fault] = []
        for key, value in point.items():
            place = places.get(key)
            if place is None:
                fix = f"use a key of the space: {', '.join(places) or 'it has none'}"
                found.append(Fault(key, f"a key that is not in the space{did_you_mean(key, places)}", fix))
                continue
            for selector, branch in place.under:
                if selector not in point:
                    found.append(Fault(key, f"a key of branch '{branch}' without its selector", f"add {selector}: {branch}"))
                elif point[selector] != branch:
                    found.append(
                        Fault(
                            key,
                            f"a key of branch '{branch}' while {selector} is {point[selector]!r}",
                            "remove it, or change the selector",
                        )
                    )
            why_not = misfit(place.param, value)
            if why_not:
                found.append(Fault(key, repr(value), why_not))
        return found

    def problems(self, point: Mapping[str, Any]) -> list[str]:
        """`faults` as text."""
        return [str(fault) for fault in self.faults(point)]

    def settled(self, point: Mapping[str, Any]) -> Point:
        """A point without faults with its values in the types of the space: 1 is 1.0 under a Float."""
        places = {place.key: place.param for place in self.places()}
        return {key: _settled(places[key], value) for key, value in point.items()}

    def is_whole(self, point: Mapping[str, Any]) -> bool:
        """Whether a point without faults leaves no key out."""
        return all(place.key in point for place in self.places() if all(point.get(key) == branch for key, branch in place.under))

    def to_json(self) -> dict[str, Any]:
        """The form of the study file; key order is the order of the space."""
        return {key: _to_json(param) for key, param in self.params}

    def digest(self) -> str:
        """16 hex digits that differ for spaces that draw differently, the order of keys included."""
        pairs = _ordered(self.to_json())
        return hashlib.sha256(json.dumps(pairs, allow_nan=False).encode()).hexdigest()[:16]


def values(param: Leaf) -> Sequence[Any]:
    """All values of a finite parameter in order."""
    if isinstance(param, Choice):
        return param.options
    if isinstance(param, Int):
        return range(param.low, param.high + 1, param.step)
    return tuple(_stepped(param, i) for i in range(_n_steps(param)))


def extremes(param: Leaf) -> tuple[Any, ...]:
    """Lowest and highest value, or every option of a Choice."""
    if isinstance(param, Choice):
        return param.options
    if isinstance(param, Int):
        top: Any = param.low + (param.high - param.low) // param.step * param.step
    else:
        top = param.high if param.step is None else _stepped(param, _n_steps(param) - 1)
    return (param.low, top) if top != param.low else (param.low,)


def sample(param: Leaf, rng: random.Random) -> Any:
    """One value from the prior of `param`."""
    if isinstance(param, Choice):
        return rng.choice(param.options)
    if isinstance(param, Int):
        if param.log:
            drawn = math.exp(rng.uniform(math.log(param.low - 0.5), math.log(param.high + 0.5)))
            return min(max(round(drawn), param.low), param.high)
        return rng.randrange(param.low, param.high + 1, param.step)
    if param.step is not None:
        return _stepped(param, rng.randrange(_n_steps(param)))
    if param.log:
        drawn = math.exp(rng.uniform(math.log(param.low), math.log(param.high)))
        return min(max(drawn, param.low), param.high)
    return rng.uniform(param.low, param.high)


def misfit(param: Leaf, value: Any) -> str | None:
    """How to mend `value` so that it is one of `param`'s, or None if it is."""
    if isinstance(param, Choice):
        options = param.options
        if any(type(option) is type(value) and option == value for option in options):
            return None
        if _is_number(value) and any(_is_number(option) and option == value for option in options):
            return None
        near = did_you_mean(value, [o for o in options if isinstance(o, str)]) if isinstance(value, str) else ""
        return f"use one of {', '.join(json.dumps(option) for option in options)}{near}"
    wanted = f"{param.low:g} to {param.high:g}" if isinstance(param, Float) else f"{param.low} to {param.high}"
    if not _is_number(value) or not math.isfinite(value):
        return f"use a number from {wanted}"
    if isinstance(param, Int) and not isinstance(value, int):
        return f"use a whole number from {wanted}"
    if not param.low <= value <= param.high:
        return f"use a number from {wanted}"
    if param.step is not None:
        steps = (value - param.low) / param.step
        if abs(steps - round(steps)) > ON_STEP * max(1.0, abs(steps)):
            return f"use {param.low:g} plus a multiple of {param.step:g}"
    return None


def _settled(param: Leaf, value: Any) -> Any:
    if isinstance(param, Choice):
        exact = [option for option in param.options if type(option) is type(value) and option == value]
        return exact[0] if exact else next(option for option in param.options if option == value)
    return float(value) if isinstance(param, Float) else value


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def selector_choice(param: Choose) -> Choice:
    return Choice(tuple(name for name, _ in param.branches))


def _draw(params: tuple[tuple[str, Param], ...], prefix: str, pick: Pick, point: Point) -> None:
    for key, param in params:
        full = prefix + key
        if isinstance(param, Choose):
            name = pick(f"{full}.{param.selector}", selector_choice(param))
            point[f"{full}.{param.selector}"] = name
            _draw(dict(param.branches)[name], f"{full}.{name}.", pick, point)
        else:
            point[full] = pick(full, param)


def _places(params: tuple[tuple[str, Param], ...], prefix: str, under: tuple[tuple[str, str], ...]) -> Iterator[Place]:
    for key, param in params:
        full = prefix + key
        if isinstance(param, Choose):
            selector = f"{full}.{param.selector}"
            yield Place(selector, selector_choice(param), under)
            for name, inner in param.branches:
                yield from _places(inner, f"{full}.{name}.", (*under, (selector, name)))
        else:
            yield Place(full, param, under)


def _product(params: tuple[tuple[str, Param], ...], prefix: str, values_of: Callable[[Leaf], Sequence[Any]]) -> Iterator[Point]:
    if not params:
        yield {}
        return
    (key, param), rest = params[0], params[1:]
    full = prefix + key
    for head in _heads(full, param, values_of):
        for tail in _product(rest, prefix, values_of):
            yield head | tail


def _heads(full: str, param: Param, values_of: Callable[[Leaf], Sequence[Any]]) -> Iterator[Point]:
    if isinstance(param, Choose):
        for name, inner in param.branches:
            for point in _product(inner, f"{full}.{name}.", values_of):
                yield {f"{full}.{param.selector}": name} | point
    else:
        for value in values_of(param):
            yield {full: value}


def _size(params: tuple[tuple[str, Param], ...]) -> int | None:
    total = 1
    for _, param in params:
        count = _count(param)
        if count is None:
            return None
        total *= count
    return total


def _count(param: Param) -> int | None:
    match param:
        case Float():
            return None if param.step is None else _n_steps(param)
        case Int():
            return (param.high - param.low) // param.step + 1
        case Choice():
            return len(param.options)
        case Choose():
            counts = [_size(inner) for _, inner in param.branches]
            return None if None in counts else sum(count for count in counts if count is not None)


def _count_corners(params: tuple[tuple[str, Param], ...]) -> int:
    total = 1
    for _, param in params:
        if isinstance(param, Choose):
            total *= sum(_count_corners(inner) for _, inner in param.branches)
        else:
            total *= len(extremes(param))
    return total


def _n_steps(param: Float) -> int:
    assert param.step is not None
    return math.floor((param.high - param.low) / param.step * (1 + ON_STEP) + ON_STEP) + 1


def _stepped(param: Float, i: int) -> float:
    """The i-th value, without the dust of binary fractions (0.30000000000000004)."""
    assert param.step is not None
    return min(max(float(f"{param.low + i * param.step:.15g}"), param.low), param.high)


def _to_json(param: Param) -> dict[str, Any]:
    match param:
        case Float():
            return {"float": [param.low, param.high]} | ({"log": True} if param.log else {}) | ({"step": param.step} if param.step else {})
        case Int():
            return (
                {"int": [param.low, param.high]} | ({"log": True} if param.log else {}) | ({"step": param.step} if param.step != 1 else {})
            )
        case Choice():
            return {"choice": list(param.options)}
        case Choose():
            branches = {name: {key: _to_json(inner) for key, inner in params} for name, params in param.branches}
            return {"choose": {param.selector: branches}}


def _ordered(value: Any) -> Any:
    if isinstance(value, dict):
        return [[key, _ordered(item)] for key, item in value.items()]
    return [_ordered(item) for item in value] if isinstance(value, list) else value
