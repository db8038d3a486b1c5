"""Room for the workers of a group: how many workers an elastic one begins with, and when it gets more.

A group of fixed size waits for its room, however long that takes. An elastic one begins with all of its workers if their room comes soon,
else with as many as have room then; where not even the fewest have, it waits for those, and looks again from the top. Room is what Ray
has reserved: two groups never count on the same. While a group has fewer, room that makes it one of the next size stays asked for, so
that an autoscaler sees what is missing. A group that leaves its workers for more gives their room back for a moment, and a busy cluster
takes seconds to notice; so only one group of a session does so at a time, the others ask for nothing meanwhile, and one that gained
nothing by it waits longer before it asks again.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from typing import Protocol

from ray.util.placement_group import PlacementGroup

from tune.core.shape import TrialShape

LOOK_EVERY_S = 1.0  # whether room for more is there
_SETTLE_EVERY_S = 0.1
_GLANCE_S = 1.0  # for a size, where no more is waited for
_RETURN_S = 20.0  # for room that was there a moment ago, or is there but for workers that are about to be gone
_ASK_AGAIN_S = 60.0  # for a fixed size: what a node can hold may have changed since
_MOST_PATIENCE_S = 600.0


class AskedRoom(Protocol):
    """See `cluster.room.Room`."""

    placement_group: PlacementGroup

    def there(self) -> bool: ...

    def withdraw(self) -> None: ...


class Turn:
    """Whose turn it is, among the groups of a session, to leave its workers for more."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holder: object | None = None

    def take(self, group: object) -> bool:
        """Whether it is this group's turn now."""
        with self._lock:
            self._holder = self._holder or group
            return self._holder is group

    def is_anothers(self, group: object) -> bool:
        return self._holder not in (None, group)

    def give_back(self, group: object) -> None:
        with self._lock:
            if self._holder is group:
                self._holder = None


class GroupRoom:
    """Room for one group of `shape`, again and again. ask: for room for a shape of fixed size. patience_s: how long room for all workers
    of an elastic one is waited for; at_once: not by the first ones, since somebody has waited already."""

    def __init__(
        self,
        shape: TrialShape,
        patience_s: float,
        ask: Callable[[TrialShape], AskedRoom],
        turn: Turn,
        at_once: bool = False,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
    ):
        self._shape, self._patience_s, self._ask, self._turn, self._clock, self._pause = shape, patience_s, ask, turn, clock, pause
        self._at_once = at_once
        self._left_with = 0  # workers that were left for more, if they were
        self._rest_s = 0.0  # before room for more is asked for again

    def settle(self, is_over: Callable[[], bool]) -> tuple[int, PlacementGroup] | None:
        """A number of workers, and their place. Waits as long as there is room for none of the sizes; None if `is_over` meanwhile."""
        if len(self._shape.sizes) == 1:
            return self._settle_whole(is_over)
        left_with, self._left_with = self._left_with, 0
        sure_of = self._next(left_with) if left_with else None
        patience_s, self._at_once = _GLANCE_S if left_with or self._at_once else self._patience_s, False
        self._turn.take(self)  # others ask for nothing meanwhile
        try:
            while True:
                for workers in self._shape.sizes:
                    room = self._placed(workers, _RETURN_S if workers == sure_of else patience_s, is_over)
                    if room is not None:
                        gained = workers > left_with
                        self._rest_s = 0.0 if gained else min(_MOST_PATIENCE_S, 2 * max(self._rest_s, self._patience_s))
                        return workers, room.placement_group
                    patience_s = _GLANCE_S
                sure_of = self._shape.sizes[-1]  # room for these comes below, and is given up to look for more
                some = self._placed(self._shape.sizes[-1], math.inf, is_over)
                if some is None:
                    return None
                some.withdraw()  # there may be room for more than the fewest
        finally:
            self._turn.give_back(self)

    def _settle_whole(self, is_over: Callable[[], bool]) -> tuple[int, PlacementGroup] | None:
        while not is_over():
            room = self._placed(self._shape.workers, _ASK_AGAIN_S, is_over)
            if room is not None:
                return self._shape.workers, room.placement_group
        return None

    def watch(self, workers: int, pause: Callable[[float | None], bool], leave: Callable[[], bool]) -> None:
        """Beside a group that has so many workers: ask for room for more, and have it `leave` for them when that is there.

        pause: wait so long, or without end; whether the workers are gone. leave: False if they are not up yet. What was reserved is given
        back at the end.
        """
        more: AskedRoom | None = None
        not_before = self._clock() + self._rest_s
        try:
            while not pause(LOOK_EVERY_S):
                if self._turn.is_anothers(self):
                    if more is not None:
                        more.withdraw()
                    more = None
                elif more is None:
                    more = self._ask(self._shape.of(self._next(workers) - workers)) if self._clock() >= not_before else None
                elif more.there() and self._turn.take(self):
                    if pause(2 * LOOK_EVERY_S):  # the others see whose turn it is
                        return
                    if leave():
                        self._left_with = workers
                        pause(None)
                        return
                    self._turn.give_back(self)
        finally:
            if not self._left_with:
                self._turn.give_back(self)
            if more is not None:
                more.withdraw()

    def close(self) -> None:
        """The group is over."""
        self._turn.give_back(self)

    def _next(self, workers: int) -> int:
        return min(size for size in self._shape.sizes if size > workers)

    def _placed(self, workers: int, within_s: float, is_over: Callable[[], bool]) -> AskedRoom | None:
        if is_over():  # Ray may be gone, and asking would start one
            return None
        room, until, is_there = self._ask(self._shape.of(workers)), self._clock() + within_s, False
        try:
            while not (is_there := room.there()) and not is_over() and self._clock() < until:
                self._pause(_SETTLE_EVERY_S)
            return room if is_there else None
        finally:
            if not is_there:
                room.withdraw()
