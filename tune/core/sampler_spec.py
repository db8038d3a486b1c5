"""The samplers that a study file may name, with their settings. `tune.adapters.samplers` makes them.

What a sampler cannot do with a study's space or goal is refused by `tune.core.study_rules`, or noted by `tune.check`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from tune.core.spec import Part

StartUp = Literal["random", "quasi_random"]
WarmStart = Annotated[
    tuple[Annotated[str, Field(min_length=1)], ...],
    Field(max_length=64, description="Directories of earlier studies of the same objective, whose trials are learned from first."),
]
Population = Annotated[int, Field(ge=2, le=10_000, description="Trials of a generation.")]


class TpeSampler(Part):
    """Tree-structured Parzen estimator (Optuna)."""

    kind: Literal["tpe"]
    multivariate: bool = Field(default=False, description="Model the parameters jointly; needed to learn within branches.")
    group: bool | None = Field(default=None, description="Model each branch of the space by itself; null: as multivariate.")
    constant_liar: bool = Field(default=True, description="Keep away from points that are running; changes nothing with one slot.")
    n_startup: int = Field(default=10, ge=1, le=100_000, description="Trials from start-up points before the model is used.")
    startup: StartUp = Field(default="random", description="Start-up points: random, or spread evenly by a Sobol sequence.")
    warm_start: WarmStart = ()


class GpSampler(Part):
    """Gaussian process (Optuna). Learns from trials that ran to their end; seconds a suggestion after some hundred trials."""

    kind: Literal["gp"]
    n_startup: int = Field(default=10, ge=1, le=1000, description="Complete trials from start-up points before the model is used.")
    startup: StartUp = Field(default="random", description="Start-up points: random, or spread evenly by a Sobol sequence.")
    warm_start: WarmStart = ()


class CmaesSampler(Part):
    """CMA-ES on the numeric parameters that every point has (Optuna, cmaes); the others are drawn at random. One objective."""

    kind: Literal["cmaes"]
    population: Population | None = Field(default=None, description="Trials of a generation; null: 4 + 3 ln(dimensions).")
    warm_start: WarmStart = ()


class Nsga2Sampler(Part):
    """NSGA-II, an evolutionary search for one or several objectives (Optuna)."""

    kind: Literal["nsga2"]
    population: Population = 50
    startup: StartUp = Field(default="random", description="First generation: random, or spread evenly by a Sobol sequence.")
    warm_start: WarmStart = ()


class Nsga3Sampler(Part):
    """NSGA-III, for three objectives and more (Optuna)."""

    kind: Literal["nsga3"]
    population: Population = 50
    startup: StartUp = Field(default="random", description="First generation: random, or spread evenly by a Sobol sequence.")
    warm_start: WarmStart = ()


class QuasiRandomSampler(Part):
    """A scrambled Sobol sequence: random, but spread evenly. Best with a power of two trials."""

    kind: Literal["quasi_random"]


class RandomSampler(Part):
    """Independent draws."""

    kind: Literal["random"]


class GridSampler(Part):
    """Every point of a finite space once, the last key varying fastest."""

    kind: Literal["grid"]


Sampler = Annotated[
    TpeSampler | GpSampler | CmaesSampler | Nsga2Sampler | Nsga3Sampler | QuasiRandomSampler | RandomSampler | GridSampler,
    Field(discriminator="kind"),
]


def warm_start_of(sampler: Sampler) -> tuple[str, ...]:
    """The earlier studies that a sampler learns from; none if it does not learn."""
    return sampler.warm_start if isinstance(sampler, (TpeSampler, GpSampler, CmaesSampler, Nsga2Sampler, Nsga3Sampler)) else ()


def takes_partial_points(sampler: Sampler) -> bool:
    """True if the sampler can learn from a past trial that has only some keys of the space: it models each key by itself."""
    return isinstance(sampler, TpeSampler) and not sampler.multivariate


def learns_from_pruned(sampler: Sampler) -> bool:
    """True if the sampler learns from trials that were cut short, not from complete ones alone."""
    return isinstance(sampler, TpeSampler)
