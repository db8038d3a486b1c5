"""Learning rate over the epochs, early stopping and the choice of the kept epoch: pure values that go through the checkpoint.

Promises: `Progress` holds all that decides what happens in later epochs, as JSON; nothing is kept elsewhere. All here is of one
phase: `spec` is that phase's own, and each phase begins anew.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from trainables.timm_cnn.spec import METRICS, CosineSchedule, PlateauSchedule, TimmCnnSpec
from tune.core.metrics import better

_PLATEAU_THRESHOLD = 1e-4  # torch's default: a rise must exceed this share of the best


@dataclass(frozen=True)
class Progress:
    """What is known after `epochs_done` epochs. Epochs are 0-based."""

    epochs_done: int = 0
    best_epoch: int | None = None  # lowest validation loss
    best: dict[str, float] = field(default_factory=dict)  # val/* of that epoch
    last: dict[str, float] = field(default_factory=dict)  # val/* of the last epoch
    watched: float | None = None  # best value of the early stopping metric
    waited: int = 0  # epochs since
    plateau_best: float | None = None
    plateau_bad: int = 0
    plateau_factor: float = 1.0

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(record: Mapping[str, Any]) -> Progress:
        return Progress(**record)


def after_epoch(progress: Progress, values: Mapping[str, float], spec: TimmCnnSpec) -> Progress:
    """The progress once another epoch has given `values` (val/*)."""
    epoch = progress.epochs_done
    following = replace(progress, epochs_done=epoch + 1, last=dict(values))
    if progress.best_epoch is None or values["val/loss"] < progress.best["val/loss"]:
        following = replace(following, best_epoch=epoch, best=dict(values))
    following = _watch(following, values, spec)
    return _plateau(following, values["val/accuracy"], spec)


def is_over(progress: Progress, spec: TimmCnnSpec) -> bool:
    """True after the last epoch, or when early stopping has run out of patience."""
    patient = spec.early_stop is None or progress.waited < spec.early_stop.patience
    return progress.epochs_done >= spec.total_epochs or not patient


def lr_factor(progress: Progress, spec: TimmCnnSpec) -> float:
    """What both learning rates are multiplied by in the epoch after `progress`.

    Cosine is torch's CosineAnnealingLR, but each group falls to its own `eta_min_factor`; torch has one floor for all groups.
    """
    schedule = spec.schedule
    if isinstance(schedule, PlateauSchedule):
        return progress.plateau_factor
    if not isinstance(schedule, CosineSchedule):
        return 1.0
    t_max = spec.total_epochs if schedule.t_max is None else schedule.t_max
    share = (1.0 + math.cos(math.pi * min(progress.epochs_done, t_max) / t_max)) / 2.0
    return schedule.eta_min_factor + (1.0 - schedule.eta_min_factor) * share


def _watch(progress: Progress, values: Mapping[str, float], spec: TimmCnnSpec) -> Progress:
    if spec.early_stop is None:
        return progress
    metric = METRICS.find(spec.early_stop.metric)
    assert metric is not None
    value = values[metric.name]
    if progress.watched is None or better(value, progress.watched, metric.mode):
        return replace(progress, watched=value, waited=0)
    return replace(progress, waited=progress.waited + 1)


def _plateau(progress: Progress, accuracy: float, spec: TimmCnnSpec) -> Progress:
    schedule = spec.schedule
    if not isinstance(schedule, PlateauSchedule):
        return progress
    if progress.plateau_best is None or accuracy > progress.plateau_best * (1.0 + _PLATEAU_THRESHOLD):
        return replace(progress, plateau_best=accuracy, plateau_bad=0)
    if progress.plateau_bad + 1 > schedule.patience:
        return replace(progress, plateau_bad=0, plateau_factor=progress.plateau_factor * schedule.factor)
    return replace(progress, plateau_bad=progress.plateau_bad + 1)
