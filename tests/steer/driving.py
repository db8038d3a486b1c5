"""Drives a search in memory while a script of requests steers it; deaths of the driver are up to the store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.search.fakes import METRIC, SPACE, Killed, MemoryStore, curve, goal, make_search
from tune.core.errors import UserError
from tune.core.journal import Reported, StudyStarted, decode_all
from tune.core.promotion import RungLadder
from tune.core.rules import Assignment, Rules
from tune.core.search import Search
from tune.core.steer import Steering
from tune.core.steer_requests import Request, What

STEPS = 9


@dataclass
class Script:
    """Requests and the number of reports after which each is due. One that a death left without an answer is asked again."""

    wishes: Sequence[tuple[int, What]]
    said: dict[str, str] = field(default_factory=dict)

    def ask(self, search: Search, steering: Steering, n_reports: int, hurry: bool = False) -> bool:
        """Carry out what is due, or what comes next if nothing goes on without it. Says whether there was anything new."""
        new = False
        for i, (due, what) in enumerate(self.wishes):
            request = Request(f"r{i}", "someone@here", what)
            if request.id in self.said:
                continue
            if due > n_reports and not (hurry and not new):
                return new
            try:
                said = steering.carry_out(request)
            except UserError as error:
                said = str(error)
            self.said[request.id] = said
            new = True
        return new


class LastSteps:
    """Every trial has a checkpoint of its last report."""

    def __init__(self, search: Search):
        self._search = search

    def lend(self, of: str, to: str) -> int | None:
        return last_step_of(self._search, of)


def last_step_of(search: Search, trial: str) -> int | None:
    """The step after which a trial goes on: of its own checkpoint, or of the one that it was lent."""
    lent = [wanted.after_step for wanted in search.fold.wanted.values() if wanted.trial == trial]
    own = search.fold.trials[trial].last_step
    return own if own is not None else lent[0] if lent else None


def ladder(form: str) -> RungLadder | bool:
    """The scheduler of a new driver."""
    return RungLadder(goal(), 7, form="promote", grace=2, factor=2, max_steps=STEPS) if form == "promote" else True


def run(store: MemoryStore, rules: Rules, script: Script, form: str = "stop", **kinds: Any) -> Search:
    """Begin or resume the study in `store` and drive it to its end under the script."""
    search = make_search(store, rules, asha=ladder(form), **kinds)
    past = list(decode_all(store.lines()))
    search.replay(past)
    search.begin(None if past else StudyStarted("fake", "digest", {"metric": {"name": METRIC, "mode": "max"}}, {}), "fake")
    steering = Steering(search, SPACE, LastSteps(search), may_change=("lr",))
    n_reports = sum(isinstance(entry.event, Reported) for entry in past)
    running: dict[str, tuple[Assignment, int]] = {}
    while True:
        script.ask(search, steering, n_reports)
        while isinstance(found := search.next(), Assignment):
            last_step = last_step_of(search, found.trial)
            search.started(found.trial, len(running), last_step)
            again = not search.fold.trials[found.trial].curve  # a clone begins with the report of the checkpoint that it was lent
            running[found.trial] = (found, 0 if last_step is None else last_step + (not again))
        if found == "over":
            search.end()
            return search
        if not running and not script.ask(search, steering, n_reports, hurry=True):
            return search  # paused for good
        for trial, (assignment, step) in list(running.items()):
            if step < STEPS:
                metrics = {METRIC: curve(assignment.point or {"depth": 1, "lr": 1e-3}, step)}
                decision = search.report(trial, step, metrics)
                n_reports += 1
                script.ask(search, steering, n_reports)
                if decision == "continue":
                    running[trial] = (assignment, step + 1)
                    continue
            last = search.fold.trials[trial].curve[-1][1][METRIC]
            search.finish(trial, {METRIC: last} if step >= STEPS else {}, {})
            del running[trial]


def run_with_deaths(store: MemoryStore, rules: Rules, wishes: Sequence[tuple[int, What]], deaths: Sequence[int], **kinds: Any) -> Search:
    """As `run`, with a new driver after each death."""
    script = Script(wishes)
    for lines in deaths:
        store.dies_after = len(store.kept) + lines
        try:
            return run(store, rules, script, **kinds)
        except Killed:
            continue
    store.dies_after = None
    return run(store, rules, script, **kinds)
