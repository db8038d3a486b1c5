"""What a trial remembers of its steps so far: the kept one, and how long early stopping has waited. Pure values for the checkpoint.

An epoch here is whatever the recipe evaluates after. Promises: `Progress` holds all that decides what happens in later epochs, as
JSON; nothing is kept elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from tune.core.metrics import Metric, better


@dataclass(frozen=True)
class Progress:
    """What is known after `epochs_done` epochs. Epochs are 0-based."""

    epochs_done: int = 0
    best_epoch: int | None = None  # by the metric that is kept by
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


def advanced(progress: Progress, values: Mapping[str, float], *, kept_by: Metric, watched: Metric | None) -> Progress:
    """The progress once another epoch has given `values` (val/*).

    kept_by: the first epoch of its best value is kept. watched: what early stopping looks at, None without it.
    """
    epoch = progress.epochs_done
    following = replace(progress, epochs_done=epoch + 1, last=dict(values))
    if progress.best_epoch is None or better(values[kept_by.name], progress.best[kept_by.name], kept_by.mode):
        following = replace(following, best_epoch=epoch, best=dict(values))
    if watched is None:
        return following
    value = values[watched.name]
    if progress.watched is None or better(value, progress.watched, watched.mode):
        return replace(following, watched=value, waited=0)
    return replace(following, waited=progress.waited + 1)
