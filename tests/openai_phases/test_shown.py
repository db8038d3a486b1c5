"""What people see of money, waits and ids: summary, status, live lines and the report of a study whose budget ended trials."""

from __future__ import annotations

import io
import time
from pathlib import Path

from tests.report.made_study import METRIC, Recorder, started, write
from tune.core.cost import Budget
from tune.core.fold import StudyFold
from tune.core.goal import Goal, Objective
from tune.core.journal import Ended, Entry, Event, Noted, SessionStarted, Started, Suggested, Waiting
from tune.core.rules import Rules
from tune.live import PlainView
from tune.report.command import read_facts
from tune.report.section_trials import failures
from tune.status import Observer
from tune.summary import as_text

KEPT = "phase 3 may cost $27.02, which the study has not left; raise budget.usd; phase 2 is kept"
NOTHING = "phase 0 may cost $1.58, which the study has not left; raise budget.usd"


def events(*more: Event) -> list[Entry]:
    log = Recorder(now_s=time.time())
    log.at(0.0, started("hosted"))
    log.at(0.0, SessionStarted(1, 3, "here"))
    for i in range(3):
        log.at(0.0, Suggested(f"t{i:04d}", i, "search", {"optim.lr": 0.1}))
        log.at(0.0, Started(f"t{i:04d}", 1, i))
    log.at(0.0, Ended("t0000", "complete", (0.8,), {METRIC: 0.8}, reason="budget", detail=KEPT))
    log.at(0.0, Ended("t0001", "pruned", reason="budget", detail=NOTHING))
    for event in more:
        log.at(0.0, event)
    return log.entries


def test_the_summary_says_which_trials_the_budget_ended_and_what_they_keep() -> None:
    text = as_text(StudyFold.of(events()), "studies/hosted-1")
    assert f"  budget     t0000 stopped by budget (complete): {KEPT}" in text
    assert f"  budget     t0001 stopped by budget (pruned): {NOTHING}" in text
    assert "best       t0000" in text


def test_status_says_who_waits_for_what_and_until_when(tmp_path: Path) -> None:
    until = time.time() + 7200
    waiting = Waiting("t0002", "local:jobs", until, "8 of 8 local:jobs a day are used")
    text = Observer(write(tmp_path / "a", events(waiting), files=False)).see().text
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(until))
    assert f"waits for local:jobs: 8 of 8 local:jobs a day are used (until {when}" in text
    assert f"(budget: {KEPT})" in text and f"(budget: {NOTHING})" in text
    held = Waiting("t0002", "local:jobs", 0.0, "t0001 holds local:jobs (1 at once)")
    text = Observer(write(tmp_path / "b", events(held), files=False)).see().text
    assert "(it looks again every now and then)" in text
    text = Observer(write(tmp_path / "c", events(held, Waiting("t0002", "", 0.0, "")), files=False)).see().text
    assert "waits for" not in text


def test_lines_of_a_run_say_when_a_wait_begins_and_that_the_budget_ended_a_trial() -> None:
    said, fold = io.StringIO(), StudyFold(Goal((Objective(METRIC, "max"),)))
    view = PlainView(fold, Rules(Goal((Objective(METRIC, "max"),)), 1, 3, Budget(trials=3)), said)
    for entry in events(Waiting("t0002", "budget.usd", 1.0, "t0001 may give some back"), Noted("trial t0002", {"hosted.model": "ft:m"})):
        fold.apply(entry)
        view.on_entry(entry)
    assert "t0002 waits for budget.usd: t0001 may give some back" in said.getvalue()
    assert f"t0000 complete 0.8000 (stopped by budget: {KEPT})" in said.getvalue()
    assert fold.trials["t0002"].told == {"hosted.model": "ft:m"}


def test_the_report_counts_no_failure_and_names_what_the_budget_ended(tmp_path: Path) -> None:
    section = failures(read_facts(write(tmp_path, events(), files=False)))
    assert f"t0000 was stopped by the budget (what it has counts): {KEPT}" in section.text
    assert f"t0001 was stopped by the budget (it has nothing): {NOTHING}" in section.text
    assert section.text[-1] == "No trial failed."
