"""The sampler of a study, by its spec: what `run`, `resume` and `simulate` ask for points."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import optuna
from optuna.trial import TrialState

from tune.adapters.grid_search import GridSearch
from tune.adapters.optuna_parts import InKnownSpace, OnOneThread, QuasiRandom, StartedBy, constraints_of, root_of
from tune.adapters.optuna_search import Hearing, TruthfulOptunaSearch, make_sampler
from tune.core.goal import Goal
from tune.core.ports import PastTrial, Point, Sampler
from tune.core.sampler_spec import (
    CmaesSampler,
    GpSampler,
    GridSampler,
    Nsga2Sampler,
    Nsga3Sampler,
    QuasiRandomSampler,
    RandomSampler,
    TpeSampler,
)
from tune.core.sampler_spec import Sampler as SamplerSpec
from tune.core.space import Space

OptunaSampler = optuna.samplers.BaseSampler
_COMPLETE = (TrialState.COMPLETE,)
_LEARNED_BY_TPE = (TrialState.COMPLETE, TrialState.PRUNED)
_ENOUGH_FOR_A_PRIOR = 10  # cmaes fits its first distribution to the best tenth of the source trials


def make_sampler_of(spec: SamplerSpec, goal: Goal, space: Space, *, study: str, seed: int, first: Sequence[Point] = ()) -> Sampler:
    """The sampler that a checked study names. `first` points are tried before it is free; they may be partial."""
    if isinstance(spec, GridSampler):
        return GridSearch(space, first)
    sampler, hearing = _optuna_sampler(spec, goal, space, seed)
    return TruthfulOptunaSearch(space, goal, study, sampler, first, hearing)


def _optuna_sampler(spec: SamplerSpec, goal: Goal, space: Space, seed: int) -> tuple[OptunaSampler, Hearing]:
    with warnings.catch_warnings():  # what Optuna marks as experimental, the study asked for by name
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        match spec:
            case TpeSampler():
                return _tpe(spec, space, seed), Hearing()
            case GpSampler():
                return _gp(spec, goal, space, seed), Hearing(pruned=False, limits=bool(goal.limits), state=False)
            case CmaesSampler():
                return _cmaes(spec, goal, space, seed), Hearing(
                    pruned=False, limits=False, state=False, from_past=lambda past: _cmaes(spec, goal, space, seed, past)
                )
            case Nsga2Sampler() | Nsga3Sampler():
                return _nsga(spec, space, seed), Hearing(pruned=False, state=False, generations=True)
            case QuasiRandomSampler():
                return QuasiRandom(space, seed), Hearing()
            case RandomSampler():
                return make_sampler("random", seed), Hearing()
            case GridSampler():
                raise AssertionError("a grid needs no Optuna")


def _tpe(spec: TpeSampler, space: Space, seed: int) -> OptunaSampler:
    sampler = make_sampler(
        "tpe",
        seed,
        multivariate=spec.multivariate,
        group=spec.group,
        constant_liar=spec.constant_liar,
        n_startup=spec.n_startup,
    )
    return _started(sampler, spec.startup, spec.n_startup, _LEARNED_BY_TPE, space, seed)


def _gp(spec: GpSampler, goal: Goal, space: Space, seed: int) -> OptunaSampler:
    """Constraints only where there are limits: with them Optuna's GP no longer sees running trials."""
    sampler = optuna.samplers.GPSampler(
        seed=seed,
        n_startup_trials=spec.n_startup,
        constraints_func=constraints_of if goal.limits else None,
        warn_independent_sampling=False,
    )
    return _started(InKnownSpace(OnOneThread(sampler), root_of(space)), spec.startup, spec.n_startup, _COMPLETE, space, seed)


def _cmaes(spec: CmaesSampler, goal: Goal, space: Space, seed: int, past: Sequence[PastTrial] = ()) -> OptunaSampler:
    """From past trials it takes where to begin: a distribution if there are enough, else the best point."""
    numeric = root_of(space, numeric=True)
    kept = [trial for trial in past if trial.state == "complete" and not trial.violation]
    source = best = None
    if len(kept) >= _ENOUGH_FOR_A_PRIOR:
        source = [_frozen(trial, numeric) for trial in kept]
    elif kept:
        point = kept[goal.order([trial.values for trial in kept])[0]].point
        best = {key: point[key] for key in numeric}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.CmaEsSampler(
            seed=seed,
            popsize=spec.population,
            x0=best,
            source_trials=source,
            warn_independent_sampling=False,
        )
    return InKnownSpace(sampler, numeric)


def _frozen(trial: PastTrial, numeric: dict[str, optuna.distributions.BaseDistribution]) -> optuna.trial.FrozenTrial:
    params = {key: trial.point[key] for key in numeric}
    return optuna.trial.create_trial(params=params, distributions=numeric, value=trial.values[0])


def _nsga(spec: Nsga2Sampler | Nsga3Sampler, space: Space, seed: int) -> OptunaSampler:
    cls = optuna.samplers.NSGAIISampler if isinstance(spec, Nsga2Sampler) else optuna.samplers.NSGAIIISampler
    sampler = cls(population_size=spec.population, seed=seed, constraints_func=constraints_of)
    return _started(InKnownSpace(sampler, root_of(space)), spec.startup, spec.population, _COMPLETE, space, seed)


def _started(sampler: OptunaSampler, startup: str, n: int, states: tuple[TrialState, ...], space: Space, seed: int) -> OptunaSampler:
    return sampler if startup == "random" else StartedBy(sampler, QuasiRandom(space, seed), n, states)
