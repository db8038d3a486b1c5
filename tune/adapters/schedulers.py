"""Ray's ASHA behind the `Scheduler` port with its traps closed, and the scheduler of a study by its spec.

Ray's AsyncHyperBandScheduler picks brackets with NumPy's global generator, forgets its rungs when a study is resumed, and a
misspelt time attribute switches it off without a word. Here a trial's bracket depends on the seed and the trial's id alone, rungs
are recalled from the journal, and step and value are arguments, so there is nothing to misspell.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
from ray.tune.schedulers import ASHAScheduler, TrialScheduler

from tune.core.goal import Goal
from tune.core.metrics import Mode
from tune.core.ports import GO_ON, Scheduler, Values, Verdict
from tune.core.promotion import RungLadder, ladders, seeded_choice
from tune.core.scheduler_spec import AshaScheduler, HyperbandScheduler, MedianScheduler, PatienceScheduler
from tune.core.stopping import MedianStopping, NoScheduler, PatienceStopping

_STEP, _VALUE = "step", "objective"


def make_scheduler(spec: Any, goal: Goal, seed: int) -> Scheduler:
    """The scheduler of a study. Ray's ASHA where it can do it: one objective, the stopping form."""
    match spec:
        case AshaScheduler(form="stop", max=int(max_steps)) if not goal.several:
            return SeededASHA(goal.mode, seed, grace=spec.grace, factor=spec.factor, max_steps=max_steps, brackets=spec.brackets)
        case AshaScheduler(max=int(max_steps)) | HyperbandScheduler(max=int(max_steps)):
            weights = [share for share, _ in ladders(spec)]
            return RungLadder(goal, seed, form=spec.form, grace=spec.grace, factor=spec.factor, max_steps=max_steps, weights=weights)
        case MedianScheduler():
            return MedianStopping(goal, grace=spec.grace, min_trials=spec.min_trials)
        case PatienceScheduler():
            return PatienceStopping(goal, grace=spec.grace, patience=spec.patience, min_delta=spec.min_delta)
        case _:
            return NoScheduler()


@dataclass(frozen=True)
class _TrialStub:
    """All that Ray's scheduler reads of a trial."""

    trial_id: str


class SeededASHA(ASHAScheduler):
    """ASHA over a 0-based axis: with grace 5, factor 4, max 50 it judges after epochs 6 and 21, as Optuna's halving does."""

    def __init__(self, mode: Mode, seed: int, *, grace: int, factor: float, max_steps: int, brackets: int = 1):
        self._seed, self._last_step = seed, max_steps - 1
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
        self._trial_info[trial.trial_id] = self._brackets[seeded_choice(weights / weights.sum(), self._seed, trial.trial_id)]

    def decide(self, trial: str, step: int, values: Values) -> Verdict:
        if step >= self._last_step:  # complete: stopping it would save nothing
            return GO_ON
        action = self.on_trial_result(None, _TrialStub(trial), {_STEP: step, _VALUE: values[0]})
        return Verdict("stop", f"not among the best at the rung after step {step}") if action == TrialScheduler.STOP else GO_ON

    def recall(self, trial: str, step: int, values: Values, verdict: Verdict) -> None:
        if step >= self._last_step:
            return
        for milestone, recorded in self._trial_info[trial]._rungs:  # highest rung first
            if step >= milestone and trial not in recorded:
                recorded[trial] = self._metric_op * values[0]
                return

    def promote(self, ready: Collection[str], at_least: int = 0) -> tuple[str, int] | None:
        return None

    def promoted(self, trial: str, rung: int) -> None:
        raise AssertionError("this scheduler pauses nothing")

    def remove(self, trial: str) -> None:
        self._trial_info.pop(trial, None)

    def rungs(self) -> dict[int, list[dict[float, dict[str, float]]]]:
        """What stands in each bracket's rungs, for tests and reports: bracket -> [{milestone: {trial: value}}]."""
        return {i: [{m: dict(r)} for m, r in bracket._rungs] for i, bracket in enumerate(self._brackets)}
