"""Turns at limited services: at once, a day, a minute, and what a resumed study remembers."""

from __future__ import annotations

from tune.core.permits import Permit, PermitBook, Wait

JOBS = {"jobs": Permit(at_once=2, a_day=3)}


def test_no_more_hold_a_service_at_once_than_its_limit() -> None:
    book = PermitBook()
    for trial in ("t0", "t1"):
        assert book.wait("jobs", trial, 1, JOBS, now=0.0) is None
        book.granted("jobs", trial, 1, 0.0)
    refused = book.wait("jobs", "t2", 1, JOBS, now=1.0)
    assert isinstance(refused, Wait) and "t0, t1 hold jobs" in refused.why
    book.returned("jobs", "t0")
    assert book.wait("jobs", "t2", 1, JOBS, now=1.0) is None


def test_a_trial_that_holds_a_service_may_ask_again_after_a_crash() -> None:
    book = PermitBook()
    for trial in ("t0", "t1"):
        book.granted("jobs", trial, 1, 0.0)
    assert book.wait("jobs", "t1", 1, {"jobs": Permit(at_once=2)}, now=1.0) is None


def test_the_daily_limit_waits_until_the_oldest_grant_is_a_day_old() -> None:
    book = PermitBook()
    for i, t in enumerate((0.0, 100.0, 200.0)):
        book.granted("jobs", f"t{i}", 1, t)
        book.returned("jobs", f"t{i}")
    refused = book.wait("jobs", "t9", 1, JOBS, now=1000.0)
    assert refused == Wait(86_400.0 - 1000.0, "3 of 3 jobs a day are used")
    assert book.wait("jobs", "t9", 1, JOBS, now=86_400.5) is None


def test_amounts_of_a_minute_add_up_and_one_too_large_alone_passes() -> None:
    permits = {"tokens": Permit(a_minute=100.0)}
    book = PermitBook()
    assert book.wait("tokens", "t0", 500.0, permits, now=0.0) is None, "nothing smaller will ever come"
    book.granted("tokens", "t0", 60.0, 0.0)
    assert book.wait("tokens", "t1", 40.0, permits, now=1.0) is None
    refused = book.wait("tokens", "t1", 41.0, permits, now=1.0)
    assert refused is not None and refused.wait_s == 59.0
    assert book.wait("tokens", "t1", 41.0, permits, now=60.5) is None


def test_a_service_without_limits_is_always_there() -> None:
    assert PermitBook().wait("anything", "t0", 1e9, {}, now=0.0) is None
