"""Metrics are declared with a name, a unit and a mode before they can be reported.

A recipe promises its metrics in the catalog; a study may only optimise a promised one; a report of an unknown metric or of a
value that is not a finite number is an error with a name (`undeclared_metric`, `not_finite`), never a silent NaN.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from tune.core.errors import FailTrial

Mode = Literal["max", "min"]


@dataclass(frozen=True)
class Metric:
    """`unit`: "share" is 0..1, "seconds", "bytes", "images/s", "nats", "count". `step_wise`: reported at every step of the axis."""

    name: str
    unit: str
    mode: Mode
    help: str = ""
    step_wise: bool = True


@dataclass(frozen=True)
class MetricSet:
    """The metrics one recipe promises. `prefixes` declare families that depend on the data, such as `test/f1/` per class."""

    metrics: tuple[Metric, ...]
    prefixes: tuple[Metric, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(metric.name for metric in self.metrics)

    def find(self, name: str) -> Metric | None:
        for metric in self.metrics:
            if metric.name == name:
                return metric
        for family in self.prefixes:
            if name.startswith(family.name):
                return family
        return None

    def validated(self, values: Mapping[str, float], where: str) -> dict[str, float]:
        """`values` as plain finite floats. Raises FailTrial `undeclared_metric` or `not_finite` naming the metric."""
        checked: dict[str, float] = {}
        for name, value in values.items():
            if self.find(name) is None:
                raise FailTrial("undeclared_metric", f"{where} reported '{name}', which its catalog entry does not promise")
            number = float(value)
            if not math.isfinite(number):
                raise FailTrial("not_finite", f"{where} reported {name} = {number}; lower the learning rate or check the data")
            checked[name] = number
        return checked


def better(a: float, b: float, mode: Mode) -> bool:
    """True if `a` is strictly better than `b`."""
    return a > b if mode == "max" else a < b
