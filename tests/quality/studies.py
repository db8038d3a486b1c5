"""One study of the quality proof: a search on a problem in virtual time, and the regret of its incumbent over that time.

The incumbent is, of the reports so far, the best at the highest step that any trial has reached: what a person would pick then.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from tests.quality.problems import VALUE, Problem
from tests.quality.searches import Found, Method
from tune.core.ports import Answer, Decision, Point, Question
from tune.core.search import Assignment
from tune.core.table import Run
from tune.core.virtual import Searching, VirtualClock, VirtualSlots

SLOTS = 4
SHARES = tuple(round(float(s), 5) for s in np.geomspace(0.01, 1.0, 41))  # of the budget, at which the regret is read


@dataclass(frozen=True)
class Outcome:
    """`regrets`: at SHARES of the budget. `trials` begun, `whole` of them run to the end. `cpu_s`: real seconds of the search itself."""

    regrets: tuple[float, ...]
    trials: int
    whole: int
    cpu_s: float


def run_study(problem: Problem, method: Method, seed: int) -> Outcome:
    began = time.process_time()
    clock = VirtualClock()
    seen = problem if method.curves else replace(problem, n_steps=1)
    watched = _Watched(method.make(seen, seed, SLOTS, clock), clock, seen.n_steps)

    def answer(assignment: Assignment) -> Run:
        point = assignment.point
        return problem.run(point, assignment.seed) if method.curves else problem.full_run(point, assignment.seed)

    budget_s = problem.budget_s(SLOTS)
    VirtualSlots(watched, clock, SLOTS, answer).run(until_s=budget_s)
    regrets = _regrets(problem, watched.reports, [share * budget_s for share in SHARES])
    return Outcome(regrets, len(watched.points), watched.whole, time.process_time() - began)


def _regrets(problem: Problem, reports: list[tuple[float, str, Point, int, float]], times_s: list[float]) -> tuple[float, ...]:
    """Before the first report the regret is 1."""
    sign = 1.0 if problem.mode == "max" else -1.0
    found, best, regret, i = [], (-1, -np.inf), 1.0, 0
    for time_s in times_s:
        changed: Point | None = None
        while i < len(reports) and reports[i][0] <= time_s:
            _, _, point, step, value = reports[i]
            if (step, sign * value) > best:
                best, changed = (step, sign * value), point
            i += 1
        if changed is not None:
            regret = problem.regret(changed)
        found.append(regret)
    return tuple(found)


class _Watched:
    """A search whose reports are written down on their way."""

    def __init__(self, search: Searching, clock: VirtualClock, n_steps: int):
        self._search, self._clock, self._n_steps = search, clock, n_steps
        self.points: dict[str, Point] = {}
        self.reports: list[tuple[float, str, Point, int, float]] = []
        self.whole = 0

    def next(self) -> Found:
        found = self._search.next()
        if isinstance(found, Assignment):
            self.points[found.trial] = found.point
        return found

    def started(self, trial: str, slot: int, after_step: int | None = None) -> None:
        self._search.started(trial, slot, after_step)

    def report(self, trial: str, step: int, metrics: Mapping[str, float]) -> Decision:
        self.reports.append((self._clock.now(), trial, self.points[trial], step, metrics[VALUE]))
        self.whole += step == self._n_steps - 1
        return self._search.report(trial, step, metrics)

    def ask(self, trial: str, question: Question) -> Answer:
        return self._search.ask(trial, question)

    def finish(self, trial: str, metrics: Mapping[str, float], files: Mapping[str, str]) -> None:
        self._search.finish(trial, metrics, files)
