"""Optuna's TPE without what it repeats: the same draws, several times sooner when there are thousands of trials.

Optuna 4 sorts all trials into good and bad ones anew for each parameter of a suggestion, and looks up every value and every score
of every trial each time. Nothing changes between the parameters of one suggestion, nor in a trial that has ended, so here they are
kept, and arrays are sorted instead of trials. What is left grows with the number of trials: the densities themselves. It overrides
internal methods of Optuna 4.8, which is pinned; with any other version `tpe_class` gives Optuna's own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import compress
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import TPESampler
from optuna.samplers._tpe import sampler as internals
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

_ROOM = 256  # trials for which a column of values first has room


def tpe_class() -> type[TPESampler]:
    """The sampler class to use with the Optuna that is installed."""
    return SwiftTpe if optuna.__version__.startswith("4.8.") else TPESampler


class SwiftTpe(TPESampler):
    """For studies that suggest all parameters of a trial at once, from a space that stays the same."""

    def __init__(self, **settings: Any):
        super().__init__(**settings)
        self._split_now: tuple[list[FrozenTrial], list[FrozenTrial]] | None = None
        self._numbers: dict[int, np.ndarray] = {}  # id of a list of the split -> numbers of its trials
        self._columns: dict[str, np.ndarray] = {}  # parameter -> internal value by trial number; NaN where it has none
        self._filled: dict[str, np.ndarray] = {}
        self._scores = _Scores()

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        super().before_trial(study, trial)
        self._split_now = None

    def sample_independent(self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution) -> Any:
        if self._split_now is None:  # Optuna counts the trials that have ended: enough for a model?
            return super().sample_independent(study, trial, param_name, param_distribution)
        return self._sample(study, trial, {param_name: param_distribution})[param_name]

    def _sample(self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> dict[str, Any]:
        if self._split_now is None:
            self._split_now = self._split(study, trial)
            self._numbers = {id(trials): _numbers_of(trials) for trials in self._split_now}
        below, above = self._split_now
        good = self._build_parzen_estimator(study, search_space, below, handle_below=True)
        bad = self._build_parzen_estimator(study, search_space, above, handle_below=False)
        candidates = good.sample(self._rng.rng, self._n_ei_candidates)
        best = TPESampler._compare(candidates, self._compute_acquisition_func(candidates, good, bad))
        return {name: distribution.to_external_repr(best[name]) for name, distribution in search_space.items()}

    def _split(self, study: Study, trial: FrozenTrial) -> tuple[list[FrozenTrial], list[FrozenTrial]]:
        states = [TrialState.COMPLETE, TrialState.PRUNED] + ([TrialState.RUNNING] if self._constant_liar else [])
        others = [t for t in study.get_trials(deepcopy=False, states=states) if t.number != trial.number]
        limited = self._constraints_func is not None
        if len(study.directions) > 1:
            n = sum(t.state != TrialState.RUNNING for t in others)
            return internals._split_trials(study, others, self._gamma(n), limited)
        good = self._scores.good(study, others, self._gamma, limited)
        return list(compress(others, good)), list(compress(others, ~good))

    def _get_internal_repr(self, trials: list[FrozenTrial], search_space: dict[str, BaseDistribution]) -> dict[str, np.ndarray]:
        numbers = self._numbers[id(trials)]
        values = {name: self._values(name, distribution, trials, numbers) for name, distribution in search_space.items()}
        whole = ~np.isnan(np.array(list(values.values()))).any(axis=0)
        return {name: column[whole] for name, column in values.items()}

    def _values(self, name: str, distribution: BaseDistribution, trials: list[FrozenTrial], numbers: np.ndarray) -> np.ndarray:
        """The parameter's value in each of the trials."""
        self._make_room(name, int(numbers.max(initial=0)) + 1)
        column, filled = self._columns[name], self._filled[name]
        for i in np.flatnonzero(~filled[numbers]):
            params = self._get_params(trials[i])  # of a running trial, Optuna takes those of branches that it did not choose too
            column[numbers[i]] = distribution.to_internal_repr(params[name]) if name in params else np.nan
            filled[numbers[i]] = trials[i].state.is_finished() or name in trials[i].params  # which never change
        values: np.ndarray = column[numbers]
        return values

    def _make_room(self, name: str, n: int) -> None:
        old = self._columns.get(name, np.empty(0))
        if n > len(old):
            room = np.full(max(_ROOM, 2 * n), np.nan)
            known = np.zeros(len(room), dtype=bool)
            room[: len(old)], known[: len(old)] = old, self._filled.get(name, np.zeros(0, dtype=bool))
            self._columns[name], self._filled[name] = room, known


_COMPLETE, _PRUNED, _INFEASIBLE, _RUNNING = range(4)  # good ones are taken from the first parts first, and never from the last


class _Scores:
    """Of each trial of one objective, by its number: its part, and by which two scores it is sorted there (the lower the better)."""

    def __init__(self) -> None:
        self._known: list[FrozenTrial | None] = []  # a storage replaces a trial that changes
        self._parts, self._scores = np.empty(0, dtype=np.int8), np.empty((2, 0))

    def good(self, study: Study, trials: Sequence[FrozenTrial], gamma: Callable[[int], int], limited: bool) -> np.ndarray:
        """Which of `trials` (in the order of their numbers) are good, as bool: Optuna's `_split_trials` of one objective."""
        self._learn(study, trials, limited)
        numbers = _numbers_of(trials)
        parts, scores = self._parts[numbers], self._scores[:, numbers]
        n_good = gamma(int((parts != _RUNNING).sum()))
        order = np.lexsort((scores[1], scores[0], parts))  # stable, as sorted() is
        good = np.zeros(len(trials), dtype=bool)
        good[order[:n_good]] = True
        return good & (parts != _RUNNING)

    def _learn(self, study: Study, trials: Sequence[FrozenTrial], limited: bool) -> None:
        n = trials[-1].number + 1 if trials else 0
        if n > len(self._known):
            more = max(_ROOM, 2 * n) - len(self._known)
            self._known += [None] * more
            self._parts = np.append(self._parts, np.zeros(more, dtype=np.int8))
            self._scores = np.append(self._scores, np.zeros((2, more)), axis=1)
        known = self._known
        for trial in trials:
            number = trial.number
            if known[number] is not trial:
                known[number] = trial
                self._parts[number], self._scores[:, number] = _part_of(study, trial, limited)


def _part_of(study: Study, trial: FrozenTrial, limited: bool) -> tuple[int, tuple[float, float]]:
    if trial.state == TrialState.RUNNING:
        return _RUNNING, (0.0, 0.0)
    violation = internals._get_infeasible_trial_score(trial) if limited else 0.0
    if violation > 0:
        return _INFEASIBLE, (violation, 0.0)
    if trial.state == TrialState.PRUNED:
        return _PRUNED, internals._get_pruned_trial_score(trial, study)
    assert trial.value is not None, "a complete trial has a value"
    return _COMPLETE, (-trial.value if study.direction == StudyDirection.MAXIMIZE else trial.value, 0.0)


def _numbers_of(trials: Sequence[FrozenTrial]) -> np.ndarray:
    return np.fromiter((trial.number for trial in trials), dtype=int, count=len(trials))
