"""What a search obeys, and what it hands out: the rules of one study, an assignment, a trial's seed. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

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
    most_slots: how many trials there is room for at once, up to which a person may raise `slots`; None: no more than `slots`.
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
    most_slots: int | None = None
    permits: Mapping[str, Permit] = field(default_factory=dict)
    infeasible: Callable[[Point], Mapping[str, float]] | None = None

    @property
    def metric(self) -> str:
        return self.goal.metric

    @property
    def trials(self) -> int | None:
        """Search trials that may run."""
        return self.budget.trials

    def steered(self, limits: Mapping[str, float]) -> Rules:
        """With the limits that a person set while the study ran (see `tune.core.steer_events.LimitsSet`)."""
        whole = ("trials", "concurrency")
        given = {name: int(value) if name in whole else value for name, value in limits.items()}
        slots = given.pop("concurrency", self.slots)
        room = self.slots if self.most_slots is None else self.most_slots
        return replace(self, slots=min(int(slots), room), budget=self.budget.model_copy(update=given))


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


def finalist_name(trial: str, seed: int) -> str:
    """Of the trial that repeats `trial` with its `seed`-th further seed, counted from 1."""
    return f"{trial}-s{seed}"
