"""Spec and metrics of the synthetic learning curve."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from tune.core.metrics import Metric, MetricSet


class CurveSpec(BaseModel):
    """A learning curve whose optimum is known: `lr` 0.01, `depth` 4, where the score tends to 1."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["curve"] = "curve"
    lr: float = Field(default=1e-3, gt=0, le=10, description="Learning rate; the score falls with the square of log10(lr / 0.01).")
    depth: int = Field(default=2, ge=1, le=64, description="Depth; the score falls with the square of (depth - 4).")
    noise: float = Field(default=0.0, ge=0, le=1, description="Standard deviation of the noise added to each step's score.")
    epochs: int = Field(default=20, ge=1, le=100_000, description="Steps of the curve.")
    step_seconds: float = Field(default=0.0, ge=0, le=3600, description="Seconds to sleep in each step.")
    fail_at_step: int | None = Field(default=None, ge=0, description="Fail the trial by name before reporting this step.")
    crash_at_step: int | None = Field(default=None, ge=0, description="Kill the worker process (SIGKILL) before reporting this step.")
    crashes: int = Field(default=1, ge=1, le=1000, description="How many times `crash_at_step` kills before it lets the trial pass.")


METRICS = MetricSet(
    metrics=(
        Metric("val/score", "share", "max", "height of the curve at this step"),
        Metric("val/loss", "nats", "min", "minus the logarithm of the score"),
    )
)
