"""Waiting for a service: how long after which failure, told to whoever shows it, with a clock and a sleep that are given.

No retry is made of a call whose effect may have happened unless the caller says that repeating it is harmless.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from trainables.openai_phases.wire import Busy, Unsure
from tune.core.errors import RetryTrial

T = TypeVar("T")

# Where a 429 brings no Retry-After: seconds to the next try, by the service's code.
WAIT_S = {"daily_rate_limit_exceeded": 1800.0, "token_limit_exceeded": 300.0}


@dataclass(frozen=True)
class Wait:
    """Who waits for what (`polling` a job, `daily_rate_limit_exceeded` ...) and until when, unix seconds."""

    key: str
    reason: str
    until: float
    detail: str = ""


class Time(Protocol):
    """A clock that can be waited on. A test's moves on at once; a trial's may raise to end the wait."""

    def now(self) -> float: ...

    def sleep(self, seconds: float) -> None: ...


def untold(wait: Wait) -> None:
    """Tell nobody."""


@dataclass(frozen=True)
class Pace:
    """How to wait. first_s: the wait after a first failure; it doubles up to most_s. poll_s: between looks at something that runs.

    settle_s: how long after its sending a request may still take effect at the service although no answer came.
    patience_s: how long one call may be waited for before the trial is given up for now. tell: told of every wait before it.
    """

    time: Time
    first_s: float = 1.0
    most_s: float = 60.0
    poll_s: float = 15.0
    settle_s: float = 120.0
    patience_s: float = 48 * 3600.0
    tell: Callable[[Wait], None] = untold

    def wait(self, key: str, reason: str, seconds: float, detail: str = "") -> None:
        self.tell(Wait(key, reason, self.time.now() + seconds, detail))
        self.time.sleep(seconds)

    def after(self, key: str, failure: Busy | Unsure, n_failures: int, begun: float) -> None:
        """Wait as the failure asks, or as long as the n-th in a row (from 1) deserves.

        Raises RetryTrial once patience since `begun` would be at an end.
        """
        seconds = min(self.most_s, self.first_s * 2.0 ** min(n_failures - 1, 30))
        reason = "no_answer"
        if isinstance(failure, Busy):
            reason, seconds = failure.reason, WAIT_S.get(failure.reason, seconds)
        if failure.wait_s is not None:
            seconds = max(failure.wait_s, 0.0)
        if self.time.now() + seconds - begun > self.patience_s:
            raise RetryTrial("service_unavailable", f"{key}: {failure} (waited {self.time.now() - begun:.0f} s)")
        self.wait(key, reason, seconds, failure.detail)

    def harmless(self, key: str, call: Callable[[], T]) -> T:
        """What `call` returns, however often it takes: for reading, cancelling, and what may happen twice."""
        begun, n_failures = self.time.now(), 0
        while True:
            try:
                return call()
            except (Busy, Unsure) as failure:
                n_failures += 1
                self.after(key, failure, n_failures, begun)
