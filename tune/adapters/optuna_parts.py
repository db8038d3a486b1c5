"""Parts from which `tune.adapters.samplers` makes Optuna samplers: the space in Optuna's words, Sobol points, and a sampler of two.

Optuna's own QMCSampler leaves out categorical and conditional parameters and its first trial; ours has a dimension for every
parameter that some point of the space has.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from tune.core.ports import Point
from tune.core.space import Choice, Float, Int, Leaf, Space

_VIOLATION = "violation"  # user attribute of an Optuna trial
_KEPT = -1.0  # the constraint of a trial that breaks nothing; how far it is from its limits is not known
_FIRST_ROWS = 64  # a power of two, as the balance of a Sobol sequence needs


def mark_violation(trial: Any, amount: float) -> None:
    """Note on an Optuna trial by how much it breaks its limits; 0 if it keeps them."""
    trial.set_user_attr(_VIOLATION, amount)


def constraints_of(trial: FrozenTrial) -> tuple[float, ...]:
    """Optuna's `constraints_func`: above 0 the trial is infeasible."""
    amount = trial.user_attrs.get(_VIOLATION, 0.0)
    return (amount if amount > 0 else _KEPT,)


def distribution_of(param: Leaf) -> BaseDistribution:
    match param:
        case Float():
            return FloatDistribution(param.low, param.high, log=param.log, step=param.step)
        case Int():
            return IntDistribution(param.low, param.high, log=param.log, step=param.step or 1)
        case Choice():
            return CategoricalDistribution(param.options)


def root_of(space: Space, *, numeric: bool = False) -> dict[str, BaseDistribution]:
    """The parameters that every point has and that can vary, by name; `numeric`: without those that have no order."""
    places = (place for place in space.places() if not place.under and not (numeric and isinstance(place.param, Choice)))
    found = {place.key: distribution_of(place.param) for place in places}
    return {key: found[key] for key in sorted(found) if not found[key].single()}


def known_part(space: Space, point: Point) -> list[tuple[str, Leaf]]:
    """The parameters of the space whose values `point` has, each in a branch that the point chose."""
    places = space.places()
    return [(p.key, p.param) for p in places if p.key in point and all(point.get(selector) == name for selector, name in p.under)]


class Delegating(BaseSampler):
    """Hands everything to `main`."""

    def __init__(self, main: BaseSampler):
        self.main = main

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self.main.infer_relative_search_space(study, trial)

    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> dict[str, Any]:
        return self.main.sample_relative(study, trial, search_space)

    def sample_independent(self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution) -> Any:
        return self.main.sample_independent(study, trial, param_name, param_distribution)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        self.main.before_trial(study, trial)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        self.main.after_trial(study, trial, state, values)


class Silent(Delegating):
    """Draws nothing: for trials whose every parameter is fixed. `main` sees which trials there were, as if it had been asked."""

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        self.main.infer_relative_search_space(study, trial)
        return {}

    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> dict[str, Any]:
        return {}

    def sample_independent(self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution) -> Any:
        raise AssertionError(f"{param_name} was to be fixed")


class InKnownSpace(Delegating):
    """`main` told once what it models together, instead of inferring it: a space that shrinks later would end CMA-ES."""

    def __init__(self, main: BaseSampler, known: dict[str, BaseDistribution]):
        super().__init__(main)
        self._known = known

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return dict(self._known)


class StartedBy(Delegating):
    """`main`, with what it draws independently taken from `start` until it has `n` trials to learn from, which are in `states`."""

    def __init__(self, main: BaseSampler, start: BaseSampler, n: int, states: tuple[TrialState, ...]):
        super().__init__(main)
        self._start, self._n, self._states = start, n, states
        self._starting = True

    def sample_independent(self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution) -> Any:
        self._starting = self._starting and len(study.get_trials(deepcopy=False, states=self._states)) < self._n
        source = self._start if self._starting else self.main
        return source.sample_independent(study, trial, param_name, param_distribution)


class OnOneThread(Delegating):
    """`main`, a model in torch, computed on one thread: the same sums on every machine, and sooner than on many for so little."""

    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> dict[str, Any]:
        import torch

        n_threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return self.main.sample_relative(study, trial, search_space)
        finally:
            torch.set_num_threads(n_threads)


class QuasiRandom(BaseSampler):
    """A scrambled Sobol sequence over every parameter of a space; the n-th trial is its n-th row. It keeps no state."""

    def __init__(self, space: Space, seed: int):
        self._columns = {place.key: i for i, place in enumerate(space.places())}
        self._seed = seed
        self._engine: Any = None
        self._rows = np.empty((0, len(self._columns)))

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {}

    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> dict[str, Any]:
        return {}

    def sample_independent(self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution) -> Any:
        return _at(param_distribution, float(self._row(trial.number)[self._columns[param_name]]))

    def _row(self, i: int) -> np.ndarray:
        if self._engine is None:
            from scipy.stats import qmc  # takes a second to import

            self._engine = qmc.Sobol(len(self._columns), scramble=True, rng=np.random.default_rng(self._seed))
        while len(self._rows) <= i:
            self._rows = np.vstack([self._rows, self._engine.random(max(_FIRST_ROWS, len(self._rows)))])
        row: np.ndarray = self._rows[i]
        return row


def _at(distribution: BaseDistribution, share: float) -> Any:
    """The value at `share` (0 <= share < 1) of a distribution's prior."""
    match distribution:
        case CategoricalDistribution():
            return distribution.choices[int(share * len(distribution.choices))]
        case FloatDistribution(step=None):
            value = _between(distribution.low, distribution.high, share, distribution.log)
        case FloatDistribution():
            assert distribution.step is not None
            n = round((distribution.high - distribution.low) / distribution.step) + 1
            value = float(f"{distribution.low + int(share * n) * distribution.step:.15g}")
        case IntDistribution(log=True):
            value = round(_between(distribution.low - 0.5, distribution.high + 0.5, share, True))
        case IntDistribution():
            n = (distribution.high - distribution.low) // distribution.step + 1
            value = distribution.low + int(share * n) * distribution.step
        case _:
            raise AssertionError(distribution)
    return min(max(value, distribution.low), distribution.high)


def _between(low: float, high: float, share: float, log: bool) -> float:
    if log:
        return math.exp(math.log(low) + share * (math.log(high) - math.log(low)))
    return low + share * (high - low)
