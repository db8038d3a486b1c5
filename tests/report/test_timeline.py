"""The slots over time: spans, waits by what was waited for, idle time, and the gap between two sessions."""

from __future__ import annotations

import pytest

from tests.report.made_study import Recorder, started
from tune.core.journal import Ended, GroupNoted, Promoted, Reported, Retried, SessionStarted, Started, StudyEnded, Suggested
from tune.report.timeline import timeline


def log_of(*events: tuple[float, object], slots: int = 1) -> Recorder:
    log = Recorder()
    log.at(0.0, started("x"))
    log.at(0.0, SessionStarted(1, slots, "here"))
    for after_s, event in events:
        log.at(after_s, event)  # type: ignore[arg-type]
    return log


def test_a_trial_waits_for_its_worker_group_and_the_rest_is_work() -> None:
    log = log_of(
        (0, Suggested("t0000", 0, "search", {})),
        (0, Started("t0000", 1, 0)),
        (10, GroupNoted(0, "started", "", 10.0)),
        (5, Ended("t0000", "complete", (1.0,))),
    )
    line = timeline(log.entries)
    [wait] = line.waits
    assert (wait.wanted, wait.seconds) == ("its worker group", pytest.approx(10))
    assert line.busy_s == pytest.approx(5)
    assert line.idle_s == pytest.approx(0)


def test_a_pause_is_a_wait_for_promotion_and_then_for_a_slot() -> None:
    log = log_of(
        (0, Suggested("t0000", 0, "search", {})),
        (0, Started("t0000", 1, 0)),
        (3, Reported("t0000", 2, {}, pause="at the rung")),
        (7, Promoted("t0000", 2)),
        (2, Started("t0000", 2, 0, 2)),
        (4, Ended("t0000", "complete", (1.0,))),
    )
    line = timeline(log.entries)
    assert [(wait.wanted, wait.seconds) for wait in line.waits] == [("promotion", pytest.approx(7)), ("a slot", pytest.approx(2))]
    assert [span.how for span in line.spans] == ["paused", "complete"]
    assert line.idle_s == pytest.approx(9)


def test_the_night_between_two_sessions_is_left_out_and_marked() -> None:
    log = log_of(
        (0, Suggested("t0000", 0, "search", {})),
        (1, Started("t0000", 1, 0)),
        (5, StudyEnded("interrupted", "asked")),
        (30_000, SessionStarted(2, 1, "here")),
        (1, Started("t0000", 2, 0)),
        (4, Ended("t0000", "complete", (1.0,))),
    )
    line = timeline(log.entries)
    assert line.length_s == pytest.approx(11)
    assert line.resumes_s == (pytest.approx(6),)
    assert [(span.how, span.end_s - span.start_s) for span in line.spans] == [("cut", pytest.approx(5)), ("complete", pytest.approx(4))]


def test_a_retried_attempt_is_a_span_of_its_own() -> None:
    log = log_of(
        (0, Suggested("t0000", 0, "search", {})),
        (0, Started("t0000", 1, 0)),
        (2, Retried("t0000", 1, "group_lost", "")),
        (1, Started("t0000", 2, 1)),
        (2, Ended("t0000", "failed", reason="x")),
        slots=2,
    )
    line = timeline(log.entries)
    assert [(span.slot, span.how) for span in line.spans] == [(0, "retried"), (1, "failed")]
    assert line.slot_s == pytest.approx(10)


def test_what_runs_now_ends_at_the_last_event() -> None:
    log = log_of((0, Suggested("t0000", 0, "search", {})), (0, Started("t0000", 1, 0)), (6, Reported("t0000", 0, {})))
    [span] = timeline(log.entries).spans
    assert (span.how, span.end_s) == ("running", pytest.approx(6))


def test_slots_that_come_and_go_count_for_as_long_as_they_are_there() -> None:
    log = log_of(
        (10, GroupNoted(1, "asked")),
        (10, GroupNoted(1, "grown")),
        (30, GroupNoted(1, "released")),
        (5, GroupNoted(2, "withdrawn")),
    )
    assert timeline(log.entries).slot_s == pytest.approx(55 + 30)
