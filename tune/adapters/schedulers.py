"""Schedulers behind the `Scheduler` port: Ray's ASHA with its traps closed, and none.

Ray's AsyncHyperBandScheduler picks brackets with NumPy's global generator, forgets its rungs when a study is resumed, and a
misspelt time attribute switches it off without a word. Here a trial's bracket depends on the seed and the trial's id alone, rungs
are recalled from the journal, and step and value are arguments, so there is nothing to misspell.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from ray.tune.schedulers import ASHAScheduler, TrialScheduler

from tune.core.metrics import Mode
from tune.core.ports import Decision

_STEP, _VALUE = "step", "objective"


@dataclass(frozen=True)
class _TrialStub:
    """All that Ray's scheduler reads of a trial."""

    trial_id: str


class SeededASHA(ASHAScheduler):
    """ASHA over a 0-based axis: with grace 5, factor 4, max 50 it judges after epochs 6 and 21, as Optuna's halving does."""

    def __init__(self, mode: Mode, seed: int, *, grace: int, factor: float, max_steps: int, brackets: int = 1):
        self._seed = seed
        super().__init__(
            time_attr=_STEP,
            metric=_VALUE,
            mode=mode,
            max_t=max_steps,
            grace_period=grace,
            reduction_factor=factor,
            brackets=brackets,
        )

    def add(self, trial: str) -> None:
        self.on_trial_add(None, _TrialStub(trial))

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Give the trial a bracket with the stock probabilities but a draw of its own."""
        sizes = np.array([len(bracket._rungs) for bracket in self._brackets])
        weights = np.exp(sizes - sizes.max())
        edges = np.cumsum(weights / weights.sum())
        draw = int.from_bytes(hashlib.sha256(f"{self._seed}/bracket/{trial.trial_id}".encode()).digest()[:8], "big") / 2**64
        self._trial_info[trial.trial_id] = self._brackets[int(np.searchsorted(edges, draw, side="right"))]

    def decide(self, trial: str, step: int, value: float) -> Decision:
        action = self.on_trial_result(None, _TrialStub(trial), {_STEP: step, _VALUE: value})
        return "stop" if action == TrialScheduler.STOP else "continue"

    def recall(self, trial: str, step: int, value: float) -> None:
        for milestone, recorded in self._trial_info[trial]._rungs:  # highest rung first
            if step >= milestone and trial not in recorded:
                recorded[trial] = self._metric_op * value
                return

    def remove(self, trial: str) -> None:
        self._trial_info.pop(trial, None)

    def rungs(self) -> dict[int, list[dict[float, dict[str, float]]]]:
        """What stands in each bracket's rungs, for tests and reports: bracket -> [{milestone: {trial: value}}]."""
        return {i: [{m: dict(r)} for m, r in bracket._rungs] for i, bracket in enumerate(self._brackets)}


class NoScheduler:
    """Every trial runs to its end."""

    def add(self, trial: str) -> None:
        pass

    def decide(self, trial: str, step: int, value: float) -> Decision:
        return "continue"

    def recall(self, trial: str, step: int, value: float) -> None:
        pass

    def remove(self, trial: str) -> None:
        pass
