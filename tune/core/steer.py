"""How the driver carries out what people ask of a running study.

`Steering.carry_out` checks a request against the study as it stands, makes it an event of the journal through `Search`, and says what
it came to; asked again under the same id it does nothing. Pure: copies of checkpoints come through the port `Checkpoints`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Protocol

from tune.core.errors import Problem, UserError, did_you_mean
from tune.core.fold import StudyFold
from tune.core.ports import Point
from tune.core.search import Search
from tune.core.space import Space
from tune.core.steer_events import Held, LimitsSet, Pinned, Wanted
from tune.core.steer_requests import Add, Clone, Hold, Pin, Request, SetLimits, Stop
from tune.core.trial_view import TrialView

_AGAIN = "it is done already"
_FLAGS = {"trials": "--trials", "wall_hours": "--hours", "gpu_hours": "--gpu-hours", "usd": "--usd", "concurrency": "--concurrency"}
_WHOLE = ("trials", "concurrency")


class Checkpoints(Protocol):
    """The trials' checkpoints in the study directory."""

    def lend(self, of: str, to: str) -> int | None:
        """Give the trial `to` a copy of the checkpoint of `of`, in place of what it has; the step after which it goes on, if any."""


class NoCheckpoints:
    """For kinds that keep none, and for tests."""

    def lend(self, of: str, to: str) -> int | None:
        return None


class Steering:
    """Carries requests out on the search of this process.

    space: of the study. may_change: prefixes of the keys that may differ from
    those a checkpoint was made with, by the trainable's kind.
    """

    def __init__(
        self,
        search: Search,
        space: Space,
        checkpoints: Checkpoints | None = None,
        may_change: Collection[str] = (),
    ):
        self.search, self._space = search, space
        self._checkpoints, self._may_change = checkpoints or NoCheckpoints(), may_change

    @property
    def _fold(self) -> StudyFold:
        return self.search.fold

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
            case SetLimits(limits):
                return self._set(request, limits)
            case Add(point):
                return self._add(request, point)
            case Clone():
                return self._clone(request, request.what)

    def _stop(self, request: Request, trial: str | None) -> str:
        if trial is None:
            self.search.ask_stop(None, request.who, request.id)
            return "asked the study to stop; it will when what runs has reported, and can be resumed"
        view = self._going_on(trial)
        self.search.ask_stop(trial, request.who, request.id)
        kept = "its checkpoint and its results so far are kept"
        if self._fold.trials[view.trial].ended:
            return f"{trial} was not running and is stopped; {kept}"
        return f"asked {trial} to stop; it ends at its next report, and {kept}"

    def _hold(self, request: Request, on: bool) -> str:
        held_by = self._fold.held_by
        if bool(held_by) == on:
            return f"it is paused already, by {held_by}" if on else "it is not paused"
        self.search.steer(Held(on, request.who, request.id))
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
        self.search.steer(Pinned(trial, on, request.who, request.id))
        if not on:
            return f"{trial} is judged by the scheduler again"
        return f"{trial} is pinned: the scheduler can neither stop nor pause it; budgets and `phasetune stop` still can"

    def _set(self, request: Request, limits: Mapping[str, float]) -> str:
        problems = [problem for name, value in limits.items() if (problem := self._limit_problem(name, value)) is not None]
        if not limits:
            problems = [Problem("phasetune set", "no limit", f"give one of {', '.join(_FLAGS.values())}")]
        if problems:
            raise UserError(problems)
        before = {name: self._limit(name) for name in limits}
        self.search.steer(LimitsSet({name: float(value) for name, value in limits.items()}, request.who, request.id))
        return "; ".join(
            f"{name}: {_shown(before[name])} -> {_shown(value)}{self._meaning(name, before[name], value)}" for name, value in limits.items()
        )

    def _limit(self, name: str) -> float | None:
        rules = self.search.rules
        found: float | None = rules.slots if name == "concurrency" else getattr(rules.budget, name)
        return found

    def _limit_problem(self, name: str, value: Any) -> Problem | None:
        flag = _FLAGS.get(name)
        if flag is None:
            return Problem("phasetune set", f"'{name}'{did_you_mean(name, _FLAGS)}", f"give one of {', '.join(_FLAGS.values())}")
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value) or value <= 0:
            return Problem(flag, repr(value), "use a number above 0")
        if name in _WHOLE and value != int(value):
            return Problem(flag, f"{value:g}", "use a whole number")
        rules = self.search.rules
        room = max(rules.most_slots or 0, rules.slots)
        if name == "concurrency" and value > room:
            why = "that is what there was room for when the driver started, or what cluster.autoscale asks for"
            return Problem(flag, f"{value:g}", f"use at most {room}: {why}")
        return None

    def _meaning(self, name: str, before: float | None, value: float) -> str:
        if before is not None and value >= before:
            return ""
        if name == "concurrency":
            running = sum(self._fold.trials[trial].attempt_at is not None for trial in self._fold.running)
            return f" ({running} run; slots close as trials end)" if running > value else ""
        ran = self._fold.n_search - self._fold.n_infeasible
        if name == "trials" and ran >= value:
            return f" ({ran} have begun: no further one will; those go on to their ends)"
        return ""

    def _add(self, request: Request, point: Point) -> str:
        if not point:
            raise UserError(Problem("--point", "no value", f"give some of {', '.join(place.key for place in self._space.places())}"))
        settled = self._settled(point, "--point")
        return self._want(Wanted(settled, request.who, request.id))

    def _clone(self, request: Request, wish: Clone) -> str:
        view = self._known(wish.trial)
        if view.role not in ("search", "clone"):
            fix = "clone a trial of the search, such as t0000"
            raise UserError(Problem(f"--trial {wish.trial}", f"{wish.trial} is the {view.role}, whose point is not of the space", fix))
        if not wish.changes:
            raise UserError(Problem("--set", "no change", "change a value, like --set optim.lr=1e-4"))
        point = self._settled(self._changed(view.point, wish.changes), "--set")
        why_cold = self._why_cold(view, wish)
        if not why_cold:
            n = sum(w.of == view.trial and bool(w.trial) for w in self._fold.wanted.values()) + 1
            name = f"{view.trial}-c{n}"
            step = self._checkpoints.lend(view.trial, name)
            if step is not None:
                self.search.steer(Wanted(point, request.who, request.id, view.trial, name, step))
                return (
                    f"{name} goes on from {view.trial}'s checkpoint after step {step}. It had a head start: it is not told to the "
                    "sampler, no rung stops it, and it is reported beside the search"
                )
            why_cold = f"{view.trial} has no checkpoint"
        return f"{why_cold}, so it starts from the beginning. {self._want(Wanted(point, request.who, request.id, view.trial))}"

    def _why_cold(self, view: TrialView, wish: Clone) -> str:
        """Why the clone cannot have the checkpoint, or nothing."""
        if wish.cold:
            return "as you say"
        changed = [key for key, value in wish.changes.items() if key not in view.point or view.point[key] != value]
        fixed = [key for key in changed if not any(key == p or p == "*" or key.startswith(f"{p}.") for p in self._may_change)]
        return f"a checkpoint does not fit another {', '.join(fixed)}" if fixed else ""

    def _changed(self, point: Point, changes: Point) -> Point:
        """The values of a point with changes in it, without the keys of branches that it is no longer in."""
        both = {**point, **changes}
        gone = {
            place.key
            for place in self._space.places()
            if place.key not in changes and any(both.get(selector) != branch for selector, branch in place.under)
        }
        return {key: value for key, value in both.items() if key not in gone}

    def _settled(self, point: Point, flag: str) -> Point:
        faults = self._space.faults(point)
        if faults:
            raise UserError([Problem(f"{flag} {fault.key}", fault.got, fault.fix) for fault in faults])
        return self._space.settled(point)

    def _want(self, wanted: Wanted) -> str:
        trials, begun = self.search.rules.trials, self._fold.n_search - self._fold.n_infeasible
        waiting = sum(not self._fold.wanted[request].trial for request in self._fold.untried)
        if trials is not None and begun + waiting >= trials:
            got = f"{begun} of {trials} trials have begun" + (f", and {waiting} point(s) wait already" if waiting else "")
            raise UserError(Problem("budget.trials", got, f"raise it: phasetune set DIR --trials {begun + waiting + 1}"))
        self.search.steer(wanted)
        rest = "" if self._space.is_whole(wanted.point) else ", the rest drawn by the sampler"
        return f"tried next{rest}: " + ", ".join(f"{key}={value}" for key, value in wanted.point.items())

    def _known(self, trial: str) -> TrialView:
        view = self._fold.trials.get(trial)
        if view is None:
            hint = did_you_mean(trial, self._fold.trials)
            raise UserError(Problem(f"--trial {trial}", f"there is no trial '{trial}'{hint}", name_one_of(self._fold.trials)))
        return view

    def _going_on(self, trial: str) -> TrialView:
        view = self._known(trial)
        if view.ended:
            going_on = [*self._fold.running, *self._fold.paused]
            fix = f"name a trial that is going on: {listed(going_on)}" if going_on else "none is going on just now"
            raise UserError(Problem(f"--trial {trial}", f"{trial} is {view.state}", fix))
        return view


def _shown(value: float | None) -> str:
    return "no limit" if value is None else f"{value:g}"


def name_one_of(trials: Iterable[str]) -> str:
    """What to do when a trial was named that is not there."""
    names = list(trials)
    return f"name one of {listed(names)}" if names else "there is none yet: wait for the first, which `phasetune status` shows"


def listed(trials: Iterable[str], most: int = 30) -> str:
    """Names of trials, the last `most` of them."""
    names = list(trials)
    return (f"... ({len(names) - most} earlier), " if len(names) > most else "") + ", ".join(names[-most:])
