"""What people may ask of a running study: the requests, what is wrong with one, and how the driver carries it out.

A request is plain data with an id (see `tune.adapters.inbox`). `Steering.carry_out` checks it against the study as it stands, makes
it an event of the journal through `Search`, and says what it came to; asked again under the same id it does nothing. Pure: copies of
checkpoints come through the port `Checkpoints`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from tune.core.errors import Problem, UserError, did_you_mean
from tune.core.fold import StudyFold, TrialView
from tune.core.search import Search
from tune.core.steer_events import Held, Pinned

_AGAIN = "it is done already"


@dataclass(frozen=True)
class Stop:
    """End a trial in order, or (None) interrupt the study."""

    trial: str | None = None


@dataclass(frozen=True)
class Hold:
    """Pause the study (`on`) or let it go on."""

    on: bool = True


@dataclass(frozen=True)
class Pin:
    """Keep the scheduler from stopping a trial (`on`), or no longer."""

    trial: str = ""
    on: bool = True


What = Stop | Hold | Pin
KINDS: dict[str, type] = {"stop": Stop, "hold": Hold, "pin": Pin}


@dataclass(frozen=True)
class Request:
    """One wish: what, by whom, under which id."""

    id: str
    who: str
    what: What

    def to_json(self) -> dict[str, Any]:
        name = next(name for name, cls in KINDS.items() if isinstance(self.what, cls))
        return {"who": self.who, "do": name, **asdict(self.what)}


def decode(request: str, raw: Any) -> Request:
    """The request that an asker wrote. Raises UserError for what is none."""
    try:
        rest = dict(raw)
        who, cls = str(rest.pop("who")), KINDS[rest.pop("do")]
        return Request(request, who, cls(**rest))
    except (TypeError, ValueError, KeyError):
        raise UserError(Problem("the request", repr(raw)[:200], "ask with the same Phasetune as the driver's")) from None


class Steering:
    """Carries requests out on the search of this process."""

    def __init__(self, search: Search):
        self._search = search

    @property
    def _fold(self) -> StudyFold:
        return self._search.fold

    def carry_out(self, request: Request) -> str:
        """Do it, once, and say what it came to. Raises UserError if it cannot be done; then nothing is changed."""
        if request.id in self._fold.requests:
            return _AGAIN
        match request.what:
            case Stop(trial):
                return self._stop(request, trial)
            case Hold(on):
                return self._hold(request, on)
            case Pin(trial, on):
                return self._pin(request, trial, on)

    def _stop(self, request: Request, trial: str | None) -> str:
        if trial is None:
            self._search.ask_stop(None, request.who, request.id)
            return "asked the study to stop; it will when what runs has reported, and can be resumed"
        view = self._going_on(trial)
        self._search.ask_stop(trial, request.who, request.id)
        kept = "its checkpoint and its results so far are kept"
        if self._fold.trials[view.trial].ended:
            return f"{trial} was not running and is stopped; {kept}"
        return f"asked {trial} to stop; it ends at its next report, and {kept}"

    def _hold(self, request: Request, on: bool) -> str:
        held_by = self._fold.held_by
        if bool(held_by) == on:
            return f"it is paused already, by {held_by}" if on else "it is not paused"
        self._search.steer(Held(on, request.who, request.id))
        if not on:
            return "the study goes on"
        running = sum(self._fold.trials[trial].attempt_at is not None for trial in self._fold.running)
        return (
            f"paused: no trial starts; {running} running trial(s) leave at the next report that has a checkpoint, or at their end. "
            "The driver keeps its machines; to free them, stop the study and resume it later"
        )

    def _pin(self, request: Request, trial: str, on: bool) -> str:
        view = self._going_on(trial)
        if view.decided_stop:
            raise UserError(Problem(f"--trial {trial}", f"the scheduler has stopped it: {view.decided_stop}", "clone it instead"))
        if view.pinned == on:
            return f"{trial} is {'pinned already' if on else 'not pinned'}"
        self._search.steer(Pinned(trial, on, request.who, request.id))
        if not on:
            return f"{trial} is judged by the scheduler again"
        return f"{trial} is pinned: the scheduler can neither stop nor pause it; budgets and `phasetune stop` still can"

    def _known(self, trial: str) -> TrialView:
        view = self._fold.trials.get(trial)
        if view is None:
            hint = did_you_mean(trial, self._fold.trials)
            raise UserError(Problem(f"--trial {trial}", f"there is no trial '{trial}'{hint}", f"name one of {listed(self._fold.trials)}"))
        return view

    def _going_on(self, trial: str) -> TrialView:
        view = self._known(trial)
        if view.ended:
            going_on = [*self._fold.running, *self._fold.paused]
            fix = f"name a trial that is going on: {listed(going_on)}" if going_on else "none is going on just now"
            raise UserError(Problem(f"--trial {trial}", f"{trial} is {view.state}", fix))
        return view


def listed(trials: Any, most: int = 30) -> str:
    """Names of trials, the last `most` of them."""
    names = list(trials)
    if not names:
        return "none yet"
    return (f"... ({len(names) - most} earlier), " if len(names) > most else "") + ", ".join(names[-most:])
