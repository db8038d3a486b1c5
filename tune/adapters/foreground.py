"""Runs a search in this process, one trial after the other, so that a breakpoint in a recipe works. No Ray."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from tune.core.errors import StopStudy
from tune.core.ports import Answer, Decision, Question
from tune.core.rules import Assignment
from tune.core.search import Search

_IDLE_S = 0.2
OnReport = Callable[[int, dict[str, float]], Decision]
OnAsk = Callable[[Question], Answer]


class ForegroundExecutor:
    """`run_trial(assignment, on_report, on_ask)` runs one trial here and returns its last message (see `ray_tune`)."""

    def __init__(
        self,
        search: Search,
        run_trial: Callable[[Assignment, OnReport, OnAsk], tuple[Any, ...]],
        after_step: Callable[[str], int | None],
        poll: Callable[[], None] = lambda: None,
    ):
        self._search, self._run_trial, self._after_step, self._poll = search, run_trial, after_step, poll

    def run(self) -> None:
        self._search.between = self._poll
        while True:
            self._poll()
            assignment = self._search.next()
            if assignment == "over":
                return
            if not isinstance(assignment, Assignment):  # with one slot there is nothing to wait for but a person who paused the study
                time.sleep(_IDLE_S)
                continue
            trial = assignment.trial
            self._search.started(trial, 0, self._after_step(trial))

            def on_report(step: int, metrics: dict[str, float], trial: str = trial) -> Decision:
                self._poll()
                return self._search.report(trial, step, metrics)

            def on_ask(question: Question, trial: str = trial) -> Answer:
                self._poll()
                return self._search.ask(trial, question)

            message = self._run_trial(assignment, on_report, on_ask)
            match message:
                case ("done", metrics, files, *why):
                    self._search.finish(trial, metrics, files, *why)
                case ("failed", reason, detail):
                    self._search.fail(trial, reason, detail)
                case ("retry", reason, detail):
                    self._search.retry(trial, reason, detail)
                case ("stop", reason, detail, fix):  # no fault of the trial: it stays open for a resume
                    raise StopStudy(reason, f"{trial}: {detail}", fix)
