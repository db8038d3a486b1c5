"""A `Sampler` port that walks a finite space in order, `first` points before it. It needs no generator and no Optuna."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from tune.core.ports import PastTrial, Point, TrialState, Values
from tune.core.space import Space


class GridSearch:
    """Every point of a finite space once, the last key varying fastest. Where it is follows from how often it was asked."""

    def __init__(self, space: Space, first: Sequence[Point] = ()):
        self._space = space
        self._first = [dict(point) for point in first]
        self._taken: list[Point] = []
        self._left = self._walk()

    def _walk(self) -> Iterator[Point]:
        yield from self._first
        for point in self._space.grid():
            if point not in self._first and point not in self._taken:
                yield point

    def ask(self, trial: str) -> Point | None:
        return next(self._left, None)

    def take(self, trial: str, point: Point) -> Point:
        """What a person leaves out is as in the first point of the grid that has the rest; the walk comes by it no more."""
        fits = (whole for whole in self._space.grid() if all(whole.get(key) == value for key, value in point.items()))
        whole = self._space.draw(lambda key, _: point[key]) if self._space.is_whole(point) else next(fits)
        self._taken.append(whole)
        return whole

    def adopt(self, trial: str, point: Point) -> None:
        next(self._left, None)

    def observe(self, trial: str, step: int, values: Values) -> None:
        pass

    def pause(self, trial: str) -> None:
        pass

    def promote(self, trial: str) -> None:
        pass

    def tell(self, trial: str, state: TrialState, values: Values, violation: float = 0.0) -> None:
        pass

    def learn(self, past: Sequence[PastTrial]) -> None:
        raise AssertionError("a grid visits all its points and learns nothing")

    def state(self) -> None:
        return None

    def restore(self, state: dict[str, Any]) -> None:
        raise AssertionError("a grid has no random state to restore")
