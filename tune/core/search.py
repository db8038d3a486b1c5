"""The search of one study as a state machine: who is next, what a report means, when it is over.

Executors drive it: Ray Tune (`tune.adapters.ray_tune`), the foreground (`tune.adapters.foreground`) and the simulator. Every
method first writes its event to the journal, then acts; `Search.replay` brings sampler, scheduler and fold to the same state from
a journal, so a resumed study goes on exactly. It does not know clocks, disks, Ray or Optuna. Not thread-safe: one caller at a time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from tune.core.errors import Problem, UserError
from tune.core.journal import (
    Charged,
    Ended,
    Entry,
    Event,
    GroupNoted,
    Noted,
    Reported,
    Retried,
    Role,
    SamplerState,
    SessionStarted,
    Started,
    StopAsked,
    StudyEnded,
    StudyFold,
    StudyStarted,
    Suggested,
    TrialView,
    encode,
)
from tune.core.metrics import Mode
from tune.core.ports import Clock, Decision, JournalStore, Point, Sampler, Scheduler

SAMPLER_STATE_EVERY = 64  # suggestions between two records of the sampler's random state


@dataclass(frozen=True)
class Rules:
    """What the search obeys. Limits that are None do not apply; `wall_s` counts active seconds over all sessions."""

    metric: str
    mode: Mode
    seed: int
    slots: int
    trials: int | None = None
    wall_s: float | None = None
    gpu_seconds: float | None = None
    usd: float | None = None
    max_retries: int = 2
    baseline: bool = False
    refit: bool = False


@dataclass(frozen=True)
class Assignment:
    """A trial to run now. `attempt` counts from 1; `seed` depends on the study's seed and the trial's number alone."""

    trial: str
    role: Role
    point: Point
    attempt: int
    seed: int


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


def trial_seed(study_seed: int, trial: str) -> int:
    """31-bit seed of a trial, the same whenever and wherever it runs."""
    return int.from_bytes(hashlib.sha256(f"{study_seed}/{trial}".encode()).digest()[:4], "big") & 0x7FFFFFFF


class Search:
    """See the module. `resumed` trials (started before, not over) are handed out before the sampler is asked."""

    def __init__(self, rules: Rules, sampler: Sampler, scheduler: Scheduler, journal: JournalWriter):
        self.rules, self.sampler, self.scheduler, self.journal = rules, sampler, scheduler, journal
        self._active: set[str] = set()  # handed out in this session and not over
        self._told_to_stop: set[str] = set()
        self._exhausted = False  # the sampler has no further point
        self._asks = 0
        self._draining = ""  # why no new trial starts: a limit was reached or someone asked

    @property
    def fold(self) -> StudyFold:
        return self.journal.fold

    # -- the past -------------------------------------------------------------------------------------------------------------

    def replay(self, entries: Iterable[Entry]) -> None:
        """Bring fold, sampler and scheduler to where `entries` end. Raises UserError if the sampler disagrees with the journal."""
        events = list(entries)
        recorded = max((i for i, e in enumerate(events) if isinstance(e.event, SamplerState)), default=-1)
        for i, entry in enumerate(events):
            self.fold.apply(entry)
            self._replay_one(entry.event, adopt=i < recorded)

    def _replay_one(self, event: Event, adopt: bool) -> None:
        match event:
            case SamplerState():
                if not adopt:
                    self.sampler.restore(dict(event.state))
            case Suggested(role="search"):
                self._asks += 1
                self._replay_suggestion(event, adopt)
                self.scheduler.add(event.trial)
            case Reported() if self.fold.trials[event.trial].role == "search":
                value = event.metrics[self.rules.metric]
                self.sampler.observe(event.trial, event.step, value)
                self.scheduler.recall(event.trial, event.step, value)
            case Ended() if self.fold.trials[event.trial].role == "search":
                self.sampler.tell(event.trial, event.state, event.value)
                self.scheduler.remove(event.trial)

    def _replay_suggestion(self, event: Suggested, adopt: bool) -> None:
        if adopt:
            self.sampler.adopt(event.trial, event.point)
            return
        asked = self.sampler.ask(event.trial)
        if asked != event.point:
            raise UserError(
                Problem(
                    f"journal.jsonl: {event.trial}",
                    f"the sampler now suggests {asked} where the journal has {event.point}",
                    "resume with the versions in environment.json (Optuna's draws differ between versions)",
                )
            )

    # -- the future -----------------------------------------------------------------------------------------------------------

    def begin(self, started: StudyStarted | None, placement: str) -> None:
        """Open a session. `started` is given once, for a new study. Trials that were told to stop before a kill end here."""
        if started is not None:
            self.journal.write(started)
        self.journal.write(SessionStarted(self.fold.sessions + 1, self.rules.slots, placement))
        for trial in [self.fold.trials[name] for name in self.fold.running]:
            if trial.decided_stop or trial.stop_asked:
                self._end_stopped(trial)

    def next(self) -> Assignment | Literal["wait", "over"]:
        """The next trial to run, `wait` while all slots are taken or the last trials run, `over` when the study is."""
        self._check_limits()
        if len(self._active) >= self.rules.slots:
            return "wait"
        if not (self._draining and self._interrupting):
            unfinished = next((name for name in self.fold.running if name not in self._active), None)
            if unfinished is not None:
                return self._assign(self.fold.trials[unfinished])
        if not self._draining:
            if self.rules.baseline and not self.fold.of_role("baseline"):
                return self._assign(self._create("baseline", "baseline", {}))
            fresh = self._next_search_trial()
            if fresh is not None:
                return self._assign(fresh)
        if self._active:
            return "wait"
        best = self.fold.best(self.rules.mode)
        if self.rules.refit and not self._interrupting and best is not None and not self.fold.of_role("refit"):
            return self._assign(self._create("refit", "refit", best.point))
        return "over"

    @property
    def _interrupting(self) -> bool:
        return self.fold.stop_asked

    def _next_search_trial(self) -> TrialView | None:
        n = self.fold.n_search
        if self._exhausted or (self.rules.trials is not None and n >= self.rules.trials):
            return None
        name = f"t{n:04d}"
        point = self.sampler.ask(name)
        if point is None:
            self._exhausted = True
            return None
        trial = self._create(name, "search", point)
        self.scheduler.add(name)
        self._asks += 1
        if self._asks % SAMPLER_STATE_EVERY == 0:
            state = self.sampler.state()
            if state is not None:
                self.journal.write(SamplerState(state))
        return trial

    def _create(self, name: str, role: Role, point: Point) -> TrialView:
        number = self.fold.n_search if role == "search" else 0
        self.journal.write(Suggested(name, number, role, point))
        return self.fold.trials[name]

    def _assign(self, trial: TrialView) -> Assignment:
        self._active.add(trial.trial)
        self._told_to_stop.discard(trial.trial)
        return Assignment(trial.trial, trial.role, trial.point, trial.attempt + 1, trial_seed(self.rules.seed, trial.trial))

    # -- what executors tell --------------------------------------------------------------------------------------------------

    def started(self, trial: str, slot: int, after_step: int | None = None) -> None:
        self.journal.write(Started(trial, self.fold.trials[trial].attempt + 1, slot, after_step))

    def report(self, trial: str, step: int, metrics: Mapping[str, float]) -> Decision:
        """Take a report and decide. A step that the journal already has (a repeat after a resume) is not written again."""
        view = self.fold.trials[trial]
        if view.last_step is None or step > view.last_step:
            stop = ""
            if view.role == "search":
                value = metrics[self.rules.metric]
                self.sampler.observe(trial, step, value)
                if self.scheduler.decide(trial, step, value) == "stop":
                    stop = f"not among the best at the rung after step {step}"
            self.journal.write(Reported(trial, step, dict(metrics), stop))
        self._check_limits()
        view = self.fold.trials[trial]
        over_budget = bool(self._draining) and view.role == "search" and self._limit_reached
        if not (view.decided_stop or view.stop_asked or self._interrupting or over_budget):
            return "continue"
        self._told_to_stop.add(trial)
        return "stop"

    def finish(self, trial: str, metrics: Mapping[str, float], files: Mapping[str, str]) -> None:
        """The recipe returned. A trial cut short by an interruption stays open for the resume."""
        view = self.fold.trials[trial]
        if view.decided_stop or view.stop_asked:
            self._end_stopped(view, metrics, files)
        elif self._interrupting and not self._ran_to_its_end(trial, metrics):
            self._active.discard(trial)
        else:
            value = metrics.get(self.rules.metric, self._last_value(view))
            state: Literal["complete", "pruned"] = "complete"
            reason = ""
            if self._limit_reached and view.role == "search" and not self._ran_to_its_end(trial, metrics):
                state, reason = "pruned", "budget"
            self._end(view, Ended(trial, state, value, dict(metrics), dict(files), reason))

    def _ran_to_its_end(self, trial: str, metrics: Mapping[str, float]) -> bool:
        """A recipe that was cut short returns no final metrics; one that was told to stop after its last step may have them."""
        return bool(metrics) or trial not in self._told_to_stop

    def fail(self, trial: str, reason: str, detail: str) -> None:
        self._end(self.fold.trials[trial], Ended(trial, "failed", None, reason=reason, detail=detail))

    def retry(self, trial: str, reason: str, detail: str) -> None:
        """Something that may pass hit the trial: it will be handed out again, or fail by that name after `max_retries`."""
        view = self.fold.trials[trial]
        if view.decided_stop or view.stop_asked:  # it was over but for its last word
            self._end_stopped(view)
        elif self._interrupting:
            self._active.discard(trial)
        elif view.retries >= self.rules.max_retries:
            self.fail(trial, reason, f"{detail} (after {view.retries} retries)")
        else:
            self.journal.write(Retried(trial, view.attempt, reason, detail))
            self._active.discard(trial)

    def charge(self, trial: str, cpu_seconds: float, gpu_seconds: float, usd: float = 0.0) -> None:
        self.journal.write(Charged(trial, round(cpu_seconds, 3), round(gpu_seconds, 3), usd))

    def note(self, event: GroupNoted | Noted) -> None:
        self.journal.write(event)

    def ask_stop(self, trial: str | None, who: str) -> None:
        if trial is None and self.fold.stop_asked:
            return
        self.journal.write(StopAsked(trial, who))

    def end(self) -> StudyEnded:
        """Close the study after `next` said `over` (or after an interruption)."""
        unfinished = len(self.fold.running)
        complete = self.fold.count("complete")
        if self._interrupting:
            event = StudyEnded("interrupted", f"asked to stop; {unfinished} trial(s) wait for a resume")
        elif complete == 0 and self.fold.count("failed") > 0:
            event = StudyEnded("failed", "no trial ran to its end: " + self._failures())
        else:
            event = StudyEnded("done", self._draining or ("the space is exhausted" if self._exhausted else "all trials are done"))
        self.journal.write(event)
        return event

    # -- helpers --------------------------------------------------------------------------------------------------------------

    def _end_stopped(self, view: TrialView, metrics: Mapping[str, float] | None = None, files: Mapping[str, str] | None = None) -> None:
        reason = "asked" if view.stop_asked and not view.decided_stop else "rung"
        self._end(
            view,
            Ended(view.trial, "pruned", self._last_value(view), dict(metrics or {}), dict(files or {}), reason, view.decided_stop),
        )

    def _end(self, view: TrialView, event: Ended) -> None:
        self.journal.write(event)
        if view.role == "search":
            self.sampler.tell(view.trial, event.state, event.value)
            self.scheduler.remove(view.trial)
        self._active.discard(view.trial)

    def _last_value(self, view: TrialView) -> float | None:
        return view.curve[-1][1].get(self.rules.metric) if view.curve else None

    def _failures(self) -> str:
        reasons = sorted({t.reason for t in self.fold.of_role("search") if t.state == "failed"})
        return ", ".join(reasons)

    @property
    def _limit_reached(self) -> bool:
        return bool(self._draining) and not self._interrupting

    def _check_limits(self) -> None:
        if self._draining:
            return
        if self.fold.stop_asked:
            self._draining = "asked to stop"
            return
        elapsed = self.fold.active_seconds + max(0.0, self.journal.now() - self.fold.last_t)
        for used, limit, name in (
            (elapsed, self.rules.wall_s, "wall time"),
            (self.fold.gpu_seconds, self.rules.gpu_seconds, "GPU hours"),
            (self.fold.usd, self.rules.usd, "dollars"),
        ):
            if limit is not None and used >= limit:
                self._draining = f"the budget of {name} is used up"
                return
