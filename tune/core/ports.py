"""The seams between the pure core and the world: what a recipe sees, what a sampler, a scheduler, a clock and a journal offer.

Contract suites in `tests/contracts` run over every implementation of these.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from tune.core.permits import Wait

Decision = Literal["continue", "stop"]
TrialState = Literal["complete", "pruned", "failed"]
Values = tuple[float, ...]  # one value an objective, in the goal's order
Point = dict[str, Any]  # dotted key of the trainable's spec -> value, in the order of the space


@dataclass(frozen=True)
class Outcome:
    """What a recipe returns when it ran to its end (or was told to stop).

    metrics: final metrics; if the objective is among them, it is the trial's value, else the last report is.
    files: name -> path relative to the trial's folder, for people and for MLflow (confusion matrix, curves, best checkpoint).
    reason, detail: why it ended before its whole length, such as `budget`; with metrics it can win by what it has, without it cannot.
    """

    metrics: Mapping[str, float] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    reason: str = ""
    detail: str = ""


@dataclass(frozen=True)
class Reserve:
    """May `usd` dollars of the study's budget be held for `what`? Answered by a bool; True holds them until they are spent or the
    trial ends. Asking again for the same `what` replaces what was held for it."""

    what: str
    usd: float


@dataclass(frozen=True)
class ReserveAll:
    """`Reserve` of several things, of all or of none: what -> dollars. Answered by True, by False if the budget does not cover them
    whatever the others give back, or by a Wait if it may once they do."""

    amounts: Mapping[str, float]


@dataclass(frozen=True)
class Spend:
    """`usd` dollars were spent on `what`, as billed; what was reserved for it is let go. Answered by True.

    bill: names what was bought, such as a job's id. Told again, as after a crash, only what it came to since is charged.
    at_most: nobody knows what was billed; `usd` is an upper bound.
    """

    what: str
    usd: float
    bill: str = ""
    at_most: bool = False


@dataclass(frozen=True)
class Use:
    """May this trial use `amount` of the limited service `what` now? Answered by None (it holds it now) or by a Wait."""

    what: str
    amount: float = 1.0


@dataclass(frozen=True)
class Return:
    """The trial gives the service back. Answered by True."""

    what: str


@dataclass(frozen=True)
class Await:
    """The trial waits for something that is not the study's to give, such as a service's queue, and looks again at `until`, unix
    seconds; with `what` empty it waits no more. For people. Answered by True."""

    what: str
    until: float = 0.0
    why: str = ""


@dataclass(frozen=True)
class Tell:
    """Names of what the trial made or holds elsewhere, such as the ids of hosted jobs: name -> id. Added to what it told before.
    Answered by True."""

    facts: Mapping[str, str]


Question = Reserve | ReserveAll | Spend | Use | Return | Await | Tell
Answer = bool | Wait | None


class Reporter(Protocol):
    """What a recipe is given besides its spec. Everything a recipe knows about where it runs comes through here.

    trial: stable id such as `t0007`. seed: this trial's seed, a function of the study's seed and the trial's number.
    workdir: the trial's own folder in the study directory, existing. cache_dir: a folder on this node shared by all trials.
    rank, world_size: this worker within its group. device: "cpu", "cuda:0" ...
    """

    trial: str
    seed: int
    workdir: Path
    cache_dir: Path
    rank: int
    world_size: int
    device: str

    def resume_from(self) -> Path | None:
        """Folder of the last whole checkpoint of this trial, or None. Call before the first report."""
        ...

    def report(self, step: int, metrics: Mapping[str, float], save: Callable[[Path], None] | None = None) -> Decision:
        """Report metrics at a 0-based step of the study's axis and learn whether to go on.

        Every rank calls it with its own values; they are reduced over ranks as the recipe already did or by the caller's choice
        (rank 0's values are sent). `save(folder)` writes a checkpoint from which the recipe can go on *after* this step; it is
        called on every rank before the report is sent, the folder is put in place atomically, and the report travels with it,
        so that a kill between the two repeats nothing. Raises FailTrial for a metric that is undeclared or not finite.
        """
        ...

    def ask(self, question: Question) -> Answer:
        """Ask the study for something that its trials share: money, a turn at a limited service. One rank asks; nobody waits."""
        ...


@dataclass(frozen=True)
class PastTrial:
    """A trial of an earlier study that a sampler may learn from. `curve`: first objective by step."""

    point: Point
    state: TrialState
    values: Values
    curve: Mapping[int, float] = field(default_factory=dict)
    violation: float = 0.0


class Sampler(Protocol):
    """Proposes points. Deterministic given its seed and the sequence of calls."""

    def ask(self, trial: str) -> Point | None:
        """The next point, or None when there is none left (a grid that is finished)."""
        ...

    def take(self, trial: str, point: Point) -> Point:
        """A person chose this trial's values; those that the point leaves out are drawn. A whole point draws nothing."""
        ...

    def observe(self, trial: str, step: int, values: Values) -> None:
        """Intermediate values of the objectives."""
        ...

    def tell(self, trial: str, state: TrialState, values: Values, violation: float = 0.0) -> None:
        """The trial's end, once. `values` is empty if it has none; for a pruned trial they are the last observed ones.

        violation: the sum of the amounts by which it breaks limits; above 0 the point is infeasible, which is no failure.
        """
        ...

    def pause(self, trial: str) -> None:
        """The trial waits for a promotion: what was observed of it counts as if it were pruned there."""
        ...

    def promote(self, trial: str) -> None:
        """The trial goes on after a pause."""
        ...

    def learn(self, past: Sequence[PastTrial]) -> None:
        """Take in trials of earlier studies. Once, before the first ask."""
        ...

    def state(self) -> dict[str, Any] | None:
        """JSON state of the random generator, or None if this sampler cannot give it (then resume re-asks from the start)."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Set the random generator to what `state()` returned."""
        ...

    def adopt(self, trial: str, point: Point) -> None:
        """Take a past suggestion as asked, without drawing. Used when a recorded state makes re-asking needless."""
        ...


@dataclass(frozen=True)
class Verdict:
    """A scheduler's word on a report. `why` is for people; empty when the trial goes on."""

    action: Literal["continue", "stop", "pause"]
    why: str = ""


GO_ON = Verdict("continue")


class Scheduler(Protocol):
    """Decides at reports who goes on. Deterministic given its seed and the sequence of calls."""

    def add(self, trial: str) -> None: ...

    def decide(self, trial: str, step: int, values: Values) -> Verdict: ...

    def recall(self, trial: str, step: int, values: Values, verdict: Verdict) -> None:
        """Take note of a past report whose verdict stands in the journal, without deciding again."""
        ...

    def promote(self, ready: Collection[str], at_least: int = 0) -> tuple[str, int] | None:
        """A paused trial among `ready` that goes on, and the step of the rung that it leaves; None if there is none.

        at_least: so many of each rung may go on even where the share of the best is less: nothing else is left to run.
        """
        ...

    def promoted(self, trial: str, rung: int) -> None:
        """Take note of a past promotion."""
        ...

    def remove(self, trial: str) -> None:
        """The trial has ended, for whatever reason."""
        ...


class Clock(Protocol):
    def now(self) -> float:
        """Unix seconds (virtual ones in a simulation)."""
        ...


class JournalStore(Protocol):
    """Append-only, one writer, durable when `append` returns."""

    def append(self, line: str) -> None: ...

    def lines(self) -> Iterator[str]: ...

    def close(self) -> None: ...
