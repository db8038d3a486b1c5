"""The searches of the quality proof: ours, plain Optuna, stock Ray, Syne Tune, each behind the five methods that virtual slots drive.

Every search gets the same space, the same 0-based steps and the same rungs (after steps 1, 3, 9 of 27) and may not see more than what
its trials report. Each library is used as its documentation says, with its own defaults and the seed of the study.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from tests.quality.problems import VALUE, Problem
from tune.core.ports import Answer, Decision, Point, Question
from tune.core.search import Assignment, trial_seed
from tune.core.space import Choice, Float, Int, Leaf
from tune.core.virtual import Searching, VirtualClock

GRACE, FACTOR = 1, 3
MAX_TRIALS = 300  # begun in one study; where some trials cost next to nothing, the virtual time would let in thousands
STEP = "step"
Found = Assignment | Literal["wait", "over"]


@dataclass(frozen=True)
class Method:
    """`curves`: it looks at every step; else it pays for the end of a trial only. `make`: (problem, seed, slots, clock) -> search."""

    name: str
    library: str
    curves: bool
    make: Callable[[Problem, int, int, VirtualClock], Searching]


@dataclass
class Foreign:
    """What the searches of other libraries share: names, counting of slots, points by trial. No money, no pauses."""

    problem: Problem
    seed: int
    slots: int
    points: dict[str, Point] = field(default_factory=dict)
    active: set[str] = field(default_factory=set)

    def next(self) -> Found:
        if len(self.active) >= self.slots:
            return "wait"
        if len(self.points) >= MAX_TRIALS:
            return "over"
        name = f"t{len(self.points):04d}"
        self.points[name] = self.propose(name)
        self.active.add(name)
        return Assignment(name, "search", self.points[name], 1, trial_seed(self.seed, name))

    def propose(self, name: str) -> Point:
        raise NotImplementedError

    def started(self, trial: str, slot: int, after_step: int | None = None) -> None:
        pass

    def report(self, trial: str, step: int, metrics: Mapping[str, float]) -> Decision:
        raise NotImplementedError

    def ask(self, trial: str, question: Question) -> Answer:
        raise AssertionError("these tables know no money")

    def finish(self, trial: str, metrics: Mapping[str, float], files: Mapping[str, str]) -> None:
        self.active.discard(trial)


# -- ours ---------------------------------------------------------------------------------------------------------------------


def ours(sampler: Mapping[str, Any], scheduler: Mapping[str, Any]) -> Callable[[Problem, int, int, VirtualClock], Searching]:
    """Our `Search`, from a study as a user would write it."""

    def make(problem: Problem, seed: int, slots: int, clock: VirtualClock) -> Searching:
        from tune.core.fold import JournalWriter, StudyFold
        from tune.core.journal import StudyStarted
        from tune.core.rules import Rules
        from tune.core.virtual import MemoryJournal
        from tune.load import load_resolved
        from tune.session import make_search

        study = {
            "study": {"name": "quality", "seed": seed},
            "metric": {"name": VALUE, "mode": problem.mode},
            "budget": {"trials": MAX_TRIALS},
            "sampler": dict(sampler),
            "scheduler": {"kind": "none"} if problem.n_steps == 1 else dict(scheduler),
            "trainable": {"kind": "table"},
            "space": problem.space.to_json(),
        }
        spec = load_resolved(study).spec
        rules = Rules(spec.goal, seed, slots, spec.budget)
        search = make_search(spec, rules, JournalWriter(MemoryJournal(), clock, StudyFold(rules.goal)))
        search.begin(StudyStarted("quality", spec.digest, study, {}), "virtual")
        return search

    return make


def asha(form: str) -> dict[str, Any]:
    return {"kind": "asha", "grace": GRACE, "factor": FACTOR, "max": 27, "form": form}


# -- plain Optuna -------------------------------------------------------------------------------------------------------------


class PlainOptuna(Foreign):
    """Optuna's ask and tell with its own TPE and, for curves, its own SuccessiveHalvingPruner. No Ray."""

    def __init__(self, problem: Problem, seed: int, slots: int):
        import optuna

        super().__init__(problem, seed, slots)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._states = optuna.trial.TrialState
        pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=GRACE, reduction_factor=FACTOR)
        self._study = optuna.create_study(
            direction="maximize" if self.problem.mode == "max" else "minimize",
            sampler=optuna.samplers.TPESampler(seed=self.seed),
            pruner=pruner if self.problem.n_steps > 1 else optuna.pruners.NopPruner(),
        )
        self._trials: dict[str, Any] = {}
        self._last: dict[str, float] = {}

    def propose(self, name: str) -> Point:
        trial = self._trials[name] = self._study.ask()
        return self.problem.space.draw(lambda key, param: _suggest(trial, key, param))

    def report(self, trial: str, step: int, metrics: Mapping[str, float]) -> Decision:
        self._last[trial] = metrics[VALUE]
        self._trials[trial].report(metrics[VALUE], step)
        return "stop" if self._trials[trial].should_prune() else "continue"

    def finish(self, trial: str, metrics: Mapping[str, float], files: Mapping[str, str]) -> None:
        super().finish(trial, metrics, files)
        if metrics:
            self._study.tell(self._trials[trial], metrics[VALUE])
        else:
            self._study.tell(self._trials[trial], state=self._states.PRUNED)


def _suggest(trial: Any, key: str, param: Leaf) -> Any:
    match param:
        case Float():
            return trial.suggest_float(key, param.low, param.high, log=param.log)
        case Int():
            return trial.suggest_int(key, param.low, param.high, log=param.log)
        case Choice():
            return trial.suggest_categorical(key, param.options)


# -- stock Ray ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Stub:
    trial_id: str


class StockRay(Foreign):
    """OptunaSearch and ASHAScheduler as Ray's loop calls them, without a Ray runtime. `step` is the time attribute for equal rungs."""

    def __init__(self, problem: Problem, seed: int, slots: int):
        from ray.tune.schedulers import ASHAScheduler
        from ray.tune.search.optuna import OptunaSearch

        super().__init__(problem, seed, slots)
        space = {key: _distribution(param) for key, param in self.problem.space.params}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._search = OptunaSearch(space=space, metric=VALUE, mode=self.problem.mode, seed=self.seed)
        many = self.problem.n_steps > 1
        settings: dict[str, Any] = {"time_attr": STEP, "metric": VALUE, "mode": self.problem.mode}
        self._asha = ASHAScheduler(**settings, grace_period=GRACE, reduction_factor=FACTOR, max_t=27) if many else None

    def propose(self, name: str) -> Point:
        point = self._search.suggest(name)
        if self._asha is not None:
            self._asha.on_trial_add(None, _Stub(name))
        return dict(point)

    def report(self, trial: str, step: int, metrics: Mapping[str, float]) -> Decision:
        result = {VALUE: metrics[VALUE], STEP: step, "training_iteration": step + 1}
        self._search.on_trial_result(trial, result)
        action = "CONTINUE" if self._asha is None else self._asha.on_trial_result(None, _Stub(trial), result)
        over = action == "STOP" or step == self.problem.n_steps - 1
        if over:
            self._search.on_trial_complete(trial, result=result)
            if self._asha is not None:
                self._asha.on_trial_complete(None, _Stub(trial), result)
        return "stop" if over else "continue"


def _distribution(param: Any) -> Any:
    from optuna import distributions

    match param:
        case Float():
            return distributions.FloatDistribution(param.low, param.high, log=param.log)
        case Int():
            return distributions.IntDistribution(param.low, param.high, log=param.log)
        case Choice():
            return distributions.CategoricalDistribution(param.options)


# -- Syne Tune ----------------------------------------------------------------------------------------------------------------


class SyneTune(Foreign):
    """A scheduler of `syne_tune.optimizer.baselines`, called as its tuner calls it."""

    def __init__(self, problem: Problem, seed: int, slots: int, name: str, with_curves: bool):
        import logging

        import numpy as np
        from syne_tune.optimizer import baselines

        super().__init__(problem, seed, slots)
        logging.getLogger("syne_tune").setLevel(logging.ERROR)
        np.random.seed(seed)
        space = {key: _domain(param) for key, param in problem.space.params}
        wanted: dict[str, Any] = {"metric": VALUE, "do_minimize": problem.mode == "min", "random_seed": seed}
        if with_curves:
            wanted |= {"time_attr": STEP, "max_t": 27, "grace_period": GRACE, "reduction_factor": FACTOR}
        if name == "RandomSearch":
            wanted["metrics"] = [wanted.pop("metric")]
        self._scheduler = getattr(baselines, name)(space, **wanted)
        self._trials: dict[str, Any] = {}

    def propose(self, name: str) -> Point:
        from datetime import datetime

        from syne_tune.backend.trial_status import Trial

        suggestion = self._scheduler.suggest()
        self._trials[name] = Trial(len(self._trials), suggestion.config, datetime.fromtimestamp(0))
        self._scheduler.on_trial_add(self._trials[name])
        return {key: suggestion.config[key] for key, _ in self.problem.space.params}

    def report(self, trial: str, step: int, metrics: Mapping[str, float]) -> Decision:
        result = {VALUE: metrics[VALUE], STEP: step}
        decision = self._scheduler.on_trial_result(self._trials[trial], result)
        if step == self.problem.n_steps - 1:
            self._scheduler.on_trial_complete(self._trials[trial], result)
            return "stop"
        if decision == "STOP":
            self._scheduler.on_trial_remove(self._trials[trial])
            return "stop"
        return "continue"


def _domain(param: Any) -> Any:
    from syne_tune import config_space as cs

    match param:
        case Float():
            return (cs.loguniform if param.log else cs.uniform)(param.low, param.high)
        case Int():
            return (cs.lograndint if param.log else cs.randint)(param.low, param.high)
        case Choice():
            return cs.choice(list(param.options))


def foreign(kind: Callable[..., Foreign], *more: Any) -> Callable[[Problem, int, int, VirtualClock], Searching]:
    return lambda problem, seed, slots, clock: kind(problem, seed, slots, *more)


TPE: dict[str, Any] = {"kind": "tpe"}
METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method("ours, no scheduler", "phasetune", False, ours(TPE, {"kind": "none"})),
        Method("ours, stopping ASHA", "phasetune", True, ours(TPE, asha("stop"))),
        Method("ours, promotion ASHA", "phasetune", True, ours(TPE, asha("promote"))),
        Method("ours, random", "phasetune", False, ours({"kind": "random"}, {"kind": "none"})),
        Method("Optuna, halving pruner", "optuna", True, foreign(PlainOptuna)),
        Method("Ray, OptunaSearch + ASHA", "ray", True, foreign(StockRay)),
        Method("Syne Tune, ASHA", "syne-tune", True, foreign(SyneTune, "ASHA", True)),
        Method("Syne Tune, BOHB", "syne-tune", True, foreign(SyneTune, "BOHB", True)),
        Method("Syne Tune, TPE", "syne-tune", False, foreign(SyneTune, "TPE", False)),
        Method("Syne Tune, evolution", "syne-tune", False, foreign(SyneTune, "REA", False)),
    )
}
# Syne Tune's CQR and BORE are left out: they took seconds and a tenth of a second a suggestion, days and hours for this proof.
_OURS = ("ours, no scheduler", "ours, random")
# With one value a trial there is nothing to stop: all of ours are one, and the stock pair asks for the same points as plain Optuna
# (a test shows it), so each stands once.
ON_TABLES = (*_OURS, "Optuna, halving pruner", "Syne Tune, TPE", "Syne Tune, evolution")
WITH_CURVES = tuple(METHODS)
