"""The lines a run prints about a trial that ended."""

from __future__ import annotations

import io

import pytest

from tests.report.made_study import METRIC, Recorder, started
from tune.core.cost import Budget
from tune.core.fold import StudyFold
from tune.core.goal import Goal, Objective
from tune.core.journal import Ended, Reported, SessionStarted, Started, Suggested
from tune.core.rules import Rules
from tune.live import PlainView

GOAL = Goal((Objective(METRIC, "max"),))


def line_of_the_end(curve: tuple[float, ...], value: float) -> str:
    log = Recorder()
    log.at(0.0, started("s"))
    log.at(0.0, SessionStarted(1, 1, "here"))
    log.at(0.0, Suggested("t0000", 0, "search", {"optim.lr": 0.1}))
    log.at(0.0, Started("t0000", 1, 0))
    for step, seen in enumerate(curve):
        log.at(0.0, Reported("t0000", step, {METRIC: seen}))
    log.at(0.0, Ended("t0000", "complete", (value,), {METRIC: value}))
    said, fold = io.StringIO(), StudyFold(GOAL)
    view = PlainView(fold, Rules(GOAL, 1, 1, Budget(trials=3)), said)
    for entry in log.entries:
        fold.apply(entry)
        view.on_entry(entry)
    return said.getvalue().splitlines()[-1].partition("] ")[2]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0.6, "t0000 complete 0.6000 (its step 1)  [1/3 trials, best t0000 0.6000]"),
        (0.5, "t0000 complete 0.5000  [1/3 trials, best t0000 0.5000]"),
        (0.7, "t0000 complete 0.7000  [1/3 trials, best t0000 0.7000]"),
    ],
    ids=["an earlier step", "the last step", "of no step"],
)
def test_a_value_of_an_earlier_step_names_the_step(value: float, said: str) -> None:
    assert line_of_the_end((0.4, 0.6, 0.5), value) == said


def test_a_value_that_is_also_the_last_step_s_needs_no_name() -> None:
    assert "its step" not in line_of_the_end((0.5, 0.6, 0.5), 0.5)
