"""Intervals of means, for figures that come from repeated runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev


def mean_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float, float]:
    """(mean, low, high) of Student's t interval; infinite width for a single value. Raises ValueError for none."""
    if not values:
        raise ValueError("an interval of no values")
    mean = fmean(values)
    if len(values) == 1:
        return mean, -math.inf, math.inf
    from scipy.stats import t

    half = float(t.ppf(0.5 + level / 2, len(values) - 1)) * stdev(values) / math.sqrt(len(values))
    return mean, mean - half, mean + half
