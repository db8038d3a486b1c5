"""Who ran where, who waited for what: the journal's events laid out over the slots. Pure.

Times are active seconds of the study: the gaps between its sessions (after a stop or a kill) are left out, and marked.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Literal

from tune.core.journal import Ended, Entry, GroupNoted, Promoted, Reported, Retried, SessionStarted, Started, StudyStarted, Suggested


@dataclass(frozen=True)
class Span:
    """An attempt of a trial on a slot (`trial` set), or the start of the slot's worker group (`trial` empty)."""

    slot: int
    trial: str
    attempt: int
    start_s: float
    end_s: float
    how: str  # complete, pruned, failed, paused, retried, cut (the session ended first), or what the group did


@dataclass(frozen=True)
class Wait:
    trial: str
    wanted: Literal["a slot", "its worker group", "promotion"]
    start_s: float
    end_s: float

    @property
    def seconds(self) -> float:
        return self.end_s - self.start_s


@dataclass(frozen=True)
class Timeline:
    """`busy_s`: attempts minus the group starts within them. `slot_s`: seconds that slots were there for (slots times time)."""

    spans: tuple[Span, ...] = ()
    groups: tuple[Span, ...] = ()
    waits: tuple[Wait, ...] = ()
    resumes_s: tuple[float, ...] = ()
    length_s: float = 0.0
    slot_s: float = 0.0

    @property
    def slots(self) -> tuple[int, ...]:
        return tuple(sorted({span.slot for span in (*self.spans, *self.groups)}))

    @property
    def group_s(self) -> float:
        return sum(span.end_s - span.start_s for span in self.groups)

    @property
    def busy_s(self) -> float:
        starts = sum(wait.seconds for wait in self.waits if wait.wanted == "its worker group")
        return max(0.0, sum(span.end_s - span.start_s for span in self.spans) - starts)

    @property
    def idle_s(self) -> float:
        return max(0.0, self.slot_s - sum(span.end_s - span.start_s for span in self.spans))


@dataclass
class _Fold:
    now_s: float = 0.0
    last_t: float = 0.0
    slots: int = 0
    open: dict[str, Span] = field(default_factory=dict)
    since: dict[str, tuple[Literal["a slot", "promotion"], float]] = field(default_factory=dict)
    paused: set[str] = field(default_factory=set)
    session_s: float = 0.0
    slots_s: float = 0.0  # since when there are so many slots
    slot_s: float = 0.0
    spans: list[Span] = field(default_factory=list)
    groups: list[Span] = field(default_factory=list)
    waits: list[Wait] = field(default_factory=list)
    resumes: list[float] = field(default_factory=list)

    def apply(self, entry: Entry) -> None:
        event = entry.event
        if not isinstance(event, (SessionStarted, StudyStarted)):
            self.now_s += max(0.0, entry.t - self.last_t)
        self.last_t = entry.t
        match event:
            case SessionStarted(session, slots, _):
                self._session(session, slots)
            case Suggested(trial=trial):
                self.since[trial] = ("a slot", self.now_s)
            case Started(trial, attempt, slot):
                self._close(trial, "cut")
                wanted, since_s = self.since.pop(trial, ("a slot", self.now_s))
                self._wait(trial, wanted, since_s)
                self.open[trial] = Span(slot, trial, attempt, self.now_s, self.now_s, "running")
            case Reported(trial=trial, pause=pause) if pause:
                self._close(trial, "paused")
                self.since[trial] = ("promotion", self.now_s)
            case Promoted(trial=trial):
                wanted, since_s = self.since.pop(trial, ("promotion", self.now_s))
                self._wait(trial, wanted, since_s)
                self.since[trial] = ("a slot", self.now_s)
            case Retried(trial=trial):
                self._close(trial, "retried")
                self.since[trial] = ("a slot", self.now_s)
            case Ended(trial=trial, state=state):
                self._close(trial, state)
                self.since.pop(trial, None)
            case GroupNoted(what="grown" | "released"):
                self._slots_from_now(max(0, self.slots + (1 if event.what == "grown" else -1)))
            case GroupNoted():
                self._group(event)
            case _:
                pass

    def _slots_from_now(self, slots: int) -> None:
        self.slot_s += (self.now_s - self.slots_s) * self.slots
        self.slots, self.slots_s = slots, self.now_s

    def _session(self, session: int, slots: int) -> None:
        self._slots_from_now(slots)
        self.session_s = self.now_s
        if session > 1:
            self.resumes.append(self.now_s)
        for trial in list(self.open):
            self._close(trial, "cut")
            self.since[trial] = ("a slot", self.now_s)

    def _group(self, event: GroupNoted) -> None:
        if event.what not in ("started", "recycled") or event.seconds <= 0:
            return
        start_s = max(self.session_s, self.now_s - event.seconds)
        self.groups.append(Span(event.slot, "", 0, start_s, self.now_s, event.what))
        for span in self.open.values():
            if span.slot == event.slot:
                self.waits.append(Wait(span.trial, "its worker group", max(start_s, span.start_s), self.now_s))

    def _close(self, trial: str, how: str) -> None:
        span = self.open.pop(trial, None)
        if span is not None:
            self.spans.append(replace(span, end_s=self.now_s, how=how))

    def _wait(self, trial: str, wanted: Literal["a slot", "promotion"], since_s: float) -> None:
        if self.now_s > since_s:
            self.waits.append(Wait(trial, wanted, since_s, self.now_s))


def timeline(entries: Iterable[Entry]) -> Timeline:
    """The timeline up to the last entry; what still runs then ends there as `running`."""
    fold = _Fold()
    for entry in entries:
        fold.apply(entry)
    for trial in list(fold.open):
        fold._close(trial, "running")
    fold._slots_from_now(0)
    return Timeline(tuple(fold.spans), tuple(fold.groups), tuple(fold.waits), tuple(fold.resumes), fold.now_s, fold.slot_s)
