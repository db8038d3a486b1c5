"""The journal's events, their text form, and the fold that every view of a study starts from.

A study directory's `journal.jsonl` is the only truth. Each line is one event: `{"v": 1, "seq": n, "t": unix_s, "type": ..., ...}`.
`StudyFold` replays lines into trials, counts, costs and the stop request; the sampler, the scheduler, MLflow, the live view and
the summary are folds of their own over the same events. This file does not open files.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal

from tune.core.errors import Problem, UserError
from tune.core.goal import Goal
from tune.core.ports import Point, TrialState, Values

VERSION = 1
Role = Literal["search", "baseline", "finalist", "refit"]
INFEASIBLE = "infeasible"  # Ended.reason of a trial whose point breaks a limit before it has run
ENDED_STATES: tuple[TrialState, ...] = ("complete", "pruned", "failed")


@dataclass(frozen=True)
class StudyStarted:
    """First event. `digest` is of what may not change on resume: space, trainable, metric, sampler, scheduler, seed."""

    study: str
    digest: str
    resolved: Mapping[str, Any]
    environment: Mapping[str, Any]


@dataclass(frozen=True)
class SessionStarted:
    """A driver process took the study up: at the beginning, and at each resume."""

    session: int
    slots: int
    placement: str


@dataclass(frozen=True)
class Suggested:
    """A trial exists from here on. `number` is its 0-based place; `point` maps dotted keys to values in the space's order.

    `of`: the search trial that a finalist repeats with another seed.
    """

    trial: str
    number: int
    role: Role
    point: Point
    of: str = ""


@dataclass(frozen=True)
class WarmStarted:
    """What the sampler learned of earlier studies before its first suggestion; recorded, since their folders may go."""

    source: str
    trials: Sequence[Mapping[str, Any]]  # fields of PastTrial


@dataclass(frozen=True)
class SamplerState:
    """The sampler's random state after the suggestion before this event, so that a long journal need not be re-asked."""

    state: Mapping[str, Any]


@dataclass(frozen=True)
class Started:
    """An attempt of a trial began on a slot; `after_step` is the step its checkpoint lets it go on after, if any."""

    trial: str
    attempt: int
    slot: int
    after_step: int | None = None


@dataclass(frozen=True)
class Reported:
    """A report and the scheduler's word on it, one event so that no kill can part them. `stop`, `pause`: the reason, or empty."""

    trial: str
    step: int
    metrics: Mapping[str, float]
    stop: str = ""
    pause: str = ""


@dataclass(frozen=True)
class Promoted:
    """A paused trial goes on from its checkpoint: it is among the best of the rung after this step."""

    trial: str
    rung: int


@dataclass(frozen=True)
class Charged:
    """Measured use of one attempt: worker seconds on CPU and GPU devices, and dollars."""

    trial: str
    cpu_seconds: float
    gpu_seconds: float
    usd: float


@dataclass(frozen=True)
class Retried:
    """An attempt ended by something that may pass; the trial will be started again from its checkpoint."""

    trial: str
    attempt: int
    reason: str
    detail: str


@dataclass(frozen=True)
class Ended:
    """The trial is over. `values` are the objectives, empty if it has none; `reason` names a failure or a stop.

    violations: limit -> by how much the trial breaks it. A trial with one can win nothing.
    """

    trial: str
    state: TrialState
    values: Values = ()
    metrics: Mapping[str, float] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    reason: str = ""
    detail: str = ""
    violations: Mapping[str, float] = field(default_factory=dict)

    @property
    def value(self) -> float | None:
        """The first objective."""
        return self.values[0] if self.values else None


@dataclass(frozen=True)
class GroupNoted:
    """A worker group was started, recycled, lost or released; for the timeline and for people."""

    slot: int
    what: Literal["started", "recycled", "lost", "released"]
    detail: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class StopAsked:
    """Someone asked the study (trial None) or one trial to stop."""

    trial: str | None
    who: str


@dataclass(frozen=True)
class Noted:
    """A fact about the study: the data set's digest and counts, a warning. `data` is JSON."""

    about: str
    data: Mapping[str, Any]


@dataclass(frozen=True)
class StudyEnded:
    """done: a stop rule was reached; failed: it cannot go on; interrupted: resumable."""

    state: Literal["done", "failed", "interrupted"]
    why: str


Event = (
    StudyStarted
    | SessionStarted
    | WarmStarted
    | Suggested
    | SamplerState
    | Started
    | Reported
    | Promoted
    | Charged
    | Retried
    | Ended
    | GroupNoted
    | StopAsked
    | Noted
    | StudyEnded
)
EVENT_TYPES: dict[str, type] = {
    "study_started": StudyStarted,
    "session_started": SessionStarted,
    "warm_started": WarmStarted,
    "suggested": Suggested,
    "sampler_state": SamplerState,
    "started": Started,
    "reported": Reported,
    "promoted": Promoted,
    "charged": Charged,
    "retried": Retried,
    "ended": Ended,
    "group_noted": GroupNoted,
    "stop_asked": StopAsked,
    "noted": Noted,
    "study_ended": StudyEnded,
}
_TYPE_NAMES = {cls: name for name, cls in EVENT_TYPES.items()}


@dataclass(frozen=True)
class Entry:
    """An event in its place: `seq` counts from 0, `t` is unix seconds."""

    seq: int
    t: float
    event: Event


def encode(entry: Entry) -> str:
    """One line of JSON without a newline. Raises ValueError for NaN or infinity, which JSON does not have."""
    head = {"v": VERSION, "seq": entry.seq, "t": round(entry.t, 6), "type": _TYPE_NAMES[type(entry.event)]}
    return json.dumps(head | asdict(entry.event), allow_nan=False, separators=(",", ":"))


def decode(line: str) -> Entry:
    """The entry of one line. Raises UserError if the line is of a newer version, of an unknown type or damaged."""
    try:
        raw = json.loads(line)
        version, seq, t, kind = raw.pop("v"), raw.pop("seq"), raw.pop("t"), raw.pop("type")
        if not (isinstance(seq, int) and isinstance(t, (int, float)) and isinstance(kind, str)):
            raise TypeError("seq, t and type must be a whole number, a number and a word")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(Problem("journal.jsonl", f"a damaged line: {line[:80]!r} ({error})", "restore the file from a copy")) from None
    if version != VERSION:
        raise UserError(
            Problem("journal.jsonl", f"version {version} of the journal", f"use the Phasetune that wrote it; this one reads {VERSION}")
        )
    cls = EVENT_TYPES.get(kind)
    if cls is None:
        raise UserError(Problem("journal.jsonl", f"an event of unknown type '{kind}'", "use the Phasetune that wrote it"))
    known = {f.name for f in fields(cls)}
    try:
        return Entry(seq, t, cls(**{k: v for k, v in raw.items() if k in known}))
    except TypeError as error:
        raise UserError(Problem("journal.jsonl", f"event {seq} of type '{kind}': {error}", "restore the file from a copy")) from None


def decode_all(lines: Iterable[str]) -> Iterator[Entry]:
    """Entries in order, checked to count up by one."""
    for i, line in enumerate(lines):
        entry = decode(line)
        if entry.seq != i:
            raise UserError(Problem(f"journal.jsonl:{i + 1}", f"event {entry.seq} where {i} was due", "restore the file from a copy"))
        yield entry


@dataclass(frozen=True)
class TrialView:
    """A trial as the journal tells it. `curve` is ((step, metrics), ...) in order of first report of each step."""

    trial: str
    number: int
    role: Role
    point: Point
    of: str = ""
    state: Literal["waiting", "running", "paused"] | TrialState = "waiting"
    attempt: int = 0  # times it was started, resumes included
    retries: int = 0  # times it was started again because something hit it
    slot: int | None = None
    curve: tuple[tuple[int, Mapping[str, float]], ...] = ()
    values: Values = ()
    violations: Mapping[str, float] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    reason: str = ""
    detail: str = ""
    stop_asked: bool = False
    decided_stop: str = ""
    suggested_at: float = 0.0
    started_at: float | None = None
    attempt_at: float | None = None  # since when an attempt runs that is not charged yet
    ended_at: float | None = None
    cpu_seconds: float = 0.0
    gpu_seconds: float = 0.0
    usd: float = 0.0

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


class StudyFold:
    """All trials and totals of a study, rebuilt by applying its entries in order. `apply` is the only way in."""

    def __init__(self, goal: Goal | None = None) -> None:
        self.goal = goal
        self.started: StudyStarted | None = None
        self.started_at: float = 0.0
        self.last_t: float = 0.0
        self.next_seq = 0
        self.sessions = 0
        self.slots = 0
        self.placement = ""
        self.trials: dict[str, TrialView] = {}
        self.stop_asked = False
        self.ended: StudyEnded | None = None
        self.notes: dict[str, Mapping[str, Any]] = {}
        self.cpu_seconds = self.gpu_seconds = self.usd = 0.0
        self.active_seconds = 0.0  # wall time of all sessions, gaps between them left out
        self.running: dict[str, None] = {}  # ids of trials that are waiting or running, in order of suggestion
        self.paused: dict[str, None] = {}  # ids of trials that wait for a promotion
        self.n_search = 0
        self.n_infeasible = 0  # search trials that were judged by their point alone and never ran
        self.front: list[TrialView] = []  # search trials that no other dominates: the best one if there is one objective
        self._by_role: dict[str, list[str]] = {}
        self._counts: Counter[tuple[str, str]] = Counter()

    @classmethod
    def of(cls, entries: Iterable[Entry]) -> StudyFold:
        fold = cls()
        for entry in entries:
            fold.apply(entry)
        return fold

    # -- questions ------------------------------------------------------------------------------------------------------------

    def count(self, state: str, role: Role = "search") -> int:
        return self._counts[role, state]

    @property
    def n_ended(self) -> int:
        """Search trials that are over."""
        return sum(self.count(state) for state in ENDED_STATES)

    def of_role(self, role: Role) -> list[TrialView]:
        return [self.trials[trial] for trial in self._by_role.get(role, ())]

    @property
    def best(self) -> TrialView | None:
        """The best search trial: of several objectives the knee of the front."""
        if len(self.front) < 2 or self.goal is None:
            return next(iter(self.front), None)
        return self.front[self.goal.knee([trial.values for trial in self.front])]

    def ranked(self) -> list[TrialView]:
        """Search trials that can win, the best first and the earlier of equals first."""
        able = [trial for trial in self.of_role("search") if trial.in_the_running]
        return [able[i] for i in self.goal.order([trial.values for trial in able])] if self.goal else able

    def repeats(self, trial: str) -> list[TrialView]:
        """The finalists that repeated this trial to their end."""
        return [view for view in self.of_role("finalist") if view.of == trial and view.in_the_running]

    @property
    def winner(self) -> TrialView | None:
        """The search trial whose repeats have the best mean of the first objective; without repeats, the best."""
        repeated = {view.of: self.repeats(view.of) for view in self.of_role("finalist")}
        means = {trial: sum(v.values[0] for v in views) / len(views) for trial, views in repeated.items() if views}
        if not means or self.goal is None:
            return self.best
        sign = -1.0 if self.goal.mode == "max" else 1.0
        return self.trials[min(means, key=lambda trial: sign * means[trial])]

    # -- the way in -----------------------------------------------------------------------------------------------------------

    def apply(self, entry: Entry) -> None:
        event, t = entry.event, entry.t
        if not isinstance(event, (SessionStarted, StudyStarted)):
            self.active_seconds += max(0.0, t - self.last_t)
        if isinstance(event, (Started, Reported, Promoted, Charged, Retried, Ended)):
            self._known(event.trial, entry.seq)
        self.last_t, self.next_seq = t, entry.seq + 1
        match event:
            case StudyStarted():
                self.started, self.started_at = event, t
                self.goal = self.goal or _goal(event, entry.seq)
            case SessionStarted():
                self.sessions, self.slots, self.placement = event.session, event.slots, event.placement
                self.stop_asked, self.ended = False, None
            case Suggested():
                self._add(TrialView(event.trial, event.number, event.role, dict(event.point), event.of, suggested_at=t))
            case Started():
                old = self.trials[event.trial]
                changes = {"attempt": event.attempt, "slot": event.slot, "started_at": old.started_at or t, "attempt_at": t}
                self._put(old, state="running", **changes)
            case Reported():
                old = self.trials[event.trial]
                state = "paused" if event.pause else old.state
                self._put(old, state=state, curve=(*old.curve, (event.step, dict(event.metrics))), decided_stop=event.stop)
            case Promoted():
                self._put(self.trials[event.trial], state="waiting")
            case Charged():
                self._charge(event)
            case Retried():
                old = self.trials[event.trial]
                self._put(old, state="waiting", retries=old.retries + 1, reason=event.reason, detail=event.detail)
            case Ended():
                self._end(event, t)
            case StopAsked():
                if event.trial is None:
                    self.stop_asked = True
                elif event.trial in self.trials:
                    self._put(self.trials[event.trial], stop_asked=True)
            case Noted():
                self.notes[event.about] = dict(event.data)
            case StudyEnded():
                self.ended = event
            case SamplerState() | GroupNoted() | WarmStarted():
                pass

    def _known(self, trial: str, seq: int) -> None:
        if trial not in self.trials:
            raise UserError(
                Problem(f"journal.jsonl: event {seq}", f"a trial '{trial}' that was never suggested", "restore the file from a copy")
            )

    def _add(self, view: TrialView) -> None:
        self.trials[view.trial] = view
        self.running[view.trial] = None
        self._by_role.setdefault(view.role, []).append(view.trial)
        self._counts[view.role, view.state] += 1
        self.n_search += view.role == "search"

    def _charge(self, event: Charged) -> None:
        old = self.trials[event.trial]
        self._put(
            old,
            cpu_seconds=old.cpu_seconds + event.cpu_seconds,
            gpu_seconds=old.gpu_seconds + event.gpu_seconds,
            usd=old.usd + event.usd,
            attempt_at=None,
        )
        self.cpu_seconds += event.cpu_seconds
        self.gpu_seconds += event.gpu_seconds
        self.usd += event.usd

    def _end(self, event: Ended, t: float) -> None:
        view = self._put(
            self.trials[event.trial],
            state=event.state,
            values=tuple(event.values),
            violations=dict(event.violations),
            metrics=dict(event.metrics),
            files=dict(event.files),
            reason=event.reason,
            detail=event.detail,
            ended_at=t,
        )
        self.n_infeasible += view.role == "search" and event.reason == INFEASIBLE
        if view.role == "search" and view.in_the_running:
            self._to_the_front(view)

    def _to_the_front(self, view: TrialView) -> None:
        if self.goal is None:
            return
        goal = self.goal
        if any(goal.dominates(other.values, view.values) or other.values == view.values for other in self.front):
            return
        self.front = [*(other for other in self.front if not goal.dominates(view.values, other.values)), view]

    def _put(self, old: TrialView, **changes: Any) -> TrialView:
        view = self.trials[old.trial] = replace(old, **changes)
        if view.state != old.state:
            self._counts[view.role, old.state] -= 1
            self._counts[view.role, view.state] += 1
            for states, trials in ((("waiting", "running"), self.running), (("paused",), self.paused)):
                if view.state in states:
                    trials.setdefault(view.trial)
                else:
                    trials.pop(view.trial, None)
        return view


def _goal(event: StudyStarted, seq: int) -> Goal:
    try:
        return Goal.of(event.resolved)
    except (KeyError, TypeError, AttributeError, IndexError):
        problem = Problem(f"journal.jsonl: event {seq}", "a study without metric or objectives", "restore the file from a copy")
        raise UserError(problem) from None
