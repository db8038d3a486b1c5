"""Several objectives: the box between the best and the worst values, and how much of it a front has taken. Hypervolume by moocore."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tune.core.goal import Goal
from tune.core.ports import Values


@dataclass(frozen=True)
class Box:
    """From the best to the worst value of each objective, as costs (less is better)."""

    ideal: tuple[float, ...]
    worst: tuple[float, ...]

    @classmethod
    def of(cls, goal: Goal, measured: Sequence[Values]) -> Box:
        costs = np.array([goal.costs(values) for values in measured], dtype=float)
        return cls(tuple(costs.min(axis=0).tolist()), tuple(costs.max(axis=0).tolist()))

    @property
    def is_flat(self) -> bool:
        """Some objective has one value alone: there is no volume."""
        return any(low == high for low, high in zip(self.ideal, self.worst, strict=True))

    def share(self, goal: Goal, measured: Sequence[Values]) -> float:
        """Share of the box, 0..1, that is dominated by these values."""
        import moocore

        if not measured or self.is_flat:
            return 0.0
        costs = np.array([goal.costs(values) for values in measured], dtype=float)
        span = np.array(self.worst) - np.array(self.ideal)
        scaled = (costs - np.array(self.ideal)) / span
        return float(moocore.hypervolume(scaled, ref=np.ones(scaled.shape[1])))


def history(goal: Goal, measured: Sequence[Values], box: Box) -> list[float]:
    """The share after each of these results, in their order."""
    front: list[Values] = []
    shares: list[float] = []
    for values in measured:
        if any(goal.dominates(other, values) or other == values for other in front):
            shares.append(shares[-1])
            continue
        front = [other for other in front if not goal.dominates(values, other)] + [values]
        shares.append(box.share(goal, front))
    return shares
