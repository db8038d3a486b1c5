"""What a study wants: one objective or several, and limits that a winner must keep. Pure.

Several objectives are compared by dominance (Deb et al. 2002, NSGA-II): `a` dominates `b` if it is nowhere worse and somewhere
better. Trials are ordered by non-dominated rank, then by crowding distance; one trial stands for a front by its knee.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tune.core.metrics import Mode
from tune.core.ports import Values

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Objective:
    name: str
    mode: Mode


@dataclass(frozen=True)
class Limit:
    """A metric that must stay within [min, max]; None is open."""

    name: str
    min: float | None = None
    max: float | None = None

    def violation(self, value: float) -> float:
        """0 if kept, else how far outside as a share of the limit (of 1 for a limit of 0)."""
        if self.max is not None and value > self.max:
            return (value - self.max) / (abs(self.max) or 1.0)
        if self.min is not None and value < self.min:
            return (self.min - value) / (abs(self.min) or 1.0)
        return 0.0


@dataclass(frozen=True)
class Goal:
    """At least one objective; the first is what people see in one-column views."""

    objectives: tuple[Objective, ...]
    limits: tuple[Limit, ...] = ()

    @classmethod
    def of(cls, resolved: Mapping[str, Any]) -> Goal:
        """The goal of a resolved study: its `metric` or its `objectives`. Raises KeyError or TypeError if it has neither."""
        entries = resolved.get("objectives") or [resolved["metric"]]
        objectives = tuple(Objective(entry["name"], entry["mode"]) for entry in entries if entry.get("mode"))
        limits = (Limit(entry["name"], entry.get("min"), entry.get("max")) for entry in entries)
        return cls(objectives, tuple(limit for limit in limits if limit.min is not None or limit.max is not None))

    @property
    def metric(self) -> str:
        return self.objectives[0].name

    @property
    def mode(self) -> Mode:
        return self.objectives[0].mode

    @property
    def several(self) -> bool:
        return len(self.objectives) > 1

    def values(self, metrics: Mapping[str, float]) -> Values | None:
        """The objectives' values among `metrics`, or None if one is missing."""
        found = tuple(metrics[o.name] for o in self.objectives if o.name in metrics)
        return found if len(found) == len(self.objectives) else None

    def missing(self, metrics: Mapping[str, float]) -> str:
        """The names of the objectives that are not among `metrics`."""
        return ", ".join(o.name for o in self.objectives if o.name not in metrics)

    def violations(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """metric -> violation, of the limits that these metrics break. A limit on a metric that is not there is not judged."""
        amounts = {limit.name: limit.violation(metrics[limit.name]) for limit in self.limits if limit.name in metrics}
        return {name: amount for name, amount in amounts.items() if amount > 0}

    def costs(self, values: Values) -> Values:
        """The values with their signs such that less is better everywhere."""
        return tuple(-v if o.mode == "max" else v for o, v in zip(self.objectives, values, strict=True))

    def dominates(self, a: Values, b: Values) -> bool:
        """True if `a` is nowhere worse than `b` and somewhere better."""
        pairs = list(zip(self.costs(a), self.costs(b), strict=True))
        return all(x <= y for x, y in pairs) and any(x < y for x, y in pairs)

    def order(self, items: Sequence[Values], first: int | None = None) -> list[int]:
        """Indices of `items`, the best first; the earlier first among equals. `first`: so many are enough."""
        if not self.several:
            return sorted(range(len(items)), key=lambda i: self.costs(items[i]))[:first]
        import numpy as np

        costs = np.array([self.costs(values) for values in items], dtype=float).reshape(len(items), len(self.objectives))
        ordered: list[int] = []
        for layer in non_dominated_layers(costs):
            if first is not None and len(ordered) >= first:
                break
            crowding = crowding_distances(costs[layer])
            ordered += [layer[int(i)] for i in np.argsort(-crowding, kind="stable")]
        return ordered[:first]

    def front(self, items: Sequence[Values]) -> list[int]:
        """Indices of the items that no other dominates; of one objective the first of the best."""
        if not self.several:
            return self.order(items, first=1)
        import numpy as np

        return next(iter(non_dominated_layers(np.array([self.costs(values) for values in items], dtype=float))))

    def by_knee(self, front: Sequence[Values]) -> list[int]:
        """Indices of the members of a front, the nearest to its ideal point first, each objective scaled to the front's range."""
        import numpy as np

        costs = np.array([self.costs(values) for values in front], dtype=float)
        low, span = costs.min(axis=0), np.ptp(costs, axis=0)
        scaled = (costs - low) / np.where(span > 0, span, 1.0)
        return [int(i) for i in np.argsort(np.linalg.norm(scaled, axis=1), kind="stable")]

    def knee(self, front: Sequence[Values]) -> int:
        """Index of the member of a front that is nearest to its ideal point."""
        return self.by_knee(front)[0]


def non_dominated_layers(costs: np.ndarray) -> Iterator[list[int]]:
    """Indices of the rows of `costs` (n, objectives; less is better) in layers: the front, the front of the rest, ...

    Two objectives take O(n log n): in the order of the first, a row belongs to the first layer whose last row it is not behind in
    the second. More take one comparison of all pairs.
    """
    import numpy as np

    if not len(costs):
        return
    if costs.shape[1] == 2:
        yield from _layers_of_two(costs)
        return
    nowhere_worse = (costs[:, None, :] <= costs[None, :, :]).all(axis=2)
    somewhere_better = (costs[:, None, :] < costs[None, :, :]).any(axis=2)
    dominates = np.asarray(nowhere_worse & somewhere_better)
    n_better = dominates.sum(axis=0)
    left = np.ones(len(costs), dtype=bool)
    while left.any():
        layer = np.flatnonzero(left & (n_better == 0))
        yield [int(i) for i in layer]
        left[layer] = False
        n_better -= dominates[layer].sum(axis=0)


def _layers_of_two(costs: np.ndarray) -> list[list[int]]:
    import numpy as np

    layers: list[list[int]] = []
    last: list[float] = []  # the least second cost of each layer so far: never falling from layer to layer
    before: tuple[float, float] | None = None
    at = 0
    for i in np.lexsort((costs[:, 1], costs[:, 0])):
        first, second = float(costs[i, 0]), float(costs[i, 1])
        if (first, second) != before:  # equal rows do not dominate each other
            at = bisect_right(last, second)
        before = (first, second)
        if at == len(layers):
            layers.append([])
            last.append(second)
        layers[at].append(int(i))
        last[at] = second
    return [sorted(layer) for layer in layers]


def crowding_distances(costs: np.ndarray) -> np.ndarray:
    """Deb et al. 2002, section III-B: for each row the size of the gap that it stands in; infinite at the ends."""
    import numpy as np

    n, m = costs.shape
    distances = np.zeros(n)
    for j in range(m):
        rows = np.argsort(costs[:, j], kind="stable")
        span = costs[rows[-1], j] - costs[rows[0], j]
        distances[rows[0]] = distances[rows[-1]] = np.inf
        if span > 0 and n > 2:
            distances[rows[1:-1]] += (costs[rows[2:], j] - costs[rows[:-2], j]) / span
    return distances
