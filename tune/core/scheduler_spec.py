"""The schedulers that a study file may name, with their settings. `tune.adapters.schedulers` makes them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from tune.core.spec import Part


class Finalists(Part):
    """After the search, the best trials are run again with other seeds, and the best mean wins."""

    top: int = Field(ge=1, le=1_000, description="How many of the best trials.")
    seeds: int = Field(default=3, ge=2, le=1_000, description="How many further runs of each, every one with a seed of its own.")


class _Scheduler(Part):
    finalists: Finalists | None = Field(default=None, description="{top: 3, seeds: 5}: repeat the best before naming the winner.")


class _OnAxis(_Scheduler):
    axis: str = Field(default="epoch", min_length=1, description="What a step counts; it counts from 0.")
    grace: int = Field(default=1, ge=1, le=1_000_000, description="The first verdict on a trial comes after this 0-based step.")


class _Ladder(_OnAxis):
    form: Literal["stop", "promote"] = Field(
        default="stop",
        description="stop: a trial that is not among the best at a rung ends there; promote: it pauses and may go on later.",
    )
    factor: int = Field(default=4, ge=2, le=1_000, description="Of this many trials one goes on, and rungs are this far apart.")
    max: int | None = Field(default=None, ge=1, le=1_000_000, description="Steps of a whole trial; absent: as the trainable says.")


class AshaScheduler(_Ladder):
    """Asynchronous successive halving: at each rung only the best 1 / factor go on."""

    kind: Literal["asha"]
    brackets: int = Field(default=1, ge=1, le=10, description="Ladders with later first rungs, among which trials are spread.")


class HyperbandScheduler(_Ladder):
    """Asynchronous HyperBand: ASHA with all ladders that there are, in HyperBand's shares."""

    kind: Literal["hyperband"]


class MedianScheduler(_OnAxis):
    """A trial ends whose best value is worse than the median of the running averages of the others at the same step."""

    kind: Literal["median"]
    min_trials: int = Field(default=3, ge=1, le=100_000, description="So many others must have reached the step.")


class PatienceScheduler(_OnAxis):
    """A trial ends that has not got better for a while."""

    kind: Literal["patience"]
    patience: int = Field(ge=1, le=1_000_000, description="Reports without an improvement.")
    min_delta: float = Field(default=0.0, ge=0, allow_inf_nan=False, description="Less than this is no improvement.")


class NoScheduler(_Scheduler):
    """Every trial runs to its end."""

    kind: Literal["none"]


LadderScheduler = AshaScheduler | HyperbandScheduler
Scheduler = Annotated[AshaScheduler | HyperbandScheduler | MedianScheduler | PatienceScheduler | NoScheduler, Field(discriminator="kind")]
