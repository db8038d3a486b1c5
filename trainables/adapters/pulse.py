"""The pulse between a worker and its group's host: a worker that cannot be heard ends, and the host knows when it must have.

Connections do not tell in time of a node that is cut off from the rest: its workers would train on for minutes and write into the
folder of a trial whose next attempt runs elsewhere. So a worker beats to its host every few seconds, and each beat that the host
grants lets it go on for `silence_s` *from when it was sent* (`hold`). The host counts the same `silence_s`, and a margin, *from when
it heard the beat* (`Pulses`), which is later; it grants none to workers that it has given up. This is the lease of Gray and Cheriton
(SOSP 1989), with nothing assumed but that two clocks run at nearly the same rate.

Promised: when `Pulses.surely_over`, no thread of that process computes or begins a write any more. Its beating thread ends it in
time; the kernel does (SIGALRM, `ALARM_S` later, within the margin) if that thread cannot, because something holds the interpreter's
lock or because the process is stopped: one that wakes from a SIGSTOP dies of the alarm before its next instruction.

The price: a healthy worker ends, and its trial goes on from its checkpoint, if its interpreter stands still for `silence_s`: in a
library that holds the interpreter's lock so long, or on a machine that swaps.

Not promised: anything about a whole machine that stands still and goes on (a paused virtual machine), about processes that a recipe
starts beside its own, or about bytes that the process had given to its kernel: a network file system may send those when the link is
back, into files that `checkpoint.recover` has removed by then.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

BEATS = 8  # in the time of a silence
ALARM_S = 1.0  # after a worker should have ended by itself
MARGIN_S = 3.0  # of the host: the alarm, a busy machine, the rates of two clocks


def hold(
    beat: Callable[[float], bool],
    pause: Callable[[float], bool],
    silence_s: float,
    clock: Callable[[], float] = time.monotonic,
    alarm: Callable[[float], object] = lambda seconds: signal.setitimer(signal.ITIMER_REAL, seconds),
) -> None:
    """Returns when this process has to end.

    beat: whether the host granted a beat within so many seconds. pause: waits so long; False, at once, when the host is gone.
    alarm: the kernel ends this process in so many seconds, unless it is called again.
    """
    over_s = clock() + silence_s
    while (left_s := over_s - clock()) > 0:
        alarm(left_s + ALARM_S)
        sent_s = clock()
        if not beat(left_s):
            return
        over_s = sent_s + silence_s
        if clock() >= over_s or not pause(silence_s / BEATS):
            return


class Pulses:
    """The host's book of one set of workers: when each of them was granted a beat last."""

    def __init__(self, silence_s: float, clock: Callable[[], float]):
        self._silence_s, self._clock = silence_s, clock
        self._granted_s: dict[int, float] = {}

    def grant(self, rank: int) -> None:
        self._granted_s[rank] = self._clock()

    def surely_over(self, rank: int) -> bool:
        """The process of this rank has ended, whatever else is known of it. True of one that was never granted anything."""
        return self.silent_s(rank) >= self._silence_s + MARGIN_S

    def silent_s(self, rank: int) -> float:
        return self._clock() - self._granted_s.get(rank, float("-inf"))
