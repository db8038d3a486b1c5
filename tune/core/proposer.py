"""Sampler and scheduler of one search: the points they propose, the verdicts they give, and how a journal brings both up to date.

Only trials of the role `search` reach them: a baseline, a finalist, a refit or a warm-started clone is neither told to the sampler
nor judged at a rung. A method that proposes or judges does not write the journal, except for the sampler's random state; `Search`
does, and `replay` gives the two parts the same calls again.
"""

from __future__ import annotations

from collections.abc import Mapping

from tune.core.errors import FailTrial, Problem, UserError
from tune.core.fold import JournalWriter
from tune.core.goal import Goal
from tune.core.journal import Ended, Event, Promoted, Reported, SamplerState, Suggested, WarmStarted
from tune.core.ports import GO_ON, PastTrial, Point, Sampler, Scheduler, Values, Verdict
from tune.core.steer_events import Wanted
from tune.core.trial_view import TrialView

SAMPLER_STATE_EVERY = 64  # suggestions between two records of the sampler's random state


class Proposer:
    """See the module."""

    def __init__(self, goal: Goal, sampler: Sampler, scheduler: Scheduler, journal: JournalWriter):
        self.goal, self.sampler, self.scheduler, self._journal = goal, sampler, scheduler, journal
        self._asks = 0

    # -- the past -------------------------------------------------------------------------------------------------------------

    def replay(self, event: Event, adopt: bool) -> None:
        """Take in an event that the fold has applied. adopt: a later record of the random state makes asking again needless.

        Raises UserError if the sampler would now suggest another point than it did.
        """
        match event:
            case WarmStarted():
                self.sampler.learn([PastTrial(**{**trial, "values": tuple(trial["values"])}) for trial in event.trials])
            case SamplerState():
                if not adopt:
                    self.sampler.restore(dict(event.state))
            case Suggested(role="search"):
                self._asks += 1
                self._replay_suggestion(event, adopt)
                self.scheduler.add(event.trial)
            case Reported() if self._is_searched(event.trial):
                values = self.goal.values(event.metrics) or ()
                self.sampler.observe(event.trial, event.step, values)
                self.scheduler.recall(event.trial, event.step, values, event.verdict)
                if event.pause:
                    self.sampler.pause(event.trial)
            case Promoted():
                self.scheduler.promoted(event.trial, event.rung)
                self.sampler.promote(event.trial)
            case Ended() if self._is_searched(event.trial):
                self._tell(event)

    def _replay_suggestion(self, event: Suggested, adopt: bool) -> None:
        if event.request:
            given = event.point if adopt else self._journal.fold.wanted[event.request].point
            asked: Point | None = self.sampler.take(event.trial, dict(given))
        elif adopt:
            self.sampler.adopt(event.trial, event.point)
            return
        else:
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

    def point(self, trial: str, wanted: Wanted | None = None) -> Point | None:
        """The next point: the sampler's own, or what a person wants, filled up by the sampler. None: there is none left."""
        return self.sampler.ask(trial) if wanted is None else self.sampler.take(trial, dict(wanted.point))

    def suggested(self, trial: str) -> None:
        """A point of `point` has become a trial, and stands in the journal."""
        self.scheduler.add(trial)
        self._asks += 1
        state = self.sampler.state() if self._asks % SAMPLER_STATE_EVERY == 0 else None
        if state is not None:
            self._journal.write(SamplerState(state))

    def judge(self, view: TrialView, step: int, metrics: Mapping[str, float]) -> Verdict:
        """The scheduler's word on a new report; of a pinned trial it takes note only. Raises FailTrial without an objective."""
        values = self._values(metrics)
        self.sampler.observe(view.trial, step, values)
        if not view.pinned:
            return self.scheduler.decide(view.trial, step, values)
        self.scheduler.recall(view.trial, step, values, GO_ON)
        return GO_ON

    def paused(self, trial: str) -> None:
        """A verdict to pause stands in the journal."""
        self.sampler.pause(trial)

    def promote(self, ready: set[str], at_least: int = 0) -> Promoted | None:
        """The paused trial that goes on, if one of `ready` may; pinned ones first, wherever they stand."""
        fold = self._journal.fold
        pinned = ready & fold.pinned
        found = self.scheduler.promote(pinned, len(fold.trials)) if pinned else None
        found = found or (self.scheduler.promote(ready, at_least) if ready else None)
        return None if found is None else Promoted(*found)

    def promoted(self, trial: str) -> None:
        """A promotion stands in the journal."""
        self.sampler.promote(trial)

    def ended(self, event: Ended) -> None:
        """The end of a trial stands in the journal."""
        if self._is_searched(event.trial):
            self._tell(event)

    # -- helpers --------------------------------------------------------------------------------------------------------------

    def _is_searched(self, trial: str) -> bool:
        return self._journal.fold.trials[trial].role == "search"

    def _values(self, metrics: Mapping[str, float]) -> Values:
        values = self.goal.values(metrics)
        if values is None:
            raise FailTrial("no_objective", f"a report without {self.goal.missing(metrics)}, which the study optimises")
        return values

    def _tell(self, event: Ended) -> None:
        self.sampler.tell(event.trial, event.state, tuple(event.values), sum(event.violations.values()))
        self.scheduler.remove(event.trial)
