"""The worker groups of a session by slot: which may take a trial, which are coming up, which room is asked for.

Without `Growth` there is a group a slot from the start, and one that is lost is made anew at once; one that had no workers for long gets
no trial before they are up. With it the session asks for room for as many groups as trials could begin. Each has its place before it is
started, and takes trials when its workers are up and not before: one that does not come holds up nothing. A group that had no trial for
`idle_s` is let go, so that an autoscaler may take its node. Nothing here waits.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import ray
import ray.exceptions

from tune.core.errors import StopStudy
from tune.core.journal import GroupNoted

LOOK_EVERY_S = 0.5
MAX_FRUITLESS = 3  # groups in a row that had room and whose workers did not come up, before the next are asked for after a rest
_REST_S, _MOST_REST_S = 60.0, 1800.0


class Room(Protocol):
    """Room for one group; see `cluster.room`."""

    def there(self) -> bool: ...

    def withdraw(self) -> None: ...


class Groups(Protocol):
    """Makes worker groups (returns host actor and name; makes anew for a slot whose group is lost) and lets them go for good."""

    def make(self, slot: int, room: Room | None) -> tuple[Any, str]: ...

    def release(self, slot: int) -> None: ...

    def ask(self) -> Room: ...


def when_up(host: Any) -> Callable[[], Mapping[str, Any] | None]:
    """A look that returns the host's facts once its workers are up, `error` among them if they cannot be; None until then."""
    answer = host.ready.remote()

    def look() -> Mapping[str, Any] | None:
        if not ray.wait([answer], timeout=0)[0]:
            return None
        try:
            facts: Mapping[str, Any] = ray.get(answer)
        except ray.exceptions.RayActorError as error:
            return {"error": f"its host is gone: {str(error).splitlines()[0]}"}
        return facts

    return look


@dataclass(frozen=True)
class Growth:
    """A session that may have more groups than fit when it begins. idle_s: without a trial, after which a group is let go. patience_s:
    without room for any group, after which one may begin with fewer workers; None: it needs all of them."""

    idle_s: float
    patience_s: float | None = None


class Slots:
    """See the module. n: groups to begin with. note: writes an event to the journal. looks: at a host, whether its workers are up."""

    def __init__(
        self,
        n: int,
        groups: Groups,
        note: Callable[[GroupNoted], None],
        growth: Growth | None = None,
        clock: Callable[[], float] = time.monotonic,
        looks: Callable[[Any], Callable[[], Mapping[str, Any] | None]] = when_up,
    ):
        self._groups, self._note, self._growth, self._now, self._looks = groups, note, growth, clock, looks
        self._n, self._hosts = n, dict[int, tuple[Any, str]]()
        self._free: dict[int, float] = {}  # slot -> since when, by the clock
        self._starting: dict[int, Callable[[], Mapping[str, Any] | None]] = {}
        self._asked: dict[int, Room] = {}
        self._grown: set[int] = set()  # of the starting ones those that are new
        self._roomless: set[int] = set()  # of the starting ones those that look for room themselves
        self._of_the_start: set[int] = set()  # that are not up yet: the journal counts them already
        self._fruitless, self._last_failure = 0, ""
        self._given_up = 0  # groups of a session that does not grow
        self._look_at = self._none_since = self._rests_until = float("-inf")

    @property
    def grows(self) -> bool:
        return self._growth is not None

    @property
    def awaits_workers(self) -> bool:
        """Whether fewer trials may run than the search knows of, for want of groups."""
        return self.grows or bool(self._starting) or self._given_up > 0

    def may_take(self, bound: int) -> bool:
        """Whether there is a slot for a trial, or one can be made; `bound` trials may run at once."""
        return bool(self._free) or (not self.grows and len(self._hosts) + self._given_up < bound)

    def begin(self) -> None:
        """Make the groups of the start, for which there is room. Those of a session that grows ask for it as all others do: a group that
        is on its way to its place would lose it to room that is asked for meanwhile."""
        for slot in range(self._n):
            if self.grows:
                self._asked[slot] = self._groups.ask()
            else:
                self._hosts[slot] = self._groups.make(slot, None)
                self._free[slot] = self._now()
        self._of_the_start = set(self._asked)
        self._none_since = self._now()

    def host(self, slot: int) -> tuple[Any, str]:
        """The host actor of the slot's group, and its name."""
        return self._hosts[slot]

    def hosts(self) -> list[Any]:
        return [host for host, _ in self._hosts.values()]

    def take(self) -> int:
        """A slot for a trial: of a session that grows the lowest, so that the last ones to come fall idle first.

        Without a free one a group is made: more may run at once than when the session began.
        """
        if not self._free:
            assert not self.grows, "a trial without a group that is up"
            slot = self._unused()
            self._hosts[slot] = self._groups.make(slot, None)
            self._note(GroupNoted(slot, "grown", "more trials may run at once"))
            return slot
        slot = min(self._free) if self.grows else next(iter(self._free))
        del self._free[slot]
        return slot

    def give_back(self, slot: int, in_doubt: bool = False) -> None:
        """The slot's trial is over. in_doubt: the next one shall wait until its workers are up."""
        if in_doubt:
            self._starting[slot] = self._looks(self._hosts[slot][0])
        else:
            self._free[slot] = self._now()

    def lost(self, slot: int) -> None:
        """The slot's group is gone with its host, and its trial with it."""
        if self._growth is None:
            self._hosts[slot] = self._groups.make(slot, None)
            self._free[slot] = self._now()
        else:
            self._release(slot, "its host is lost")

    def came_to_nothing(self, slot: int, detail: str) -> None:
        """The workers of the slot's group cannot be brought up. Raises StopStudy if there is no other group, nor can one be asked for."""
        self._fruitless, self._last_failure = self._fruitless + 1, detail
        self._release(slot, f"its workers cannot be brought up: {detail}")
        if self._fruitless >= MAX_FRUITLESS:
            rest_s = min(_MOST_REST_S, _REST_S * 2 ** (self._fruitless - MAX_FRUITLESS))
            self._rests_until = self._now() + rest_s
        self._given_up += not self.grows
        if not self.grows and not self._hosts:
            raise self._nothing_left()

    def tend(self, active: int, waiting: int, bound: int) -> None:
        """Look after the groups: called several times a second.

        active: trials that run; waiting: trials that would begin if there were slots; bound: trials that may run at once.
        Raises StopStudy when no group is left and none can be brought up.
        """
        while self._free and len(self._hosts) > bound:
            self._release(next(reversed(self._free)), f"{bound} trial(s) may run at once")
        if not self.awaits_workers or self._now() < self._look_at:
            return
        self._look_at = self._now() + LOOK_EVERY_S
        self._see_who_is_up()
        if self._growth is None:
            return
        self._move_in()
        want = min(bound, active + waiting)
        if self._now() >= self._rests_until:
            self._ask(want)
        elif want and not self._hosts and not self._asked:
            raise self._nothing_left()
        self._withdraw(want)
        for slot in sorted(self._free, reverse=True):
            if len(self._hosts) > want and self._now() - self._free[slot] >= self._growth.idle_s:
                self._release(slot, f"no trial for it in {self._growth.idle_s:g} s")

    def withdraw(self) -> None:
        """Ask for no room any more."""
        self._withdraw(0)

    # -- inside ----------------------------------------------------------------------------------------------------------------

    def _nothing_left(self) -> StopStudy:
        return StopStudy("group_start_failed", self._last_failure, "look at the cluster's free CPUs and GPUs and at Ray's worker logs")

    def _see_who_is_up(self) -> None:
        for slot, look in list(self._starting.items()):
            facts = look()
            if facts is None:
                continue
            del self._starting[slot]
            self._roomless.discard(slot)
            if "error" in facts:
                self.came_to_nothing(slot, facts["error"])
                continue
            self._fruitless, self._rests_until = 0, float("-inf")
            self._free[slot] = self._now()
            if slot in self._grown:
                self._grown.discard(slot)
                self._note(GroupNoted(slot, "grown", "its workers are up"))

    def _move_in(self) -> None:
        """Start the groups whose room is there."""
        assert self._growth is not None
        for slot, room in list(self._asked.items()):
            if room.there():
                self._start(slot, room)
        if self._hosts or not self._asked:
            self._none_since = self._now()
        elif self._growth.patience_s is not None and self._now() - self._none_since >= self._growth.patience_s:
            slot, room = next(iter(self._asked.items()))
            room.withdraw()
            self._start(slot, None)

    def _start(self, slot: int, room: Room | None) -> None:
        """Make the group of an asked room; without its room it looks itself for as much as there is."""
        assert self._growth is not None
        del self._asked[slot]
        self._hosts[slot] = self._groups.make(slot, room)
        self._starting[slot] = self._looks(self._hosts[slot][0])
        self._roomless |= {slot} if room is None else set()
        self._grown |= {slot} - self._of_the_start
        self._of_the_start.discard(slot)

    def _ask(self, want: int) -> None:
        for _ in range(want - len(self._hosts) - len(self._asked)):
            slot = self._unused()
            self._asked[slot] = self._groups.ask()
            self._note(GroupNoted(slot, "asked", f"{want} trial(s) could run at a time"))

    def _withdraw(self, want: int) -> None:
        while self._roomless and len(self._hosts) > want:
            slot = self._roomless.pop()
            del self._starting[slot]
            self._release(slot, "no trial waits for it")
        while self._asked and len(self._hosts) + len(self._asked) > want:
            slot, room = self._asked.popitem()
            room.withdraw()
            counted = slot in self._of_the_start
            self._of_the_start.discard(slot)
            self._note(GroupNoted(slot, "released" if counted else "withdrawn", "no trial waits for it"))

    def _release(self, slot: int, why: str) -> None:
        del self._hosts[slot]
        self._free.pop(slot, None)
        new = slot in self._grown
        self._grown.discard(slot)
        self._note(GroupNoted(slot, "withdrawn" if new else "released", why))
        self._groups.release(slot)

    def _unused(self) -> int:
        return next(i for i in itertools.count() if i not in self._hosts and i not in self._asked)
