"""What `check` says of a scheduler that could never act, and of finalists that cannot be chosen."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.check.kinds import edited, problems_of

ASHA = "{kind: asha, axis: epoch, grace: 5, factor: 4, max: 50}"
NONE = "set it below 49, or scheduler: {kind: none}"


@pytest.mark.parametrize(
    ("scheduler", "problem"),
    [
        ("{kind: median, grace: 60}", ("scheduler.grace", "60, while the longest trial has 50 epochs: it would never act", NONE)),
        ("{kind: patience, patience: 49}", ("scheduler.patience", "49, while the longest trial has 50 epochs: it would never act", NONE)),
        (
            "{kind: median, min_trials: 40}",
            ("scheduler.min_trials", "40 others, with 32 trials in all: it would never act", "set it below budget.trials = 32"),
        ),
        ("{kind: none, finalists: {top: 33}}", ("scheduler.finalists.top", "33 of 32 trials", "use at most budget.trials = 32")),
    ],
)
def test_a_setting_that_never_acts_is_a_mistake(tmp_path: Path, scheduler: str, problem: tuple[str, str, str]) -> None:
    where, got, fix = problem
    assert problems_of(tmp_path, edited(ASHA, scheduler)) == [(f"study.yaml:5: {where}", got, fix)]


def test_dollars_that_nothing_spends_end_no_study(tmp_path: Path) -> None:
    found = problems_of(tmp_path, edited("budget: {trials: 32}", "budget: {usd: 1}"))
    got = "usd 1 alone, and toy spends no dollars: the study would never end"
    assert found == [("study.yaml:3: budget.usd", got, "add trials or wall_hours")]


def test_a_limit_on_what_the_kind_neither_reports_nor_estimates_is_refused(tmp_path: Path) -> None:
    text = edited("metric: {name: val/f1, mode: max}", "objectives: [{name: val/f1, mode: max}, {name: usd, max: 3}]")
    [(where, got, _)] = problems_of(tmp_path, text)
    assert where == "study.yaml:2: objectives.1.name" and got.startswith("usd, which toy neither reports nor estimates")
