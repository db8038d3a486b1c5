"""A trial as the journal tells it: what `tune.core.fold` keeps of each, and everybody reads. A value; nothing here changes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from tune.core.journal import ENDED_STATES, Role
from tune.core.ports import Point, TrialState, Values


@dataclass(frozen=True)
class TrialView:
    """`curve` is ((step, metrics), ...) in order of first report of each step."""

    trial: str
    number: int
    role: Role
    point: Point
    of: str = ""
    state: Literal["waiting", "running", "paused"] | TrialState = "waiting"
    attempt: int = 0  # times it was started, resumes included
    retries: int = 0  # times it was started again because something hit it
    moves: int = 0  # and because it was told to go on with other workers
    slot: int | None = None
    curve: tuple[tuple[int, Mapping[str, float]], ...] = ()
    values: Values = ()
    violations: Mapping[str, float] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    reason: str = ""
    detail: str = ""
    stop_asked: bool = False
    pinned: bool = False  # the scheduler can neither stop nor pause it
    decided_stop: str = ""
    suggested_at: float = 0.0
    started_at: float | None = None
    attempt_at: float | None = None  # since when an attempt holds devices that are not charged yet
    share: float = 1.0  # of all its workers those that the attempt has
    ended_at: float | None = None
    ran_s: float = 0.0  # on a slot, in all attempts that are over
    cpu_seconds: float = 0.0
    gpu_seconds: float = 0.0
    usd: float = 0.0
    reserved: Mapping[str, float] = field(default_factory=dict)  # what -> dollars held for it
    bills: Mapping[str, float] = field(default_factory=dict)  # named bill -> dollars charged of it
    waiting: str = ""  # for what, and why, since it asked last
    waiting_until: float = 0.0  # unix seconds at which it looks again
    told: Mapping[str, str] = field(default_factory=dict)  # names of what it holds elsewhere, such as ids of hosted jobs

    def changed(self, **changes: Any) -> TrialView:
        """A copy with these fields changed. A journal of 10,000 trials makes 80,000: `dataclasses.replace` takes several times as long."""
        if not changes.keys() <= self.__dict__.keys():
            raise TypeError(f"a trial has no {', '.join(changes.keys() - self.__dict__.keys())}")
        copy = object.__new__(TrialView)
        copy.__dict__.update(self.__dict__, **changes)
        return copy

    @property
    def ended(self) -> bool:
        return self.state in ENDED_STATES

    @property
    def value(self) -> float | None:
        """The first objective."""
        return self.values[0] if self.values else None

    @property
    def in_the_running(self) -> bool:
        """Complete, with its objectives, within all limits: it can win."""
        return self.state == "complete" and bool(self.values) and not self.violations

    @property
    def last_step(self) -> int | None:
        return self.curve[-1][0] if self.curve else None
