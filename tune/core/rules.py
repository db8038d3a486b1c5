"""What a search obeys, and what it hands out: the rules of one study, an assignment, a trial's seed. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from tune.core.cost import Budget
from tune.core.goal import Goal
from tune.core.journal import Role
from tune.core.permits import Permit
from tune.core.ports import Point


@dataclass(frozen=True)
class Rules:
    """What the search obeys.

    cpus, gpus: what one running trial holds; its time is charged by them. finalists: the best k trials are run again over n seeds.
    permits: limits of outside services that all trials share, by name.
    infeasible: point -> limits that it breaks before it has run, with the amounts (see Goal); None if nothing can say.
    """

    goal: Goal
    seed: int
    slots: int
    budget: Budget = Budget()
    max_retries: int = 2
    cpus: float = 1.0
    gpus: float = 0.0
    baseline: bool = False
    finalists: tuple[int, int] = (0, 0)
    refit: bool = False
    permits: Mapping[str, Permit] = field(default_factory=dict)
    infeasible: Callable[[Point], Mapping[str, float]] | None = None

    @property
    def metric(self) -> str:
        return self.goal.metric

    @property
    def trials(self) -> int | None:
        """Search trials that may run."""
        return self.budget.trials


@dataclass(frozen=True)
class Assignment:
    """A trial to run now. `attempt` counts from 1; `seed` depends on the study's seed and the trial's number alone."""

    trial: str
    role: Role
    point: Point
    attempt: int
    seed: int


def trial_seed(study_seed: int, trial: str) -> int:
    """31-bit seed of a trial, the same whenever and wherever it runs.

    Finalists `t0007-s1` and `t0003-s1` share one, so that their points can be compared in pairs.
    """
    return int.from_bytes(hashlib.sha256(f"{study_seed}/{trial.rpartition('-')[2]}".encode()).digest()[:4], "big") & 0x7FFFFFFF
