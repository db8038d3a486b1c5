"""Learning rate over the epochs, early stopping and the choice of the kept epoch, on the shared `Progress`.

All here is of one phase: `spec` is that phase's own, and each phase begins anew.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from trainables.progress import Progress, advanced
from trainables.timm_cnn.spec import METRICS, CosineSchedule, PlateauSchedule, TimmCnnSpec
from tune.core.metrics import Metric

_LOSS = Metric("val/loss", "nats", "min")
_PLATEAU_THRESHOLD = 1e-4  # torch's default: a rise must exceed this share of the best


def after_epoch(progress: Progress, values: Mapping[str, float], spec: TimmCnnSpec) -> Progress:
    """The progress once another epoch has given `values` (val/*)."""
    watched = None if spec.early_stop is None else METRICS.find(spec.early_stop.metric)
    return _plateau(advanced(progress, values, kept_by=_LOSS, watched=watched), values["val/accuracy"], spec)


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


def _plateau(progress: Progress, accuracy: float, spec: TimmCnnSpec) -> Progress:
    schedule = spec.schedule
    if not isinstance(schedule, PlateauSchedule):
        return progress
    if progress.plateau_best is None or accuracy > progress.plateau_best * (1.0 + _PLATEAU_THRESHOLD):
        return replace(progress, plateau_best=accuracy, plateau_bad=0)
    if progress.plateau_bad + 1 > schedule.patience:
        return replace(progress, plateau_bad=0, plateau_factor=progress.plateau_factor * schedule.factor)
    return replace(progress, plateau_bad=progress.plateau_bad + 1)
