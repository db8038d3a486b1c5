"""Schedulers that look at one trial, or at its running averages, instead of rungs: median, patience, and none. Pure."""

from __future__ import annotations

from collections.abc import Collection
from statistics import median

from tune.core.goal import Goal
from tune.core.metrics import better
from tune.core.ports import GO_ON, Values, Verdict


class NoScheduler:
    """Every trial runs to its end. The base of schedulers that never pause."""

    def add(self, trial: str) -> None:
        pass

    def decide(self, trial: str, step: int, values: Values) -> Verdict:
        return GO_ON

    def recall(self, trial: str, step: int, values: Values, verdict: Verdict) -> None:
        self.decide(trial, step, values)

    def promote(self, ready: Collection[str], at_least: int = 0) -> tuple[str, int] | None:
        return None

    def promoted(self, trial: str, rung: int) -> None:
        raise AssertionError("this scheduler pauses nothing")

    def remove(self, trial: str) -> None:
        pass


class MedianStopping(NoScheduler):
    """Stops a trial whose best value so far is worse than the median of the others' running averages at the same step.

    Golovin et al. 2017 (Google Vizier), section 3.2.1. No verdict up to 0-based step `grace`, nor with fewer than `min_trials` others.
    """

    def __init__(self, goal: Goal, *, grace: int, min_trials: int):
        self._goal, self._grace, self._min_trials = goal, grace, min_trials
        self._best: dict[str, float] = {}
        self._sums: dict[str, tuple[float, int]] = {}
        self._averages: dict[int, dict[str, float]] = {}  # step -> trial -> mean of its values up to there

    def decide(self, trial: str, step: int, values: Values) -> Verdict:
        value, mode = values[0], self._goal.mode
        if trial not in self._best or better(value, self._best[trial], mode):
            self._best[trial] = value
        total, n = self._sums.get(trial, (0.0, 0))
        self._sums[trial] = total + value, n + 1
        at_step = self._averages.setdefault(step, {})
        others = list(at_step.values())
        at_step[trial] = (total + value) / (n + 1)
        if step <= self._grace or len(others) < self._min_trials or not better(median(others), self._best[trial], mode):
            return GO_ON
        return Verdict("stop", f"its best value so far is worse than the median of {len(others)} trials after step {step}")


class PatienceStopping(NoScheduler):
    """Stops a trial that has not got better by more than `min_delta` for `patience` reports. Nothing is stopped up to step `grace`."""

    def __init__(self, goal: Goal, *, grace: int, patience: int, min_delta: float):
        self._mode, self._grace, self._patience, self._min_delta = goal.mode, grace, patience, min_delta
        self._best: dict[str, float] = {}
        self._waited: dict[str, int] = {}

    def decide(self, trial: str, step: int, values: Values) -> Verdict:
        best = self._best.get(trial)
        bar = None if best is None else best + (self._min_delta if self._mode == "max" else -self._min_delta)
        if bar is None or better(values[0], bar, self._mode):
            self._best[trial], self._waited[trial] = values[0], 0
            return GO_ON
        self._waited[trial] += 1
        if step <= self._grace or self._waited[trial] < self._patience:
            return GO_ON
        return Verdict("stop", f"no better than {best:.4g} for {self._waited[trial]} reports")

    def remove(self, trial: str) -> None:
        self._best.pop(trial, None)
        self._waited.pop(trial, None)
