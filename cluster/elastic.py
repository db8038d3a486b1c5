"""How many workers an elastic group begins with: all of them if their room comes soon, else as many as have room at that moment.

Room is what Ray has reserved: two groups never count on the same. While a group has fewer workers, room for more of them stays asked
for, so that an autoscaler sees what is missing, and the group hears when it is there.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Protocol

from ray.util.placement_group import PlacementGroup

from tune.core.shape import TrialShape

_LOOK_EVERY_S = 0.1
_GLANCE_S = 1.0  # for each size, when there was no room for all


class AskedRoom(Protocol):
    """See `cluster.room.Room`."""

    placement_group: PlacementGroup

    def there(self) -> bool: ...

    def withdraw(self) -> None: ...


class ElasticRoom:
    """Room for one group of `shape`. ask: for room for a shape of fixed size. patience_s: how long room for all workers is waited for."""

    def __init__(
        self,
        shape: TrialShape,
        patience_s: float,
        ask: Callable[[TrialShape], AskedRoom],
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
    ):
        self._shape, self._patience_s, self._ask, self._clock, self._pause = shape, patience_s, ask, clock, pause

    def settle(self, is_over: Callable[[], bool]) -> tuple[int, PlacementGroup] | None:
        """A number of workers, and their place. Waits as long as there is room for none of the sizes; None if `is_over` meanwhile."""
        for i, workers in enumerate(itertools.cycle(self._shape.sizes)):
            room = self._ask(self._shape.of(workers))
            if self._comes(room, _GLANCE_S if i else self._patience_s, is_over):
                return workers, room.placement_group
            room.withdraw()
            if is_over():
                return None
        raise AssertionError("a shape has a size")

    def more(self, workers: int) -> AskedRoom:
        """Room that is asked for beside a group that has so many, so that it could be of the next size."""
        return self._ask(self._shape.of(min(size for size in self._shape.sizes if size > workers) - workers))

    def _comes(self, room: AskedRoom, within_s: float, is_over: Callable[[], bool]) -> bool:
        until = self._clock() + within_s
        while not room.there():
            if is_over() or self._clock() >= until:
                return False
            self._pause(_LOOK_EVERY_S)
        return True
