"""A search in virtual time: N slots on which trials take the seconds that a table says. Pure; nothing waits for a real clock.

The executor beside Ray's and the foreground's: it asks the same `Search` who is next and reports to it in the order of virtual
time, of equal times in the order of slots. A paused trial goes on after its last step, as one with a checkpoint does.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from tune.core.ports import Answer, Decision, Question, Spend
from tune.core.rules import Assignment
from tune.core.table import Run


class VirtualClock:
    """Tells the time that the executor has come to, in seconds from 0."""

    def __init__(self) -> None:
        self.time_s = 0.0

    def now(self) -> float:
        return self.time_s


class MemoryJournal:
    """A journal store that a simulation needs no disk for."""

    def __init__(self) -> None:
        self.kept: list[str] = []

    def append(self, line: str) -> None:
        self.kept.append(line)

    def lines(self) -> Iterator[str]:
        return iter(self.kept)

    def close(self) -> None:
        pass


class Searching(Protocol):
    """What the executor drives: `Search`, or another library's search behind the same five methods."""

    def next(self) -> Assignment | Literal["wait", "over"]: ...

    def started(self, trial: str, slot: int, after_step: int | None = None) -> None: ...

    def report(self, trial: str, step: int, metrics: Mapping[str, float]) -> Decision: ...

    def ask(self, trial: str, question: Question) -> Answer: ...

    def finish(self, trial: str, metrics: Mapping[str, float], files: Mapping[str, str]) -> None: ...


@dataclass
class _Attempt:
    """A trial on a slot. `step` is the one that it works at."""

    assignment: Assignment
    run: Run
    step: int


class VirtualSlots:
    """`answer` gives an assignment's curve."""

    def __init__(self, search: Searching, clock: VirtualClock, slots: int, answer: Callable[[Assignment], Run]):
        self._search, self._clock, self._answer = search, clock, answer
        self._free = list(range(slots))  # a heap: the lowest free slot is taken
        self._ends: list[tuple[float, int]] = []  # a heap of (time at which the step ends, slot)
        self._attempts: dict[int, _Attempt] = {}
        self._last_steps: dict[str, int] = {}

    def run(self, until_s: float | None = None) -> None:
        """Drive the search to its end, or to the last event at or before `until_s`."""
        while True:
            found = self._search.next() if self._free else "wait"
            if isinstance(found, Assignment):
                self._start(found)
                continue
            if not self._ends:
                assert found == "over", "the search waits while nothing runs"
                return
            if until_s is not None and self._ends[0][0] > until_s:
                return
            self._clock.time_s, slot = heapq.heappop(self._ends)
            self._step(slot)

    def _start(self, assignment: Assignment) -> None:
        slot = heapq.heappop(self._free)
        last = self._last_steps.get(assignment.trial)
        attempt = _Attempt(assignment, self._answer(assignment), 0 if last is None else last + 1)
        self._attempts[slot] = attempt
        self._search.started(assignment.trial, slot, last)
        if attempt.step < attempt.run.n_steps:
            self._work(slot, attempt)
        else:  # promoted past the end of its curve
            self._leave(slot, attempt, {})

    def _work(self, slot: int, attempt: _Attempt) -> None:
        heapq.heappush(self._ends, (self._clock.time_s + attempt.run.seconds[attempt.step], slot))

    def _step(self, slot: int) -> None:
        """The step that a slot worked at is over: report it, then go on, pause or end as the search says."""
        attempt = self._attempts[slot]
        trial, step, metrics = attempt.assignment.trial, attempt.step, attempt.run.metrics[attempt.step]
        attempt.step += 1
        self._last_steps[trial] = step
        if attempt.run.usd[step]:
            self._search.ask(trial, Spend(f"step {step}", attempt.run.usd[step]))
        decision = self._search.report(trial, step, metrics)
        if attempt.step == attempt.run.n_steps:
            self._leave(slot, attempt, metrics)
        elif decision == "stop":
            self._leave(slot, attempt, {})
        else:
            self._work(slot, attempt)

    def _leave(self, slot: int, attempt: _Attempt, metrics: Mapping[str, float]) -> None:
        del self._attempts[slot]
        heapq.heappush(self._free, slot)
        self._search.finish(attempt.assignment.trial, metrics, {})
