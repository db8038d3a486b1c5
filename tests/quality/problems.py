"""A problem of the quality proof: a space, the curve that a point gets, and how good the point truly is. No search library here.

What a search sees is one noisy past run of the point; what it is judged by is the mean of all of them. Normalised regret is 0 for the
best point of the table and 1 for the median one, cut off at 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tune.core.metrics import Mode
from tune.core.ports import Point
from tune.core.space import Space
from tune.core.table import Run

VALUE = "value"


@dataclass(frozen=True)
class Problem:
    """`family` groups problems in the report. `run`: (point, seed) -> what a trial there reports. `truth`: its true value.

    n_steps: reports of a whole trial; 1 if there are no curves. best, median: true values over the table. full_seconds: mean of a
    whole trial that reports at its end only. whole_trials: a study lasts as long as so many of them.
    """

    name: str
    family: str
    space: Space
    mode: Mode
    n_steps: int
    run: Callable[[Point, int], Run]
    whole_seconds: Callable[[Point, int], float]
    truth: Callable[[Point], float]
    best: float
    median: float
    full_seconds: float
    whole_trials: int

    def budget_s(self, slots: int) -> float:
        return self.whole_trials * self.full_seconds / slots

    def regret(self, point: Point) -> float:
        """0 at the best point of the table, 1 at the median and beyond."""
        gap = abs(self.median - self.best)
        lost = self.best - self.truth(point) if self.mode == "max" else self.truth(point) - self.best
        return float(np.clip(lost / gap, 0.0, 1.0)) if gap > 0 else 0.0

    def full_run(self, point: Point, seed: int) -> Run:
        """The trial of a search that looks at the end only: one report, at the cost of one whole training."""
        run = self.run(point, seed)
        return Run(run.metrics[-1:], (self.whole_seconds(point, seed),), (0.0,))


def run_of(values: np.ndarray, seconds: np.ndarray) -> Run:
    """Values and seconds of the steps, in order."""
    return Run(tuple({VALUE: float(v)} for v in values), tuple(float(s) for s in seconds), (0.0,) * len(values))
