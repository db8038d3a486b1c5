"""What a study may use, what it has used, and which limit ended it. Pure; the ledger that measures is a fold of the journal.

`Budget` is at once the `budget` of a study file and the value that code compares with.
"""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field

SECONDS_PER_HOUR = 3600.0


class Budget(BaseModel):
    """Limits of a study; whichever is reached first ends it. At least one is given."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    trials: int | None = Field(default=None, ge=1, le=1_000_000, description="Trials suggested; null: no limit.")
    wall_hours: float | None = Field(
        default=None, gt=0, le=1e6, description="Hours of running, gaps before a resume left out; null: no limit."
    )
    gpu_hours: float | None = Field(default=None, gt=0, le=1e9, description="GPU-hours of all trials together; null: no limit.")
    usd: float | None = Field(default=None, gt=0, le=1e9, description="Dollars of all trials together; null: no limit.")

    @property
    def wall_s(self) -> float | None:
        return None if self.wall_hours is None else self.wall_hours * SECONDS_PER_HOUR

    @property
    def gpu_seconds(self) -> float | None:
        return None if self.gpu_hours is None else self.gpu_hours * SECONDS_PER_HOUR

    @property
    def unlimited(self) -> bool:
        return self.trials is None and self.wall_hours is None and self.gpu_hours is None and self.usd is None


@dataclass(frozen=True)
class Used:
    """What a study has used so far. `wall_s`: the active seconds of all sessions."""

    wall_s: float = 0.0
    gpu_seconds: float = 0.0
    usd: float = 0.0


def exceeded(budget: Budget, use: Used) -> str | None:
    """The first limit of time or money that `use` has reached, with both figures, or None if there is room. Trials are counted by
    the search, which stops suggesting; the others also end what runs."""
    if budget.wall_s is not None and use.wall_s >= budget.wall_s:
        return f"budget.wall_hours: {use.wall_s / SECONDS_PER_HOUR:.3g} of {budget.wall_hours:g} hours"
    if budget.gpu_seconds is not None and use.gpu_seconds >= budget.gpu_seconds:
        return f"budget.gpu_hours: {use.gpu_seconds / SECONDS_PER_HOUR:.3g} of {budget.gpu_hours:g} GPU-hours"
    if budget.usd is not None and use.usd >= budget.usd:
        return f"budget.usd: ${use.usd:.2f} of ${budget.usd:.2f}"
    return None
