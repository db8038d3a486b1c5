"""A study as its journal tells it: all trials and totals, rebuilt by applying entries in order, and the writer that keeps it true.

Every view of a study (search, MLflow, live view, summary, report) starts from a `StudyFold`. This file does not open files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from statistics import fmean
from typing import Any

from tune.core.errors import Problem, UserError
from tune.core.goal import Goal
from tune.core.journal import (
    ENDED_STATES,
    INFEASIBLE,
    MOVED,
    Charged,
    Ended,
    Entry,
    Event,
    Granted,
    GroupNoted,
    Noted,
    Promoted,
    Reported,
    Reserved,
    Retried,
    Returned,
    Role,
    SamplerState,
    SessionStarted,
    Started,
    StopAsked,
    StudyEnded,
    StudyStarted,
    Suggested,
    Waiting,
    WarmStarted,
    encode,
    told_by,
)
from tune.core.permits import PermitBook
from tune.core.ports import Clock, JournalStore
from tune.core.steer_events import Held, LimitsSet, Pinned, SteerEvent, Wanted
from tune.core.trial_view import TrialView


class StudyFold:
    """All trials and totals of a study, rebuilt by applying its entries in order. `apply` is the only way in."""

    def __init__(self, goal: Goal | None = None) -> None:
        self.goal = goal
        self.started: StudyStarted | None = None
        self.started_at: float = 0.0
        self.last_t: float = 0.0
        self.next_seq = 0
        self.sessions = 0
        self.slots = 0  # most groups at once in the last session
        self.groups = 0  # worker groups that may have a trial now
        self.shares: dict[int, float] = {}  # slot -> of its group's workers those that started last
        self.down: set[int] = set()  # slots whose workers left or were lost; others are on their way
        self.asked: set[int] = set()  # slots of groups that are asked for and not up
        self.placement = ""
        self.trials: dict[str, TrialView] = {}
        self.stop_asked = False
        self.held_by = ""  # who paused the study, if it is paused
        self.limits: dict[str, float] = {}  # that a person set in place of the study file's
        self.wanted: dict[str, Wanted] = {}  # id of the request -> point that a person wants tried
        self.untried: dict[str, None] = {}  # ids of those that are no trial yet, in their order
        self.requests: set[str] = set()  # ids of the requests that were carried out
        self.steered: list[tuple[float, StopAsked | SteerEvent]] = []
        self.ended: StudyEnded | None = None
        self.notes: dict[str, Mapping[str, Any]] = {}
        self.cpu_seconds = self.gpu_seconds = self.usd = 0.0
        self.usd_at_most = 0.0  # of `usd`, what is an upper bound
        self.reserved_usd = 0.0
        self.permits = PermitBook()
        self.active_seconds = 0.0  # wall time of all sessions, gaps between them left out
        self.running: dict[str, None] = {}  # ids of trials that are waiting or running, in order of suggestion
        self.paused: dict[str, None] = {}  # ids of trials that wait for a promotion
        self.pinned: set[str] = set()  # ids of trials that the scheduler can neither stop nor pause
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

    def begun(self, where: str) -> StudyStarted:
        """The first event; `where` it would be, for the error. Raises UserError if it has not come yet."""
        if self.started is None:
            raise UserError(Problem(where, "it has no first event yet", "look again in a moment"))
        return self.started

    def count(self, state: str, role: Role = "search") -> int:
        return self._counts[role, state]

    @property
    def n_ended(self) -> int:
        """Search trials that are over."""
        return sum(self.count(state) for state in ENDED_STATES)

    def of_role(self, role: Role) -> list[TrialView]:
        return [self.trials[trial] for trial in self._by_role.get(role, ())]

    @property
    def idle(self) -> bool:
        """The study is paused and nothing runs: this time is not counted."""
        return bool(self.held_by) and all(self.trials[trial].attempt_at is None for trial in self.running)

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

    def candidates(self) -> list[TrialView]:
        """Search trials as they deserve to be repeated: of several objectives the front, its knee first, then the rest."""
        ranked = self.ranked()
        if self.goal is None or not self.goal.several or not self.front:
            return ranked
        front = [self.front[i] for i in self.goal.by_knee([trial.values for trial in self.front])]
        return [*front, *(trial for trial in ranked if trial not in front)]

    @property
    def winner(self) -> TrialView | None:
        """The search trial whose repeats have the best means; of several objectives the knee of the means. Without repeats, the best.

        A trial some of whose repeats failed, while another's did not, wins nothing: a mean over what survived flatters it.
        """
        repeated = {view.of: self.repeats(view.of) for view in self.of_role("finalist")}
        most = max((len(views) for views in repeated.values()), default=0)
        if not most or self.goal is None:
            return self.best
        whole = {trial: views for trial, views in repeated.items() if len(views) == most}
        means = {trial: tuple(map(fmean, zip(*(v.values for v in views), strict=True))) for trial, views in whole.items()}
        names = list(means)
        front = [names[i] for i in self.goal.front(list(means.values()))]
        return self.trials[front[self.goal.knee([means[trial] for trial in front])]]

    # -- the way in -----------------------------------------------------------------------------------------------------------

    def apply(self, entry: Entry) -> None:
        event, t = entry.event, entry.t
        if not isinstance(event, (SessionStarted, StudyStarted)) and not self.idle:
            self.active_seconds += max(0.0, t - self.last_t)
        if isinstance(event, (Started, Reported, Promoted, Charged, Reserved, Granted, Returned, Waiting, Retried, Ended, Pinned)):
            self._known(event.trial, entry.seq)
        self.last_t, self.next_seq = t, entry.seq + 1
        match event:
            case StudyStarted():
                self.started, self.started_at = event, t
                self.goal = self.goal or _goal(event, entry.seq)
            case SessionStarted():
                self.sessions, self.slots, self.placement = event.session, event.slots, event.placement
                self.groups, self.asked, self.stop_asked, self.ended = event.slots, set(), False, None
                self.shares, self.down = {}, set()
            case Suggested():
                self._add(TrialView(event.trial, event.number, event.role, dict(event.point), event.of, suggested_at=t))
                self.untried.pop(event.request, None)
            case Started():
                old = self.trials[event.trial]
                changes = {"attempt": event.attempt, "slot": event.slot, "started_at": old.started_at or t, "waiting": ""}
                share = 0.0 if event.slot in self.down else self.shares.get(event.slot, 1.0)
                self._put(old, state="running", **changes, attempt_at=t, share=share)
            case Reported():
                old = self.trials[event.trial]
                state = "paused" if event.pause else old.state
                if old.share == 0.0:  # it is at work, though nobody has told that its workers are up
                    old = old.changed(share=self.shares.get(old.slot or 0, 1.0), attempt_at=t)
                self._put(old, state=state, curve=(*old.curve, (event.step, dict(event.metrics))), decided_stop=event.stop)
            case Promoted():
                self._put(self.trials[event.trial], state="waiting")
            case Charged():
                self._charge(event)
            case Reserved():
                old = self.trials[event.trial]
                self._hold(old, {**old.reserved, event.what: event.usd})
            case Granted():
                self.permits.granted(event.what, event.trial, event.amount, t)
                self._put(self.trials[event.trial], waiting="")
            case Returned():
                self.permits.returned(event.what, event.trial)
            case Waiting():
                waiting = f"for {event.what}: {event.why}" if event.what else ""
                self._put(self.trials[event.trial], waiting=waiting, waiting_until=event.until)
            case Retried():
                old = self.trials[event.trial]
                counted = "moves" if event.reason in MOVED else "retries"
                changes = {counted: getattr(old, counted) + 1, "reason": event.reason, "detail": event.detail}
                self._put(old, state="waiting", **changes)
            case Ended():
                self._end(event, t)
            case StopAsked() | Held() | LimitsSet() | Pinned() | Wanted():
                self._steer(event, t)
            case Noted():
                self.notes[event.about] = dict(event.data)
                if (trial := told_by(event)) in self.trials:
                    self._put(self.trials[trial], told={name: str(value) for name, value in event.data.items()})
            case StudyEnded():
                self.ended = event
            case GroupNoted():
                self._group(event, t)
            case SamplerState() | WarmStarted():
                pass

    def _group(self, event: GroupNoted, t: float) -> None:
        self.groups += {"grown": 1, "released": -1}.get(event.what, 0)
        self.slots = max(self.slots, self.groups)
        match event.what:
            case "started":
                self.shares[event.slot] = event.share
                self.down.discard(event.slot)
                for view in [self.trials[trial] for trial in self.running]:
                    if view.slot == event.slot and view.attempt_at is not None:  # it waited for them
                        self._put(view, share=event.share, attempt_at=max(view.attempt_at, t - event.seconds))
            case "lost" | "recycled" | "preempted" | "resized" | "waits":
                self.down.add(event.slot)
            case "asked":
                self.asked.add(event.slot)
            case "released":
                self.down.discard(event.slot)
            case "grown" | "withdrawn":
                self.asked.discard(event.slot)

    def _steer(self, event: StopAsked | SteerEvent, t: float) -> None:
        self.steered.append((t, event))
        if event.request:
            self.requests.add(event.request)
        match event:
            case StopAsked(trial):
                if trial is None:
                    self.stop_asked = True
                elif trial in self.trials:
                    self._put(self.trials[trial], stop_asked=True)
            case Held(on, who):
                self.held_by = who if on else ""
            case LimitsSet(limits):
                self.limits |= limits
            case Pinned(trial, on):
                self._put(self.trials[trial], pinned=on)
                (self.pinned.add if on else self.pinned.discard)(trial)
            case Wanted():
                self.wanted[event.request] = event
                self.untried[event.request] = None

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
        old = self._put(
            old,
            ran_s=old.ran_s + event.seconds,
            cpu_seconds=old.cpu_seconds + event.cpu_seconds,
            gpu_seconds=old.gpu_seconds + event.gpu_seconds,
            usd=old.usd + event.usd,
            attempt_at=old.attempt_at if event.what else None,
            bills={**old.bills, event.bill: old.bills.get(event.bill, 0.0) + event.usd} if event.bill else old.bills,
        )
        self._hold(old, {what: usd for what, usd in old.reserved.items() if what != event.what})
        self.cpu_seconds += event.cpu_seconds
        self.gpu_seconds += event.gpu_seconds
        self.usd += event.usd
        self.usd_at_most += event.usd if event.at_most else 0.0

    def _hold(self, old: TrialView, reserved: Mapping[str, float]) -> None:
        self.reserved_usd += sum(reserved.values()) - sum(old.reserved.values())
        self._put(old, reserved=reserved)

    def _end(self, event: Ended, t: float) -> None:
        self._hold(self.trials[event.trial], {})
        self.permits.all_returned(event.trial)
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
        view = self.trials[old.trial] = old.changed(**changes)
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


class JournalWriter:
    """Appends events durably, then lets the fold and the listeners (MLflow, live view) see them."""

    def __init__(self, store: JournalStore, clock: Clock, fold: StudyFold, listeners: Iterable[Callable[[Entry], None]] = ()):
        self._store, self._clock, self.fold, self.listeners = store, clock, fold, list(listeners)

    def write(self, event: Event) -> None:
        entry = Entry(self.fold.next_seq, max(self._clock.now(), self.fold.last_t), event)
        self._store.append(encode(entry))
        self.fold.apply(entry)
        for listener in self.listeners:
            listener(entry)

    def now(self) -> float:
        return self._clock.now()
