"""One set of a group's workers, from its start until each of them is gone for sure.

It grants their beats (pulse.py) until it is given up. Then it kills them and waits: for each, until its process was seen ended on its
own node, or until it was silent for so long that it must have ended by itself, whichever comes first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from trainables.adapters.pulse import BEATS, Pulses

Worker = dict[str, Any]  # pid, began (unix time), node, actor (a handle), placement_group
Kill = Callable[[Worker], Awaitable[bool]]  # whether its process was seen to have ended
Seconds = Callable[[], float]  # a clock that never goes back


class Generation:
    """`number` counts a group's sets. size: how many workers it has when it is whole. `workers`: rank -> those that have joined."""

    def __init__(self, number: int, size: int, silence_s: float, kill: Kill, clock: Seconds):
        self.number, self.size, self.began_s = number, size, clock()
        self.workers: dict[int, Worker] = {}
        self.given_up = False
        self.base_rss_bytes: int | None = None  # of a worker after its first trial
        self._tick_s, self._kill = silence_s / BEATS, kill
        self._pulses = Pulses(silence_s, clock)
        self._killing: list[asyncio.Future[bool]] = []  # the loop itself holds none

    def beat(self, rank: int) -> bool:
        """Whether this worker may go on for a while."""
        if not self.given_up:
            self._pulses.grant(rank)
        return not self.given_up

    def join(self, rank: int, worker: Worker) -> None:
        if self.beat(rank):
            self.workers[rank] = worker

    @property
    def is_whole(self) -> bool:
        return len(self.workers) == self.size

    def words(self, all_of_them: int) -> str:
        """Who is up, for people."""
        few = f"{self.size} of {all_of_them} workers, " if self.size < all_of_them else ""
        return f"{few}pids {', '.join(str(worker['pid']) for worker in self.workers.values())}"

    async def lost_sight(self) -> str:
        """Waits until a worker was silent for too long, however its connection looks; says which and how long. "": given up before."""
        while not self.given_up:
            silent = [rank for rank in self.workers if self._pulses.surely_over(rank)]
            if silent:
                return f"rank {', '.join(map(str, silent))} was not heard for {min(map(self._pulses.silent_s, silent)):.0f} s"
            await asyncio.sleep(self._tick_s)
        return ""

    async def gone(self) -> None:
        """Kill all workers. Returns when they are gone for sure, which takes as long as it takes; grants none of them a further beat."""
        self.given_up = True
        await asyncio.gather(*(self._gone(rank, worker) for rank, worker in self.workers.items()))

    async def _gone(self, rank: int, worker: Worker) -> None:
        killing = asyncio.ensure_future(self._kill(worker))
        self._killing.append(killing)
        while not self._pulses.surely_over(rank):
            if killing.done() and killing.exception() is None and killing.result():  # an error of it has seen nothing
                return
            await (asyncio.sleep(self._tick_s) if killing.done() else asyncio.wait([killing], timeout=self._tick_s))
