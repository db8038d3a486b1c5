"""One order on a group's slot, as its host keeps it: who took it, who arrived where, what was answered, how its ranks ended.

Plain state and what follows from it; the host (group_host.py) says when.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Literal

from trainables.adapters.generation import Generation
from trainables.adapters.order import End, Order
from trainables.adapters.reporter import Failure
from tune.core.ports import Decision

# "fail" carries reason, detail and whether all ranks hear it at the same point of the trial; "moves" a reason and a detail
Answer = (
    tuple[Literal["decision"], Decision]
    | tuple[Literal["fail"], str, str, bool]
    | tuple[Literal["leave"]]
    | tuple[Literal["moves"], str, str]
)
LEAVE: Answer = ("leave",)
Metrics = dict[str, float]
Report = tuple[int, Metrics]  # of a step
Reading = dict[str, float]  # of a rank's machine
_GRAVER = ("stop", "failed", "retry")  # of the ends of several ranks the first of these is the trial's


@dataclass
class Meeting:
    """Ranks that arrived at one point of a trial, and what they are told."""

    arrived: dict[int, Failure | None] = field(default_factory=dict)
    report: Report | None = None
    readings: list[Reading] = field(default_factory=list)
    answer: Answer | None = None
    timer: asyncio.TimerHandle | None = None


@dataclass
class Lease:
    """One order on the slot, from `run` to its last message. `ending`: how it ends once its workers are gone for sure."""

    order: Order
    taken: set[int] = field(default_factory=set)
    taken_by: Generation | None = None
    ends: dict[int, End] = field(default_factory=dict)
    meetings: dict[str, Meeting] = field(default_factory=dict)
    asking: Meeting | None = None
    questions: int = 0
    answers: dict[int, Any] = field(default_factory=dict)
    messages: deque[tuple[Any, ...]] = field(default_factory=deque)
    timer: asyncio.TimerHandle | None = None
    moves: tuple[str, str] | None = None  # reason and detail, if it is to go on with other workers
    abandoned: bool = False
    ending: End | None = None
    over: bool = False

    @property
    def is_let_go(self) -> bool:
        return self.abandoned or self.ending is not None

    def cancel_timers(self) -> None:
        for timer in (self.timer, *(meeting.timer for meeting in self.meetings.values())):
            if timer is not None:
                timer.cancel()

    @property
    def verdict(self) -> End:
        """The trial's end by those of its ranks that have ended: in order of arrival, the first failure is the cause of the others."""
        bad = [end for end in self.ends.values() if end.kind != "done"]
        return min(bad, key=lambda end: _GRAVER.index(end.kind)) if bad else self.ends[0]

    def in_order(self, workers: int) -> bool:
        """All ranks ended at the same point and left nothing behind: their processes may serve another trial."""
        ends = self.ends.values()
        together = len(ends) == 1 or all(end.kind == "done" for end in ends) or all(end.in_step for end in ends)
        return len(ends) == workers and together and not any(end.spoilt for end in ends)
