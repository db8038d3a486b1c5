"""The samplers that a study file may name, with their settings. `tune.adapters.samplers` makes them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from tune.core.spec import Part


class TpeSampler(Part):
    """Tree-structured Parzen estimator (Optuna)."""

    kind: Literal["tpe"]
    multivariate: bool = Field(default=False, description="Model the parameters jointly; needed to learn within branches.")
    n_startup: int = Field(default=10, ge=1, le=100_000, description="Random trials before the model is used.")


class RandomSampler(Part):
    """Independent draws."""

    kind: Literal["random"]


class GridSampler(Part):
    """Every point of a finite space once, the last key varying fastest."""

    kind: Literal["grid"]


Sampler = Annotated[TpeSampler | RandomSampler | GridSampler, Field(discriminator="kind")]
