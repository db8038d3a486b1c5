"""Intervals and tests, from SciPy: how sure a best value is, and whether a winner is better than the runner-up.

An interval covers 95 %. A test says what it compared and how often; with too little to compare there is none, and never a guess.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from tune.core.intervals import mean_interval

LEVEL = 0.95
N_RESAMPLES = 1000
SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Interval:
    """`how`: what was repeated and the method, in words."""

    low: float
    high: float
    how: str


@dataclass(frozen=True)
class Test:
    """`difference`: mean of winner minus runner-up, in the metric's own unit. `n`: pairs, or values where there are none."""

    __test__ = False  # no test class, whatever its name says

    how: str
    n: int
    difference: float
    p: float
    interval: Interval | None = None

    @property
    def significant(self) -> bool:
        return self.p < SIGNIFICANT


def of_mean(values: Sequence[float]) -> Interval | None:
    """Student's t interval of the mean of independent repeats; None below two."""
    if len(values) < 2:
        return None
    _, low, high = mean_interval(values, LEVEL)
    return Interval(low, high, f"mean of {len(values)} seeds (Student's t)")


def of_items(statistic: Callable[[np.ndarray], float], n_items: int, seed: int) -> Interval | None:
    """Percentile bootstrap over test items; `statistic` takes the indices of a resample."""
    if n_items < 2:
        return None
    found = stats.bootstrap(
        (np.arange(n_items),),
        statistic,
        vectorized=False,
        n_resamples=N_RESAMPLES,
        confidence_level=LEVEL,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    low, high = found.confidence_interval
    return Interval(float(low), float(high), f"one training, {n_items:,} test items (bootstrap)")


def of_share(share: float, n_items: int) -> Interval:
    """Wilson's interval of a share that was counted on `n_items`."""
    found = stats.binomtest(round(share * n_items), n_items).proportion_ci(LEVEL, method="wilson")
    return Interval(float(found.low), float(found.high), f"{n_items:,} test items (Wilson, ours)")


def over_seeds(winner: Mapping[int, float], runner_up: Mapping[int, float]) -> Test | None:
    """Paired t test over the seeds (keys) that both were repeated with, or Welch's where they share none; None below two repeats."""
    seeds = [seed for seed in winner if seed in runner_up]
    if len(seeds) < 2:
        return _unpaired(list(winner.values()), list(runner_up.values())) if not seeds else None
    differences = np.array([winner[seed] - runner_up[seed] for seed in seeds])
    mean = float(differences.mean())
    how = f"paired t test over {len(seeds)} seeds"
    if np.ptp(differences) <= 1e-12 * max(1.0, float(np.abs(differences).max())):  # no spread: t is not defined
        return Test(how, len(seeds), mean, 1.0 if abs(mean) < 1e-12 else 0.0, None)
    found = stats.ttest_1samp(differences, 0.0)
    low, high = found.confidence_interval(LEVEL)
    return Test(how, len(seeds), mean, float(found.pvalue), Interval(float(low), float(high), "difference"))


def _unpaired(winner: Sequence[float], runner_up: Sequence[float]) -> Test | None:
    if min(len(winner), len(runner_up)) < 2:
        return None
    mean = float(np.mean(winner) - np.mean(runner_up))
    how = f"Welch's t test over {len(winner)} and {len(runner_up)} seeds"
    n = len(winner) + len(runner_up)
    if np.ptp(winner) == 0 and np.ptp(runner_up) == 0:  # no spread: t is not defined
        return Test(how, n, mean, 1.0 if mean == 0 else 0.0, None)
    found = stats.ttest_ind(winner, runner_up, equal_var=False)
    low, high = found.confidence_interval(LEVEL)
    return Test(how, n, mean, float(found.pvalue), Interval(float(low), float(high), "difference"))


def over_items(winner_right: np.ndarray, runner_up_right: np.ndarray, seed: int) -> Test | None:
    """McNemar's exact test on the same test items, with a paired bootstrap interval of the difference in accuracy."""
    n = len(winner_right)
    if n < 2:
        return None
    differences = winner_right.astype(float) - runner_up_right.astype(float)
    only_winner, only_runner_up = int((differences > 0).sum()), int((differences < 0).sum())
    disagreements = only_winner + only_runner_up
    p = float(stats.binomtest(only_winner, disagreements, 0.5).pvalue) if disagreements else 1.0
    interval = of_items(lambda rows: float(differences[np.asarray(rows, dtype=int)].mean()), n, seed)
    how = f"McNemar's exact test over {n:,} test items ({only_winner} right by the winner alone, {only_runner_up} by the runner-up alone)"
    return Test(how, n, float(differences.mean()), p, interval)
