"""Importances of hyperparameters by Optuna: fANOVA (Hutter et al. 2014), and PED-ANOVA (Watanabe et al. 2023) for many trials.

fANOVA's forest grows with the square of the trials (22 s for 1,000), PED-ANOVA's densities do not.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import optuna
from optuna.importance import FanovaImportanceEvaluator, PedAnovaImportanceEvaluator

from tune.core.ports import Point
from tune.core.space import Choice, Float, Int, Leaf, Place, Space
from tune.report.importance import Importances

optuna.logging.set_verbosity(optuna.logging.WARNING)
MOST_FOR_FANOVA = 150
LEAST_TRIALS = 4


def importances(space: Space, measured: Sequence[tuple[Point, float]], seed: int = 0) -> tuple[Importances, ...]:
    """`measured`: points with their values, less is better (PED-ANOVA looks at the lowest).

    One group for the keys that every point has, one for each branch. A group with too little to compare is left out."""
    groups: dict[tuple[tuple[str, str], ...], list[Place]] = {}
    for place in space.places():
        groups.setdefault(place.under, []).append(place)
    found = []
    for under, places in groups.items():
        keys = [place.key for place in places]
        inside = [(point, value) for point, value in measured if all(point.get(k) == v for k, v in under) and all(k in point for k in keys)]
        judged = _judged(places, inside, seed)
        if judged is not None:
            found.append(Importances(*judged, within=", ".join(f"{key} = {branch}" for key, branch in under)))
    return tuple(found)


def _judged(places: list[Place], measured: list[tuple[Point, float]], seed: int) -> tuple[str, int, tuple[tuple[str, float], ...]] | None:
    varied = [place for place in places if len({repr(point[place.key]) for point, _ in measured}) > 1]
    if len(measured) < LEAST_TRIALS or not varied or len({value for _, value in measured}) < 2:
        return None
    distributions = {place.key: _distribution(place.param) for place in varied}
    study = optuna.create_study(direction="minimize")
    for point, value in measured:
        params = {place.key: point[place.key] for place in varied}
        study.add_trial(optuna.trial.create_trial(params=params, distributions=distributions, value=value))
    fanova = len(measured) <= MOST_FOR_FANOVA
    with warnings.catch_warnings():  # PED-ANOVA is marked experimental in Optuna
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        evaluator = FanovaImportanceEvaluator(seed=seed) if fanova else PedAnovaImportanceEvaluator()
        shares = optuna.importance.get_param_importances(study, evaluator=evaluator, params=list(distributions))
    ordered = tuple(sorted(((key, float(share)) for key, share in shares.items()), key=lambda pair: -pair[1]))
    return "fANOVA" if fanova else "PED-ANOVA", len(measured), ordered


def _distribution(param: Leaf) -> optuna.distributions.BaseDistribution:
    match param:
        case Float():
            return optuna.distributions.FloatDistribution(param.low, param.high, log=param.log, step=param.step)
        case Int():
            return optuna.distributions.IntDistribution(param.low, param.high, log=param.log, step=param.step)
        case Choice():
            return optuna.distributions.CategoricalDistribution(param.options)
