"""Ray's OptunaSearch, told the truth.

What the stock class gets wrong and this one does right (each has a test that fails on the stock class):
- a trial that a scheduler stopped is told as PRUNED with its intermediate values, not as COMPLETE with a low-budget value;
- a failed trial (a NaN too) is told as FAIL, not left RUNNING;
- the Optuna study bears our study's name in a storage of its own, so that two studies never merge;
- the random state can be written down and restored, so that a resume need not ask a long past again.
The journal, not an Optuna storage, is the memory of a study.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Container, Iterator, Sequence
from typing import Any, Literal

import numpy as np
import optuna
from ray.tune.result import TRAINING_ITERATION
from ray.tune.search.optuna import OptunaSearch

from tune.core.goal import Goal
from tune.core.ports import PastTrial, Point, TrialState, Values
from tune.core.space import Choice, Float, Int, Space

_STATES = {
    "complete": optuna.trial.TrialState.COMPLETE,
    "pruned": optuna.trial.TrialState.PRUNED,
    "failed": optuna.trial.TrialState.FAIL,
}
optuna.logging.set_verbosity(optuna.logging.WARNING)


def make_sampler(
    kind: Literal["tpe", "random"], seed: int, *, multivariate: bool = False, n_startup: int = 10
) -> optuna.samplers.BaseSampler:
    """The Optuna sampler of a study. `n_startup` random trials come before TPE's model is used."""
    if kind == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    with warnings.catch_warnings():  # multivariate is marked experimental in Optuna; the study asked for it by name
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(
            seed=seed, multivariate=multivariate, group=multivariate, n_startup_trials=n_startup, warn_independent_sampling=False
        )


class TruthfulOptunaSearch(OptunaSearch):
    """A `Sampler` port over Ray's OptunaSearch. `first` points, which may be partial, are tried before the sampler is free."""

    def __init__(self, space: Space, goal: Goal, study: str, sampler: optuna.samplers.BaseSampler, first: Sequence[Point] = ()):
        self._typed_space = space
        self._first = list(first)
        self._n_asked = 0
        self._goal = goal
        self._storage = _StorageWithPauses()
        names = [objective.name for objective in goal.objectives]
        modes = [objective.mode for objective in goal.objectives]
        super().__init__(
            space=self._define_by_run,
            metric=names if goal.several else names[0],
            mode=modes if goal.several else modes[0],
            sampler=sampler,
            study_name=study,
            storage=self._storage,
        )

    def _define_by_run(self, trial: Any) -> None:
        def pick(key: str, param: Float | Int | Choice) -> Any:
            match param:
                case Float():
                    return trial.suggest_float(key, param.low, param.high, log=param.log, step=param.step)
                case Int():
                    return trial.suggest_int(key, param.low, param.high, log=param.log, step=param.step or 1)
                case Choice():
                    return trial.suggest_categorical(key, param.options)

        self._typed_space.draw(pick)

    # -- the Sampler port -----------------------------------------------------------------------------------------------------

    def ask(self, trial: str) -> Point:
        if self._n_asked < len(self._first):
            self._ot_study.enqueue_trial(self._first[self._n_asked])
        self._n_asked += 1
        suggested = self.suggest(trial)
        assert suggested is not None
        return dict(suggested)

    def observe(self, trial: str, step: int, values: Values) -> None:
        if not self._goal.several:  # Optuna keeps no intermediate values of several objectives
            self.on_trial_result(trial, {self._goal.metric: values[0], TRAINING_ITERATION: step})

    def pause(self, trial: str) -> None:
        self._storage.paused.add(self._ot_trials[trial]._trial_id)

    def promote(self, trial: str) -> None:
        self._storage.paused.discard(self._ot_trials[trial]._trial_id)

    def learn(self, past: Sequence[PastTrial]) -> None:
        raise NotImplementedError

    def tell(self, trial: str, state: TrialState, values: Values, violation: float = 0.0) -> None:
        """Tell Optuna the end of a trial once. A pruned trial's value is its last intermediate value, as Optuna does itself."""
        if trial in self._completed_trials:
            return
        self.promote(trial)
        usable = bool(values) and all(math.isfinite(value) for value in values)
        if state == "complete" and not usable:
            state = "failed"
        self._ot_study.tell(self._ot_trials[trial], list(values) if state == "complete" else None, state=_STATES[state])
        self._completed_trials.add(trial)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Ray's own hook: complete only if the result says so by `state`, pruned if Ray stopped it early."""
        values = self._goal.values(result or {})
        state: TrialState = "failed" if error or values is None else (result or {}).get("state", "pruned")
        self.tell(trial_id, state, values or ())

    def adopt(self, trial: str, point: Point) -> None:
        sampler, self._ot_study.sampler = self._ot_study.sampler, _fixed_sampler()
        try:
            self._ot_study.enqueue_trial(point)
            self._n_asked += 1
            self.suggest(trial)
        finally:
            self._ot_study.sampler = sampler

    def state(self) -> dict[str, Any] | None:
        generators = [_state_to_json(g.get_state(legacy=True)) for g in self._generators()]
        return {"generators": generators} if generators else None

    def restore(self, state: dict[str, Any]) -> None:
        for generator, saved in zip(self._generators(), state["generators"], strict=True):
            generator.set_state(_state_from_json(saved))

    def _generators(self) -> Iterator[np.random.RandomState]:
        """Optuna's generators in a fixed order; none if this Optuna keeps them elsewhere (then a resume re-asks the past)."""
        sampler = self._ot_study.sampler
        for holder in (sampler, getattr(sampler, "_random_sampler", None)):
            generator = getattr(getattr(holder, "_rng", None), "rng", None)
            if isinstance(generator, np.random.RandomState):
                yield generator


class _StorageWithPauses(optuna.storages.InMemoryStorage):
    """To samplers a paused trial is one that was pruned at its last value: they learn from it, and it may yet go on."""

    def __init__(self) -> None:
        super().__init__()
        self.paused: set[int] = set()

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[optuna.trial.TrialState] | None = None
    ) -> list[optuna.trial.FrozenTrial]:
        if not self.paused:
            return super().get_all_trials(study_id, deepcopy, states)
        shown = [self._shown(trial) for trial in super().get_all_trials(study_id, deepcopy, None)]
        return [trial for trial in shown if states is None or trial.state in states]

    def _shown(self, trial: optuna.trial.FrozenTrial) -> optuna.trial.FrozenTrial:
        if trial._trial_id not in self.paused:
            return trial
        shown = copy.copy(trial)
        shown.state = optuna.trial.TrialState.PRUNED
        return shown


def _fixed_sampler() -> optuna.samplers.BaseSampler:
    return optuna.samplers.RandomSampler(seed=0)  # its draws are never used: every parameter of an adopted trial is fixed


def _state_to_json(state: Any) -> list[Any]:
    name, keys, position, has_gauss, cached = state
    return [name, [int(k) for k in keys], int(position), int(has_gauss), float(cached)]


def _state_from_json(saved: list[Any]) -> tuple[Any, ...]:
    name, keys, position, has_gauss, cached = saved
    return name, np.array(keys, dtype=np.uint32), position, has_gauss, cached


class GridSearch:
    """A `Sampler` port that walks a finite space in order, `first` points before it. It needs no generator and no Optuna."""

    def __init__(self, space: Space, first: Sequence[Point] = ()):
        self._points: Callable[[], Iterator[Point]] = space.grid
        self._first = [dict(point) for point in first]
        self._left = self._walk()

    def _walk(self) -> Iterator[Point]:
        yield from self._first
        for point in self._points():
            if point not in self._first:
                yield point

    def ask(self, trial: str) -> Point | None:
        return next(self._left, None)

    def observe(self, trial: str, step: int, values: Values) -> None:
        pass

    def pause(self, trial: str) -> None:
        pass

    def promote(self, trial: str) -> None:
        pass

    def learn(self, past: Sequence[PastTrial]) -> None:
        pass  # a grid visits all its points

    def tell(self, trial: str, state: TrialState, values: Values, violation: float = 0.0) -> None:
        pass

    def adopt(self, trial: str, point: Point) -> None:
        next(self._left, None)

    def state(self) -> None:
        return None

    def restore(self, state: dict[str, Any]) -> None:
        raise AssertionError("a grid has no random state to restore")
