"""The journal's events, their text form, and the fold that every view of a study starts from.

A study directory's `journal.jsonl` is the only truth. Each line is one event: `{"v": 1, "seq": n, "t": unix_s, "type": ..., ...}`.
`StudyFold` replays lines into trials, counts, costs and the stop request; the sampler, the scheduler, MLflow, the live view and
the summary are folds of their own over the same events. This file does not open files.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal

from tune.core.errors import Problem, UserError
from tune.core.metrics import Mode
from tune.core.ports import Point, TrialState

VERSION = 1
Role = Literal["search", "baseline", "refit"]


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
    """A trial exists from here on. `number` is its 0-based place; `point` maps dotted keys to values in the space's order."""

    trial: str
    number: int
    role: Role
    point: Point


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
    """A report and the scheduler's word on it, one event so that no kill can part them. `stop` is the reason, or empty."""

    trial: str
    step: int
    metrics: Mapping[str, float]
    stop: str = ""


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
    """The trial is over. `value` is the objective (None if failed); `reason` names a failure or a stop."""

    trial: str
    state: TrialState
    value: float | None
    metrics: Mapping[str, float] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    reason: str = ""
    detail: str = ""


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
    | Suggested
    | SamplerState
    | Started
    | Reported
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
    "suggested": Suggested,
    "sampler_state": SamplerState,
    "started": Started,
    "reported": Reported,
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
    state: Literal["waiting", "running"] | TrialState = "waiting"
    attempt: int = 0  # times it was started, resumes included
    retries: int = 0  # times it was started again because something hit it
    slot: int | None = None
    curve: tuple[tuple[int, Mapping[str, float]], ...] = ()
    value: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    reason: str = ""
    detail: str = ""
    stop_asked: bool = False
    decided_stop: str = ""
    suggested_at: float = 0.0
    started_at: float | None = None
    ended_at: float | None = None
    cpu_seconds: float = 0.0
    gpu_seconds: float = 0.0
    usd: float = 0.0

    @property
    def ended(self) -> bool:
        return self.state in ("complete", "pruned", "failed")

    @property
    def last_step(self) -> int | None:
        return self.curve[-1][0] if self.curve else None


class StudyFold:
    """All trials and totals of a study, rebuilt by applying its entries in order. `apply` is the only way in."""

    def __init__(self) -> None:
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
        self.running: dict[str, None] = {}  # ids of trials that are not over, in order of suggestion
        self.n_search = 0

    @classmethod
    def of(cls, entries: Iterable[Entry]) -> StudyFold:
        fold = cls()
        for entry in entries:
            fold.apply(entry)
        return fold

    def _known(self, trial: str, seq: int) -> None:
        if trial not in self.trials:
            raise UserError(
                Problem(f"journal.jsonl: event {seq}", f"a trial '{trial}' that was never suggested", "restore the file from a copy")
            )

    def count(self, state: str, role: Role = "search") -> int:
        return sum(trial.state == state and trial.role == role for trial in self.trials.values())

    def ranked(self, mode: Mode) -> list[TrialView]:
        """Complete search trials, the best first and the earlier of equals first."""
        complete = [t for t in self.of_role("search") if t.state == "complete" and t.value is not None]
        return sorted(complete, key=lambda t: t.value or 0.0, reverse=mode == "max")

    def best(self, mode: Mode) -> TrialView | None:
        """The first of `ranked`."""
        return next(iter(self.ranked(mode)), None)

    def of_role(self, role: Role) -> list[TrialView]:
        return [trial for trial in self.trials.values() if trial.role == role]

    def apply(self, entry: Entry) -> None:
        event, t = entry.event, entry.t
        if not isinstance(event, (SessionStarted, StudyStarted)):
            self.active_seconds += max(0.0, t - self.last_t)
        if isinstance(event, (Started, Reported, Charged, Retried, Ended)):
            self._known(event.trial, entry.seq)
        self.last_t, self.next_seq = t, entry.seq + 1
        match event:
            case StudyStarted():
                self.started, self.started_at = event, t
            case SessionStarted():
                self.sessions, self.slots, self.placement = event.session, event.slots, event.placement
                self.stop_asked, self.ended = False, None
            case Suggested():
                self.trials[event.trial] = TrialView(event.trial, event.number, event.role, dict(event.point), suggested_at=t)
                self.running[event.trial] = None
                self.n_search += event.role == "search"
            case Started():
                old = self.trials[event.trial]
                self._put(old, state="running", attempt=event.attempt, slot=event.slot, started_at=old.started_at or t)
            case Reported():
                old = self.trials[event.trial]
                self._put(old, curve=(*old.curve, (event.step, dict(event.metrics))), decided_stop=event.stop)
            case Charged():
                old = self.trials[event.trial]
                self._put(
                    old,
                    cpu_seconds=old.cpu_seconds + event.cpu_seconds,
                    gpu_seconds=old.gpu_seconds + event.gpu_seconds,
                    usd=old.usd + event.usd,
                )
                self.cpu_seconds += event.cpu_seconds
                self.gpu_seconds += event.gpu_seconds
                self.usd += event.usd
            case Retried():
                old = self.trials[event.trial]
                self._put(old, state="waiting", retries=old.retries + 1, reason=event.reason, detail=event.detail)
            case Ended():
                self._put(
                    self.trials[event.trial],
                    state=event.state,
                    value=event.value,
                    metrics=dict(event.metrics),
                    files=dict(event.files),
                    reason=event.reason,
                    detail=event.detail,
                    ended_at=t,
                )
                self.running.pop(event.trial, None)
            case StopAsked():
                if event.trial is None:
                    self.stop_asked = True
                elif event.trial in self.trials:
                    self._put(self.trials[event.trial], stop_asked=True)
            case Noted():
                self.notes[event.about] = dict(event.data)
            case StudyEnded():
                self.ended = event
            case SamplerState() | GroupNoted():
                pass

    def _put(self, old: TrialView, **changes: Any) -> None:
        self.trials[old.trial] = replace(old, **changes)
