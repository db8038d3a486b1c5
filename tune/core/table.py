"""A table of past results that answers for a trainable: which curve a drawn point gets.

A point is answered by its exact row, else by the nearest one in the unit cube of the space: a number counts by its share of the
range (of the logarithms on a log axis), another option or a key that only one of the two points has counts as a whole side. Or, by
trial, the n-th trial gets the n-th curve. Pure; `tune.core.table_text` makes a table from the text of a file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tune.core.ports import Point
from tune.core.space import Choice, Leaf, Space

Key = tuple[Any, ...]  # a point as its values in the order of the space's places, numbers as floats, None where it has no such key


@dataclass(frozen=True)
class Run:
    """One past trial: what it reported after its 0-based steps 0, 1, ..., and the seconds and dollars that each step took."""

    metrics: tuple[Mapping[str, float], ...]
    seconds: tuple[float, ...]
    usd: tuple[float, ...]

    @property
    def n_steps(self) -> int:
        return len(self.metrics)

    def first(self, n_steps: int | None) -> Run:
        """The run cut off after so many steps; None: all of it."""
        return self if n_steps is None else Run(self.metrics[:n_steps], self.seconds[:n_steps], self.usd[:n_steps])


@dataclass(frozen=True)
class Row:
    """A past trial and the point that it ran at; by trial, the point may be empty."""

    point: Mapping[str, Any]
    run: Run


class Table:
    """`rows` in the order of the file. `notes`: what people should know about it, such as columns that nothing reads."""

    def __init__(self, space: Space, rows: Sequence[Row], by_trial: bool = False, notes: Sequence[str] = ()):
        assert rows, "a table has at least one row"
        self.rows, self.by_trial, self.notes = list(rows), by_trial, tuple(notes)
        self._places = space.places()
        self._known: dict[Key, int] = {}  # every point seen so far -> index into _repeats
        self._repeats: list[list[Run]] = []
        for row in [] if by_trial else rows:
            key = self._key(row.point)
            if key not in self._known:
                self._known[key] = len(self._repeats)
                self._repeats.append([])
            self._repeats[self._known[key]].append(row.run)
        self._axes = [_Axis(place.param, [key[j] for key in self._known]) for j, place in enumerate(self._places)]

    @property
    def n_points(self) -> int:
        """Different points; by trial, trials."""
        return len(self.rows) if self.by_trial else len(self._repeats)

    @property
    def has_repeats(self) -> bool:
        """Whether some point stands in the table more than once, so that another seed means another result."""
        return any(len(runs) > 1 for runs in self._repeats)

    def answer(self, point: Point, number: int, seed: int) -> Run:
        """The curve of the trial with this 0-based number; of several at the same point, `seed` chooses."""
        if self.by_trial:
            return self.rows[number].run
        key = self._key(point)
        if key not in self._known:
            self._known[key] = self._nearest(key)
        repeats = self._repeats[self._known[key]]
        return repeats[seed % len(repeats)]

    def agrees(self, point: Point, number: int) -> bool:
        """By trial: whether the n-th row, where it has keys, has these values (up to the last bits of a float)."""
        return all(_same(point.get(key), value) for key, value in self.rows[number].point.items())

    def _key(self, point: Mapping[str, Any]) -> Key:
        return tuple(_plain(point.get(place.key)) for place in self._places)

    def _nearest(self, key: Key) -> int:
        squared = np.zeros(len(self._repeats))
        for axis, value in zip(self._axes, key, strict=True):
            squared += axis.squared_distances(value)
        return int(np.argmin(squared))  # the first of equals


class _Axis:
    """One side of the unit cube: the table's values along it. Absent keys are NaN, options of a Choice are numbered."""

    def __init__(self, param: Leaf, values: Sequence[Any]):
        self._param = param
        self._codes: dict[Any, int] = {}
        self._column = np.array([self._position(value) for value in values], dtype=float)
        self._absent = np.isnan(self._column)
        self._some_absent = bool(self._absent.any())

    def squared_distances(self, value: Any) -> np.ndarray:
        position = self._position(value)
        if math.isnan(position):
            return np.where(self._absent, 0.0, 1.0)
        if isinstance(self._param, Choice):
            return np.where(self._column == position, 0.0, 1.0)
        squared = np.square(self._column - position)
        return np.where(self._absent, 1.0, squared) if self._some_absent else squared

    def _position(self, value: Any) -> float:
        if isinstance(self._param, Choice):  # None is an option or an absent key: both are one more number
            return self._codes.setdefault(value, len(self._codes))
        return math.nan if value is None else unit(self._param, value)


def unit(param: Leaf, value: float) -> float:
    """Where a number lies between the bounds of its parameter, 0 to 1 (outside of it if it is not in the space)."""
    assert not isinstance(param, Choice)
    low, high = float(param.low), float(param.high)
    if param.log:
        low, high, value = math.log(low), math.log(high), math.log(value)
    return (value - low) / (high - low) if high > low else value - low


def _plain(value: Any) -> Any:
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _same(a: Any, b: Any) -> bool:
    numbers = all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in (a, b))
    return math.isclose(a, b, rel_tol=1e-12) if numbers else bool(a == b)
