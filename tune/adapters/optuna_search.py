"""Ray's OptunaSearch, told the truth.

What the stock class gets wrong and this one does right (each has a test that fails on the stock class):
- a trial that a scheduler stopped is told as PRUNED with its intermediate values, not as COMPLETE with a low-budget value;
- a failed trial (a NaN too) is told as FAIL, not left RUNNING;
- the Optuna study bears our study's name in a storage of its own, so that two studies never merge;
- the random state can be written down and restored, so that a resume need not ask a long past again.
Beyond it: an infeasible point is told as a violated constraint; a trial that pauses for a promotion looks pruned meanwhile; trials
of earlier studies can be learned from. The journal, not an Optuna storage, is the memory of a study.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import optuna
from ray.tune.result import TRAINING_ITERATION
from ray.tune.search.optuna import OptunaSearch

from tune.adapters.optuna_parts import Delegating, Silent, constraints_of, known_part, mark_violation
from tune.adapters.swift_tpe import tpe_class
from tune.core.goal import Goal
from tune.core.ports import PastTrial, Point, TrialState, Values
from tune.core.space import Choice, Float, Int, Leaf, Space

_STATES = {
    "complete": optuna.trial.TrialState.COMPLETE,
    "pruned": optuna.trial.TrialState.PRUNED,
    "failed": optuna.trial.TrialState.FAIL,
}
optuna.logging.set_verbosity(optuna.logging.WARNING)


def make_sampler(
    kind: Literal["tpe", "random"],
    seed: int,
    *,
    multivariate: bool = False,
    group: bool | None = None,
    constant_liar: bool = True,
    n_startup: int = 10,
) -> optuna.samplers.BaseSampler:
    """An Optuna sampler whose random state is all its state. `n_startup` random trials come before TPE's model is used."""
    if kind == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    with warnings.catch_warnings():  # marked experimental in Optuna 4, usual in 5
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return tpe_class()(
            seed=seed,
            multivariate=multivariate,
            group=multivariate if group is None else group,
            constant_liar=constant_liar,
            constraints_func=constraints_of,
            n_startup_trials=n_startup,
            warn_independent_sampling=False,
        )


@dataclass(frozen=True)
class Hearing:
    """What an Optuna sampler makes of what it is told.

    pruned: it learns from trials that were cut short. limits: it takes violated constraints. state: its random state is all its
    state. generations: it counts trials to generations. from_past: makes it anew from past trials.
    """

    pruned: bool = True
    limits: bool = True
    state: bool = True
    generations: bool = False
    from_past: Callable[[Sequence[PastTrial]], optuna.samplers.BaseSampler] | None = None


class TruthfulOptunaSearch(OptunaSearch):
    """A `Sampler` port over Ray's OptunaSearch. `first` points, which may be partial, are tried before the sampler is free."""

    def __init__(
        self,
        space: Space,
        goal: Goal,
        study: str,
        sampler: optuna.samplers.BaseSampler,
        first: Sequence[Point] = (),
        hearing: Hearing = Hearing(),
    ):
        self._typed_space = space
        self._first = list(first)
        self._n_asked = 0
        self._goal = goal
        self._hearing = hearing
        self._storage = _StorageWithPauses(len(goal.objectives))
        self._last_steps: dict[int, int] = {}  # number of an Optuna trial -> last step observed
        self._worst: Values = ()  # of each objective among complete trials
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
        self._typed_space.draw(lambda key, param: _suggested(trial, key, param))

    # -- the Sampler port -----------------------------------------------------------------------------------------------------

    def ask(self, trial: str) -> Point:
        if self._n_asked < len(self._first):
            self._ot_study.enqueue_trial(self._first[self._n_asked])
        self._n_asked += 1
        point = self._draw(trial)
        self._count_generation(self._ot_trials[trial])
        return point

    def take(self, trial: str, point: Point) -> Point:
        if self._typed_space.is_whole(point):
            with self._fixed_to(point):
                taken = self._draw(trial)
        else:
            self._ot_study.enqueue_trial(point)
            taken = self._draw(trial)
        self._count_generation(self._ot_trials[trial])
        return taken

    def _draw(self, trial: str) -> Point:
        """As Ray's `suggest`, without its warning of a model that takes more than a second."""
        asked = self._ot_trials[trial] = self._ot_study.ask()
        return self._typed_space.draw(lambda key, param: _suggested(asked, key, param))

    def observe(self, trial: str, step: int, values: Values) -> None:
        self._observe(self._ot_trials[trial], step, values)

    def _observe(self, asked: Any, step: int, values: Values) -> None:
        self._last_steps[asked.number] = step
        if self._goal.several:  # of which Optuna keeps no intermediate values
            self._storage.last_values[asked._trial_id] = list(values)
        else:
            asked.report(values[0], step)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Ray's own hook."""
        values = self._goal.values(result)
        if values is not None and trial_id not in self._completed_trials:
            self.observe(trial_id, result[TRAINING_ITERATION], values)

    def pause(self, trial: str) -> None:
        asked = self._ot_trials[trial]
        mark_violation(asked, self._cut_short(asked))
        frozen = self._storage.get_trial(asked._trial_id)
        self._ot_study.sampler.after_trial(self._ot_study, frozen, optuna.trial.TrialState.PRUNED, None)  # notes the constraint
        self._storage.paused.add(asked._trial_id)

    def promote(self, trial: str) -> None:
        """Nothing to tell: while it runs on, the trial still counts by what it has shown, and not as unknown or, to a liar, bad."""

    def tell(self, trial: str, state: TrialState, values: Values, violation: float = 0.0) -> None:
        """Tell Optuna the end of a trial once. A pruned trial's value is its last intermediate value, as Optuna does itself."""
        if trial in self._completed_trials:
            return
        self._end(self._ot_trials[trial], state, values, violation)
        self._completed_trials.add(trial)

    def _end(self, asked: Any, state: TrialState, values: Values, violation: float) -> None:
        self._storage.paused.discard(asked._trial_id)
        if state == "complete" and not (values and all(math.isfinite(value) for value in values)):
            state = "failed"
        if violation > 0:
            state, values = self._as_infeasible(state, values)
        elif state == "complete":
            self._note_worst(values)
        mark_violation(asked, violation + (self._cut_short(asked) if state == "pruned" else 0.0))
        self._ot_study.tell(asked, list(values) if state == "complete" else None, state=_STATES[state])
        self._last_steps.pop(asked.number, None)

    def _as_infeasible(self, state: TrialState, values: Values) -> tuple[TrialState, Values]:
        """An infeasible trial is no failure. A sampler deaf to pruned trials or limits hears it as the worst that there was."""
        if self._worst and (not self._hearing.limits or not (self._hearing.pruned or state == "complete")):
            return "complete", self._worst
        return ("complete", values) if state == "complete" else ("pruned", ())

    def _note_worst(self, values: Values) -> None:
        both = zip(self._goal.objectives, values, self._worst or values, strict=True)
        self._worst = tuple(min(a, b) if objective.mode == "max" else max(a, b) for objective, a, b in both)

    def _cut_short(self, asked: Any) -> float:
        """The violation that ranks a pruned trial of several objectives below complete ones, the later the better.

        Optuna cannot order such trials, which have no intermediate values.
        """
        return 1.0 / (2.0 + self._last_steps.get(asked.number, -1)) if self._goal.several else 0.0

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Ray's own hook: complete only if the result says so by `state`, pruned if Ray stopped it early."""
        values = self._goal.values(result or {})
        state: TrialState = "failed" if error or values is None else (result or {}).get("state", "pruned")
        self.tell(trial_id, state, values or ())

    # -- the past -------------------------------------------------------------------------------------------------------------

    def learn(self, past: Sequence[PastTrial]) -> None:
        if self._hearing.from_past is not None:
            self._ot_study.sampler = self._hearing.from_past(past)
            return
        for trial in past:
            with self._fixed_to(trial.point):
                asked = self._ot_study.ask()
                for key, param in known_part(self._typed_space, trial.point):
                    _suggested(asked, key, param)
            self._count_generation(asked)
            for step, value in trial.curve.items():
                self._observe(asked, int(step), (value,))
            self._end(asked, trial.state, trial.values, trial.violation)

    def adopt(self, trial: str, point: Point) -> None:
        with self._fixed_to(point):
            self._draw(trial)
        self._n_asked += 1

    def _fixed_to(self, point: Point) -> _Swapped:
        """The next trial has these values; the sampler draws nothing for it."""
        self._ot_study.enqueue_trial(point)
        return _Swapped(self._ot_study, Silent(self._ot_study.sampler))

    def _count_generation(self, asked: Any) -> None:
        """Optuna counts a trial to a generation when it draws for it; one whose every value was given would be left out."""
        if self._hearing.generations:
            sampler = self._bare_sampler()
            sampler.get_trial_generation(self._ot_study, self._storage.get_trial(asked._trial_id))

    def _bare_sampler(self) -> Any:
        """Optuna's own, without ours around it."""
        sampler = self._ot_study.sampler
        while isinstance(sampler, Delegating):
            sampler = sampler.main
        return sampler

    def state(self) -> dict[str, Any] | None:
        generators = [_state_to_json(g.get_state(legacy=True)) for g in self._generators()]
        return {"generators": generators} if generators else None

    def restore(self, state: dict[str, Any]) -> None:
        for generator, saved in zip(self._generators(), state["generators"], strict=True):
            generator.set_state(_state_from_json(saved))

    def _generators(self) -> Iterator[np.random.RandomState]:
        """Optuna's generators in a fixed order; none if they are not all its state (then a resume re-asks the past)."""
        sampler = self._bare_sampler()
        for holder in (sampler, getattr(sampler, "_random_sampler", None)) if self._hearing.state else ():
            generator = getattr(getattr(holder, "_rng", None), "rng", None)
            if isinstance(generator, np.random.RandomState):
                yield generator


def _suggested(trial: Any, key: str, param: Leaf) -> Any:
    match param:
        case Float():
            return trial.suggest_float(key, param.low, param.high, log=param.log, step=param.step)
        case Int():
            return trial.suggest_int(key, param.low, param.high, log=param.log, step=param.step or 1)
        case Choice():
            return trial.suggest_categorical(key, param.options)


class _Swapped:
    """Within it, an Optuna study has another sampler."""

    def __init__(self, study: optuna.Study, sampler: optuna.samplers.BaseSampler):
        self._study, self._sampler = study, sampler

    def __enter__(self) -> None:
        self._usual, self._study.sampler = self._study.sampler, self._sampler

    def __exit__(self, *_: object) -> None:
        self._study.sampler = self._usual


class _StorageWithPauses(optuna.storages.InMemoryStorage):
    """To samplers a trial in `paused` is one that was pruned at its last value: they learn from it, and it may yet go on.

    Of several objectives a pruned trial has its last values, or zeros: Optuna's TPE reads them before it leaves infeasible trials
    out, and breaks on a trial that has none.
    """

    def __init__(self, n_objectives: int) -> None:
        super().__init__()
        self.paused: set[int] = set()
        self.last_values: dict[int, list[float]] = {}  # of several objectives
        self._n_objectives = n_objectives
        self._shown: dict[int, tuple[optuna.trial.FrozenTrial, optuna.trial.FrozenTrial]] = {}

    def set_trial_state_values(self, trial_id: int, state: optuna.trial.TrialState, values: Sequence[float] | None = None) -> bool:
        if state == optuna.trial.TrialState.PRUNED and values is None:
            values = self._values_of_pruned(trial_id)
        return super().set_trial_state_values(trial_id, state, values)

    def _values_of_pruned(self, trial_id: int) -> list[float] | None:
        return self.last_values.get(trial_id, [0.0] * self._n_objectives) if self._n_objectives > 1 else None

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[optuna.trial.TrialState] | None = None
    ) -> list[optuna.trial.FrozenTrial]:
        if not self.paused or states == (optuna.trial.TrialState.WAITING,):
            return super().get_all_trials(study_id, deepcopy, states)
        shown = [self._as_pruned(t) if t._trial_id in self.paused else t for t in super().get_all_trials(study_id, deepcopy, None)]
        return shown if states is None else [trial for trial in shown if trial.state in states]

    def _as_pruned(self, trial: optuna.trial.FrozenTrial) -> optuna.trial.FrozenTrial:
        """Made once for each version of the trial: the storage replaces a trial that changes."""
        known = self._shown.get(trial._trial_id)
        if known is None or known[0] is not trial:
            pruned = copy.copy(trial)
            pruned.state = optuna.trial.TrialState.PRUNED
            if self._n_objectives > 1:
                pruned.values = self._values_of_pruned(trial._trial_id)
            known = self._shown[trial._trial_id] = (trial, pruned)
        return known[1]


def _state_to_json(state: Any) -> list[Any]:
    name, keys, position, has_gauss, cached = state
    return [name, [int(k) for k in keys], int(position), int(has_gauss), float(cached)]


def _state_from_json(saved: list[Any]) -> tuple[Any, ...]:
    name, keys, position, has_gauss, cached = saved
    return name, np.array(keys, dtype=np.uint32), position, has_gauss, cached
