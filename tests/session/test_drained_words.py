"""What people read of a trial that left a drained node: while it runs, in `status`, in the report."""

from __future__ import annotations

import io
from pathlib import Path

from tests.report.made_study import METRIC, Recorder, started, write
from tune.core.cost import Budget
from tune.core.fold import StudyFold
from tune.core.goal import Goal, Objective
from tune.core.journal import Ended, Entry, GroupNoted, Reported, Retried, SessionStarted, Started, Suggested
from tune.core.rules import Rules
from tune.live import PlainView
from tune.report.command import read_facts
from tune.report.section_trials import failures
from tune.status import Observer

GOAL = Goal((Objective(METRIC, "max"),))
WHY = "node 1a2b3c is drained and goes away at 12:30:00"


def events(ends: bool) -> list[Entry]:
    log = Recorder()
    log.at(0.0, started("spot"))
    log.at(0.0, SessionStarted(1, 1, "here"))
    log.at(0.0, Suggested("t0000", 0, "search", {"optim.lr": 0.1}))
    log.at(0.0, Started("t0000", 1, 0))
    log.at(1.0, GroupNoted(0, "preempted", WHY))
    log.at(1.0, Reported("t0000", 0, {METRIC: 0.5}))
    log.at(0.0, Retried("t0000", 1, "preempted", WHY))
    if ends:
        log.at(1.0, Started("t0000", 2, 0, 0))
        log.at(1.0, Ended("t0000", "complete", (0.6,), {METRIC: 0.6}))
    return log.entries


def test_lines_of_a_run_say_that_a_group_leaves_its_node_and_that_the_trial_goes_on() -> None:
    said, fold = io.StringIO(), StudyFold(GOAL)
    view = PlainView(fold, Rules(GOAL, 1, 1, Budget(trials=1)), said)
    for entry in events(ends=False):
        fold.apply(entry)
        view.on_entry(entry)
    assert f"worker group 0 leaves its node, a trial on it at its next report: {WHY}" in said.getvalue()
    assert f"t0000 left its workers after attempt 1; it will go on with others from its checkpoint. {WHY}" in said.getvalue()


def test_status_says_why_a_trial_waits_and_how_many_attempts_moved(tmp_path: Path) -> None:
    text = Observer(write(tmp_path / "a", events(ends=False), files=False)).see().text
    assert f"(left its workers: {WHY})" in text
    text = Observer(write(tmp_path / "b", events(ends=True), files=False)).see().text
    assert "  moved      1 attempt(s) left a drained node, fewer workers, or a group without any; their trials go on from there" in text
    assert WHY not in text


def test_the_report_counts_it_among_no_failures(tmp_path: Path) -> None:
    section = failures(read_facts(write(tmp_path / "a", events(ends=True), files=False)))
    why = "a node was drained, there was room for more, or theirs were long in coming"
    assert section.text == (f"1 attempt went on with other workers: {why}. That is no failure.", "No trial failed.")
