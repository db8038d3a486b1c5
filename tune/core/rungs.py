"""The ladder of asynchronous successive halving on a 0-based axis, for `plan` and for people. Pure.

A rung with budget b judges a trial right after step b (0-based), with b = grace, grace * factor, ... below `max`; this is what
Optuna's SuccessiveHalvingPruner(min_resource=grace, reduction_factor=factor, min_early_stopping_rate=0) does when steps count
from 0, and what Ray's ASHA does with `time_attr` counting from 0. With 5/4/50: after steps 5 and 20, the 6th and the 21st epoch.
"""

from __future__ import annotations


def milestones(grace: int, factor: int, max_steps: int, bracket: int = 0) -> tuple[int, ...]:
    """The 0-based steps after which a trial of `bracket` is judged: grace * factor ** (bracket + k), before the last step.

    grace >= 1 and factor >= 2; `max_steps` is the length of a whole trial, whose last step is max_steps - 1: a trial that got there
    is complete, and judging it would save nothing.
    """
    assert grace >= 1 and factor >= 2, (grace, factor)
    found = []
    step = grace * factor**bracket
    while step < max_steps - 1:
        found.append(step)
        step *= factor
    return tuple(found)


def expected_steps(max_steps: int, rungs: tuple[int, ...], factor: int) -> float:
    """Mean steps of a trial if exactly the best 1 / factor go on at each rung (the first trials go further)."""
    reached, last, total = 1.0, 0, 0.0
    for rung in rungs:
        total += reached * (rung + 1 - last)
        last = rung + 1
        reached /= factor
    return total + reached * (max_steps - last)
