"""Optuna's TPE without what it repeats: the same draws, several times sooner when there are thousands of trials.

Optuna 4 sorts all trials into good and bad ones anew for each parameter of a suggestion, and looks up every value of every trial
each time. Nothing changes between the parameters of one suggestion, nor in the values of a trial that has ended, so here both are
kept. It overrides two internal methods of Optuna 4.8, which is pinned; with any other version `tpe_class` gives Optuna's own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import TPESampler
from optuna.samplers._tpe import sampler as internals
from optuna.study import Study
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

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        super().before_trial(study, trial)
        self._split_now = None

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
        n = sum(t.state != TrialState.RUNNING for t in others)
        return internals._split_trials(study, others, self._gamma(n), self._constraints_func is not None)

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


def _numbers_of(trials: list[FrozenTrial]) -> np.ndarray:
    return np.fromiter((trial.number for trial in trials), dtype=int, count=len(trials))
