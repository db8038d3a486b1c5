"""The journal's events, their text form, and the fold that every view of a study starts from.

A study directory's `journal.jsonl` is the only truth. Each line is one event: `{"v": 2, "seq": n, "t": unix_s, "type": ..., ...}`.
`v` is the oldest version that understands the line: 3 where a person steered the study (`tune.core.steer_events`), else 2.
`StudyFold` replays lines into trials, counts, costs and the stop request; the sampler, the scheduler, MLflow, the live view and
the summary are folds of their own over the same events. This file does not open files.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from tune.core.errors import Problem, UserError
from tune.core.ports import GO_ON, Point, TrialState, Values, Verdict
from tune.core.steer_events import STEER_TYPES, LimitsSet, SteerEvent, Wanted

VERSIONS = (2, 3)  # that this reads; each line is written in the oldest that has it
Role = Literal["search", "baseline", "finalist", "refit", "clone"]
BUDGET = "budget"  # Ended.reason of a trial that the study's budget ended
INFEASIBLE = "infeasible"  # Ended.reason of a trial whose point breaks a limit before it has run
ASKED = "asked"  # Ended.reason of a trial that a person stopped
PREEMPTED = "preempted"  # Retried.reason of an attempt that left a node which goes away
RESIZED = "resized"  # of one that left its workers because there is room for more
NO_WORKERS = "no_workers"  # of one whose group has none, and nobody knows when
MOVED = (PREEMPTED, RESIZED, NO_WORKERS)  # of those that nothing went wrong with
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

    `of`: the search trial that a finalist repeats with another seed, or whose values a person changed. `request`: of the `Wanted`
    that it answers, if a person chose its point.
    """

    trial: str
    number: int
    role: Role
    point: Point
    of: str = ""
    request: str = ""


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

    @property
    def verdict(self) -> Verdict:
        if self.stop:
            return Verdict("stop", self.stop)
        return Verdict("pause", self.pause) if self.pause else GO_ON


@dataclass(frozen=True)
class Promoted:
    """A paused trial goes on from its checkpoint: it is among the best of the rung after this step."""

    trial: str
    rung: int


@dataclass(frozen=True)
class Charged:
    """Measured use: worker seconds on CPU and GPU devices of an attempt, or dollars spent on `what`, of the bill named."""

    trial: str
    cpu_seconds: float
    gpu_seconds: float
    usd: float
    what: str = ""
    bill: str = ""
    seconds: float = 0.0  # for which an attempt held its slot
    at_most: bool = False  # `usd` is an upper bound of what was billed


@dataclass(frozen=True)
class Reserved:
    """Dollars of the budget are held for what a trial is about to buy, until they are charged or the trial ends."""

    trial: str
    what: str
    usd: float


@dataclass(frozen=True)
class Granted:
    """A trial may use `amount` of a limited service; it holds it until it is returned or the trial ends."""

    trial: str
    what: str
    amount: float


@dataclass(frozen=True)
class Returned:
    """A trial gave a limited service back."""

    trial: str
    what: str


@dataclass(frozen=True)
class Waiting:
    """A trial waits for a limited service; `until` is the unix time when it will ask again."""

    trial: str
    what: str
    until: float
    why: str


@dataclass(frozen=True)
class Retried:
    """An attempt ended by something that may pass; the trial will be started again from its checkpoint. A reason of MOVED: it was told to
    go on with other workers."""

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
    """What became of a worker group; for the timeline and for people.

    preempted: it has to leave a node. resized: it leaves for more workers. waits: it has had no workers for long. Of a study that grows:
    asked (room for one more), withdrawn (it is asked for no more), grown (it may take trials). released: it is gone for good, and its
    room is free.
    share: of all its workers those that started.
    """

    slot: int
    what: Literal["started", "recycled", "preempted", "resized", "lost", "waits", "released", "asked", "withdrawn", "grown"]
    detail: str = ""
    seconds: float = 0.0
    share: float = 1.0


@dataclass(frozen=True)
class StopAsked:
    """Someone asked the study (trial None) or one trial to stop."""

    trial: str | None
    who: str
    request: str = ""


@dataclass(frozen=True)
class Noted:
    """A fact about the study: the data set's digest and counts, a warning. `data` is JSON."""

    about: str
    data: Mapping[str, Any]


TOLD = "trial "  # Noted.about of what a trial told of itself begins so, before its id


def told_by(event: Noted) -> str:
    """The trial that told this of itself, or nothing."""
    return event.about.removeprefix(TOLD) if event.about.startswith(TOLD) else ""


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
    | Reserved
    | Granted
    | Returned
    | Waiting
    | Retried
    | Ended
    | GroupNoted
    | StopAsked
    | Noted
    | StudyEnded
    | SteerEvent
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
    "reserved": Reserved,
    "granted": Granted,
    "returned": Returned,
    "waiting": Waiting,
    "retried": Retried,
    "ended": Ended,
    "group_noted": GroupNoted,
    "stop_asked": StopAsked,
    "noted": Noted,
    "study_ended": StudyEnded,
    **STEER_TYPES,
}
_TYPE_NAMES = {cls: name for name, cls in EVENT_TYPES.items()}
_FIELDS = {name: frozenset(f.name for f in fields(cls)) for name, cls in EVENT_TYPES.items()}


@dataclass(frozen=True)
class Entry:
    """An event in its place: `seq` counts from 0, `t` is unix seconds."""

    seq: int
    t: float
    event: Event


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is not JSON")


_ENCODER = json.JSONEncoder(allow_nan=False, separators=(",", ":"))
_DECODER = json.JSONDecoder(parse_constant=_refuse)


def encode(entry: Entry) -> str:
    """One line of JSON without a newline. Raises ValueError for NaN or infinity, which JSON does not have."""
    head = {"v": _version(entry.event), "seq": entry.seq, "t": round(entry.t, 6), "type": _TYPE_NAMES[type(entry.event)]}
    return _ENCODER.encode(head | vars(entry.event))


def _version(event: Event) -> int:
    """The oldest version of the journal whose reader understands the event."""
    return 3 if isinstance(event, SteerEvent) or (isinstance(event, Suggested) and (event.request or event.role == "clone")) else 2


def decode(line: str, where: str = "journal.jsonl") -> Entry:
    """The entry of one line; `where` it is, for errors. Raises UserError if it is of a newer version, of an unknown type or damaged."""
    try:
        raw = _DECODER.decode(line)
        version, seq, t, kind = raw.pop("v"), raw.pop("seq"), raw.pop("t"), raw.pop("type")
        if not (isinstance(seq, int) and isinstance(t, (int, float)) and isinstance(kind, str)):
            raise TypeError("seq, t and type must be a whole number, a number and a word")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(Problem(where, f"a damaged line: {line[:80]!r} ({error})", "restore the file from a copy")) from None
    if version not in VERSIONS:
        fix = f"use the Phasetune that wrote it; this one reads {' and '.join(map(str, VERSIONS))}"
        raise UserError(Problem(where, f"version {version} of the journal", fix))
    cls = EVENT_TYPES.get(kind)
    if cls is None:
        raise UserError(Problem(where, f"an event of unknown type '{kind}'", "use the Phasetune that wrote it"))
    known = _FIELDS[kind]
    try:
        return Entry(seq, t, _sound(cls(**{k: v for k, v in raw.items() if k in known})))
    except (TypeError, ValueError) as error:
        raise UserError(Problem(where, f"event {seq} of type '{kind}': {error}", "restore the file from a copy")) from None


def _sound(event: Event) -> Event:
    """The event, if its numbers are numbers. Raises TypeError or ValueError."""
    match event:
        case StudyStarted(_, _, resolved, environment):
            if not isinstance(resolved, dict) or not isinstance(environment, dict):
                raise TypeError("resolved and environment must be mappings")
        case Reported(_, step, metrics):
            if not isinstance(step, int) or not all(isinstance(v, (int, float)) for v in metrics.values()):
                raise TypeError("step must be a whole number and metrics numbers")
        case Ended(_, state, values, metrics):
            if state not in ENDED_STATES or not all(isinstance(v, (int, float)) for v in (*values, *metrics.values())):
                raise TypeError("state must be one of an end, values and metrics numbers")
        case LimitsSet(limits):
            if not all(isinstance(v, (int, float)) for v in limits.values()):
                raise TypeError("limits must be numbers")
        case Wanted(point):
            if not isinstance(point, dict):
                raise TypeError("point must be a mapping")
    return event


def decode_all(lines: Iterable[str], path: str = "journal.jsonl", first: int = 0) -> Iterator[Entry]:
    """Entries in order, checked to count up by one from `first`."""
    for i, line in enumerate(lines, first):
        where = f"{path}:{i + 1}"
        entry = decode(line, where)
        if entry.seq != i:
            raise UserError(Problem(where, f"event {entry.seq} where {i} was due", "restore the file from a copy"))
        yield entry
