"""The search of one study as a state machine: who is next, what a report means, when it is over.

Executors drive it: Ray Tune (`tune.adapters.ray_tune`), the foreground (`tune.adapters.foreground`) and the simulator. Every
method first writes its event to the journal, then acts; `Search.replay` brings sampler, scheduler and fold to the same state from
a journal, so a resumed study goes on exactly. It does not know clocks, disks, Ray or Optuna. Not thread-safe: one caller at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Literal

from tune.core.demand import demand
from tune.core.errors import Problem, UserError
from tune.core.fold import JournalWriter, StudyFold
from tune.core.journal import (
    ASKED,
    BUDGET,
    INFEASIBLE,
    MOVED,
    Ended,
    Entry,
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
    StudyStarted,
    Suggested,
    WarmStarted,
)
from tune.core.ledger import Ledger
from tune.core.ports import GO_ON, Answer, Decision, Point, Question, Sampler, Scheduler
from tune.core.proposer import Proposer
from tune.core.rules import Assignment, Rules, finalist_name, trial_seed
from tune.core.steer_events import LimitsSet, SteerEvent, Wanted
from tune.core.trial_view import TrialView

MAX_INFEASIBLE_IN_A_ROW = 200
TOO_LARGE = ("out_of_memory",)  # failures that tell the sampler of a broken limit, not of a fault


class Search:
    """See the module. Trials that were started before and are not over are handed out before the sampler is asked."""

    def __init__(self, rules: Rules, sampler: Sampler, scheduler: Scheduler, journal: JournalWriter):
        self.rules, self.sampler, self.journal = rules, sampler, journal
        self.ledger = Ledger(rules, journal)
        self.fold.goal = rules.goal
        self._proposer = Proposer(rules.goal, sampler, scheduler, journal)
        self._rules_of_file = rules
        self._active: set[str] = set()  # handed out in this session and not over
        self._told_to_stop: set[str] = set()
        self._exhausted = ""  # why the sampler has no further point
        self.between: Callable[[], None] = lambda: None  # called between points that do not run, so that a stop is heard
        self.is_kept: Callable[[str, int], bool] = lambda trial, step: True  # whether a trial has a checkpoint of this step
        self._finalists: list[TrialView] | None = None  # chosen once: no search trial ends any more
        self._draining = ""  # why no new trial starts: a limit was reached or someone asked

    @property
    def fold(self) -> StudyFold:
        return self.journal.fold

    # -- the past -------------------------------------------------------------------------------------------------------------

    def replay(self, entries: Iterable[Entry]) -> None:
        """Bring fold, sampler and scheduler to where `entries` end. Raises UserError if they disagree with the journal."""
        events = list(entries)
        recorded = max((i for i, e in enumerate(events) if isinstance(e.event, SamplerState)), default=-1)
        for i, entry in enumerate(events):
            try:
                self.fold.apply(entry)
                self._proposer.replay(entry.event, adopt=i < recorded)
            except (KeyError, IndexError, TypeError, ValueError, AttributeError, StopIteration) as error:
                got = f"an event that does not fit this study ({type(error).__name__}: {error})"
                raise UserError(Problem(f"journal.jsonl:{entry.seq + 1}", got, "restore the file from a copy")) from None
        self._obey_limits()

    # -- the future -----------------------------------------------------------------------------------------------------------

    def begin(self, started: StudyStarted | None, placement: str, warm: WarmStarted | None = None, slots: int | None = None) -> None:
        """Open a session. `started` and `warm` are given once, for a new study. slots: to begin with, if there may be more later.

        Attempts that a kill cut are charged up to the last sign of life; trials that were told to stop before it end here.
        """
        last_sign = self.fold.last_t
        if started is not None:
            self.journal.write(started)
        self.journal.write(SessionStarted(self.fold.sessions + 1, min(slots or self.rules.slots, self.rules.slots), placement))
        if warm is not None:
            self.journal.write(warm)
            self._proposer.replay(warm, adopt=False)
        for name in [*self.fold.running, *self.fold.paused]:
            trial = self.fold.trials[name]
            self.ledger.charge_time(trial, until=last_sign)
            if trial.decided_stop or trial.stop_asked:
                self._end_stopped(trial)

    def next(self) -> Assignment | Literal["wait", "over"]:
        """The next trial to run, `wait` while all slots are taken or the last trials run, `over` when the study is."""
        self._check_limits()
        if len(self._active) >= self.rules.slots:
            return "wait"
        if self._interrupting:
            return "wait" if self._active else "over"
        if self.fold.held_by and not self._draining:
            return "wait"
        for trial in [self.fold.trials[name] for name in self.fold.running if name not in self._active]:
            if self._draining:  # a limit was reached before this session
                self._end_stopped(trial)
            elif not self._end_if_infeasible(trial):
                return self._assign(trial)
        if not self._draining:
            if self.rules.baseline and not self.fold.of_role("baseline"):
                return self._assign(self._create("baseline", "baseline", {}))
            further = self._next_wanted() or self._next_promoted() or self._next_search_trial()
            if further is not None:
                return self._assign(further)
            if self._interrupting or self.fold.held_by:  # heard between points that did not run
                return self.next()
        if any(self.fold.trials[trial].role in ("search", "baseline") for trial in self._active):
            return "wait"
        if not self._draining and not self.fold.count("complete"):  # the shares are too small for so few trials: the best goes on
            rescued = self._next_promoted(at_least=1)
            if rescued is not None:
                return self._assign(rescued)
        for name in list(self.fold.paused):
            self._end_stopped(self.fold.trials[name])
        last = None if self._draining else self._next_finalist()
        if last is None and self._active:
            return "wait"
        last = last or (None if self._draining else self._next_refit())
        return "over" if last is None else self._assign(last)

    def n_waiting(self) -> int:
        """How many more trials would begin now if there were slots for them. Nothing of the search changes."""
        self._check_limits()
        return 0 if self._draining else demand(self.rules, self.fold, self._active, bool(self._exhausted), self._finalists)

    @property
    def _interrupting(self) -> bool:
        return self.fold.stop_asked

    def _next_wanted(self) -> TrialView | None:
        """The first point that a person wants tried: a clone always, a trial of the search while the budget has one left."""
        for request in list(self.fold.untried):
            wanted = self.fold.wanted[request]
            if wanted.trial:
                return self._create(wanted.trial, "clone", wanted.point, wanted.of, request)
            trial = None if self._has_enough else self._create_search_trial(wanted)
            if trial is not None and not self._end_if_infeasible(trial):
                return trial
        return None

    def _next_promoted(self, at_least: int = 0) -> TrialView | None:
        promotion = self._proposer.promote(self.fold.paused.keys() - self._active, at_least)
        if promotion is None:
            return None
        self.journal.write(promotion)
        self._proposer.promoted(promotion.trial)
        return self.fold.trials[promotion.trial]

    def _next_search_trial(self) -> TrialView | None:
        for n_infeasible in range(MAX_INFEASIBLE_IN_A_ROW):
            if n_infeasible:
                self.between()
            if self._has_enough or self._exhausted or self._interrupting or self.fold.held_by:
                return None
            trial = self._create_search_trial()
            if trial is None:
                self._exhausted = "the space is exhausted"
                return None
            if not self._end_if_infeasible(trial):
                return trial
        self._exhausted = f"the sampler found {MAX_INFEASIBLE_IN_A_ROW} points in a row that break a limit"
        return None

    @property
    def _has_enough(self) -> bool:
        """As many trials of the search have begun as may run."""
        return self.rules.trials is not None and self.fold.n_search - self.fold.n_infeasible >= self.rules.trials

    def _create_search_trial(self, wanted: Wanted | None = None) -> TrialView | None:
        name = f"t{self.fold.n_search:04d}"
        point = self._proposer.point(name, wanted)
        if point is None:
            return None
        trial = self._create(name, "search", point, *(() if wanted is None else (wanted.of, wanted.request)))
        self._proposer.suggested(name)
        self._finalists = None
        return trial

    def _end_if_infeasible(self, trial: TrialView) -> bool:
        """End a search trial that has not run yet if its point alone breaks a limit."""
        if self.rules.infeasible is None or trial.attempt or trial.role != "search":
            return False
        broken = dict(self.rules.infeasible(trial.point))
        if broken:
            detail = "breaks " + ", ".join(f"{limit} by {amount:.0%}" for limit, amount in broken.items())
            self._end(trial, Ended(trial.trial, "pruned", reason=INFEASIBLE, detail=detail, violations=broken))
        return bool(broken)

    def _next_finalist(self) -> TrialView | None:
        best, seeds = self.rules.finalists
        if best and self._finalists is None:
            self._finalists = self.fold.candidates()[:best]
        chosen = self._finalists or []
        for seed in range(1, seeds + 1):
            for trial in chosen:
                name = finalist_name(trial.trial, seed)
                if name not in self.fold.trials:
                    return self._create(name, "finalist", trial.point, of=trial.trial)
        return None

    def _next_refit(self) -> TrialView | None:
        winner = self.fold.winner
        if not self.rules.refit or winner is None or self.fold.of_role("refit"):
            return None
        return self._create("refit", "refit", winner.point)

    def _create(self, name: str, role: Role, point: Point, of: str = "", request: str = "") -> TrialView:
        number = self.fold.n_search if role == "search" else len(self.fold.of_role(role))
        self.journal.write(Suggested(name, number, role, point, of, request))
        return self.fold.trials[name]

    def _assign(self, trial: TrialView) -> Assignment:
        self._active.add(trial.trial)
        self._told_to_stop.discard(trial.trial)
        seeded_by = trial
        while seeded_by.role == "clone":  # it goes on with the draws of the trial whose checkpoint it has
            seeded_by = self.fold.trials[seeded_by.of]
        return Assignment(trial.trial, trial.role, trial.point, trial.attempt + 1, trial_seed(self.rules.seed, seeded_by.trial))

    # -- what executors tell --------------------------------------------------------------------------------------------------

    def started(self, trial: str, slot: int, after_step: int | None = None) -> None:
        self.journal.write(Started(trial, self.fold.trials[trial].attempt + 1, slot, after_step))

    def report(self, trial: str, step: int, metrics: Mapping[str, float]) -> Decision:
        """Take a report and decide. A step that the journal already has (a repeat after a resume) is not written again."""
        view = self.fold.trials[trial]
        if view.last_step is None or step > view.last_step:
            verdict = self._proposer.judge(view, step, metrics) if view.role == "search" else GO_ON
            why = {verdict.action: verdict.why}
            self.journal.write(Reported(trial, step, dict(metrics), why.get("stop", ""), why.get("pause", "")))
            if verdict.action == "pause":
                self._proposer.paused(trial)
        self._check_limits()
        view = self.fold.trials[trial]
        leave = view.decided_stop or view.stop_asked or view.state == "paused" or self._interrupting or self._over_budget
        if not leave and not (self.fold.held_by and self.is_kept(trial, step)):
            return "continue"
        self._told_to_stop.add(trial)
        return "stop"

    def finish(self, trial: str, metrics: Mapping[str, float], files: Mapping[str, str], reason: str = "", detail: str = "") -> None:
        """The recipe returned. A trial cut short by an interruption or a pause, of it or of the study, stays open.

        reason, detail: why it ended by itself before its length. Once that was the budget, no further trial is made.
        """
        if reason == BUDGET:
            self._exhausted = self._exhausted or f"budget.usd does not cover more: {trial}: {detail}"
        view = self.fold.trials[trial]
        self.ledger.charge_time(view)
        # what was cut short has no final metrics; what was told to stop after its last step may have them
        whole = bool(metrics) or trial not in self._told_to_stop
        if view.decided_stop or (view.stop_asked and not whole):
            self._end_stopped(view, metrics, files)
        elif whole:
            self._end_whole(view, metrics, files, reason, detail)
        elif self._over_budget:
            self._end_stopped(view, metrics, files)
        else:  # paused or interrupted
            self._active.discard(trial)

    def _end_whole(self, view: TrialView, metrics: Mapping[str, float], files: Mapping[str, str], reason: str, detail: str) -> None:
        known = {**(view.curve[-1][1] if view.curve else {}), **metrics}
        values = self.rules.goal.values(known)
        if reason and not metrics:  # without a final word it cannot win
            self._end(view, Ended(view.trial, "pruned", values or (), {}, dict(files), reason, detail))
            return
        if values is None and view.role in ("search", "finalist", "clone"):
            detail = f"it ended without having reported {self.rules.goal.missing(known)}"
            self._end(view, Ended(view.trial, "failed", reason="no_objective", detail=detail))
            return
        violations = self.rules.goal.violations(known)
        self._end(view, Ended(view.trial, "complete", values or (), dict(metrics), dict(files), reason, detail, violations))

    def fail(self, trial: str, reason: str, detail: str) -> None:
        view = self.fold.trials[trial]
        self.ledger.charge_time(view)
        violations = {"memory": 1.0} if reason in TOO_LARGE else {}
        self._end(view, Ended(trial, "failed", reason=reason, detail=detail, violations=violations))

    def retry(self, trial: str, reason: str, detail: str) -> None:
        """Something that may pass hit the trial: it will be handed out again, or fail by that name after `max_retries`.

        An attempt that was told to go on with other workers counts as none: nothing is wrong with the trial, however often it happens."""
        view = self.fold.trials[trial]
        self.ledger.charge_time(view)
        if view.decided_stop or view.stop_asked:  # it was over but for its last word
            self._end_stopped(view)
        elif self._interrupting or view.state == "paused":
            self._active.discard(trial)
        elif reason not in MOVED and view.retries >= self.rules.max_retries:
            self.fail(trial, reason, f"{detail} (after {view.retries} retries)")
        else:
            self.journal.write(Retried(trial, view.attempt, reason, detail))
            self._active.discard(trial)

    def ask(self, trial: str, question: Question) -> Answer:
        """What a running trial asks of the study: money from the budget, a turn at a limited service."""
        return self.ledger.answer(trial, question)

    def note(self, event: GroupNoted | Noted) -> None:
        self.journal.write(event)

    def ask_stop(self, trial: str | None, who: str, request: str = "") -> None:
        """Stop the study, or a trial at its next report; one that does not run ends now."""
        if trial is None and self.fold.stop_asked:
            return
        self.journal.write(StopAsked(trial, who, request))
        if trial is not None and trial not in self._active and not self.fold.trials[trial].ended:
            self._end_stopped(self.fold.trials[trial])

    def steer(self, event: SteerEvent) -> None:
        """A person's wish that `tune.core.steer` has checked. It is heard at the next `next` and at the next report of what runs."""
        self.journal.write(event)
        if isinstance(event, LimitsSet):
            self._obey_limits()

    def end(self) -> StudyEnded:
        """Close the study after `next` said `over` (or after an interruption)."""
        unfinished = len(self.fold.running) + len(self.fold.paused)
        complete = self.fold.count("complete")
        if self._interrupting:
            event = StudyEnded("interrupted", f"asked to stop; {unfinished} trial(s) wait for a resume")
        elif complete == 0:
            failures = sorted({trial.reason for trial in self.fold.of_role("search") if trial.state == "failed"})
            why = ", ".join(failures) or self._draining or self._exhausted or "all were stopped"
            event = StudyEnded("failed", f"no trial ran to its end: {why}")
        else:
            event = StudyEnded("done", self._draining or self._exhausted or "all trials are done")
        self.journal.write(event)
        return event

    # -- helpers --------------------------------------------------------------------------------------------------------------

    def _end_stopped(self, view: TrialView, metrics: Mapping[str, float] | None = None, files: Mapping[str, str] | None = None) -> None:
        detail = view.decided_stop
        if view.decided_stop:
            reason = "rung"
        elif view.stop_asked:
            reason, detail = ASKED, "stopped by the user"
        elif self._over_budget:
            reason, detail = BUDGET, self._draining
        else:
            reason, detail = "rung", "paused, and never among the best of its rung"
        last = view.curve[-1][1] if view.curve else {}
        values = self.rules.goal.values(last) or ()
        self._end(view, Ended(view.trial, "pruned", values, dict(metrics or {}), dict(files or {}), reason, detail))

    def _end(self, view: TrialView, event: Ended) -> None:
        self.journal.write(event)
        self._proposer.ended(event)
        self._active.discard(view.trial)

    @property
    def _over_budget(self) -> bool:
        return bool(self._draining) and not self._interrupting

    def _obey_limits(self) -> None:
        """Take over the limits that a person set; one that was reached may be so no more."""
        if self.fold.limits:
            self.rules = self._rules_of_file.steered(self.fold.limits)
            self.ledger = Ledger(self.rules, self.journal)
            self._draining, self._finalists = "", None
            if self._exhausted.startswith("budget."):
                self._exhausted = ""

    def _check_limits(self) -> None:
        if self.fold.stop_asked:
            self._draining = "asked to stop"
        if self._draining or self.fold.idle:
            return
        self._draining = self.ledger.limit_reached(self._active)
