"""Who may use a limited outside service now: at most so many at once, so many a day, so much a minute, shared by a study's trials.

A `Permit` says the limits of one service by name. The book is a fold over the journal's grants, so that a resumed study remembers
what it used today and who holds what. Pure: the caller brings the time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

DAY_S, MINUTE_S = 86_400.0, 60.0


@dataclass(frozen=True)
class Permit:
    """Limits of one service; None does not apply. `at_once` holders, `a_day` grants in 24 hours, `a_minute` of the amounts asked for."""

    at_once: int | None = None
    a_day: int | None = None
    a_minute: float | None = None


@dataclass(frozen=True)
class Wait:
    """Not now: ask again in `wait_s` seconds. `why` is for people."""

    wait_s: float
    why: str


@dataclass
class _Use:
    holders: dict[str, None] = field(default_factory=dict)
    grants: deque[tuple[float, float]] = field(default_factory=deque)  # (time, amount), of the last day


class PermitBook:
    """Grants and returns of all services."""

    def __init__(self) -> None:
        self._uses: dict[str, _Use] = {}

    def granted(self, what: str, trial: str, amount: float, t: float) -> None:
        use = self._uses.setdefault(what, _Use())
        use.holders[trial] = None
        use.grants.append((t, amount))
        while use.grants and use.grants[0][0] <= t - DAY_S:
            use.grants.popleft()

    def returned(self, what: str, trial: str) -> None:
        self._uses.setdefault(what, _Use()).holders.pop(trial, None)

    def all_returned(self, trial: str) -> None:
        for use in self._uses.values():
            use.holders.pop(trial, None)

    def holders(self, what: str) -> tuple[str, ...]:
        return tuple(self._uses.get(what, _Use()).holders)

    def wait(self, what: str, trial: str, amount: float, permits: Mapping[str, Permit], now: float) -> Wait | None:
        """None if `trial` may have `amount` of the service now. A trial that holds it already is counted once."""
        permit, use = permits.get(what, Permit()), self._uses.get(what, _Use())
        others = [holder for holder in use.holders if holder != trial]
        if permit.at_once is not None and len(others) >= permit.at_once:
            return Wait(5.0, f"{', '.join(others)} hold{'s' if len(others) == 1 else ''} {what} ({permit.at_once} at once)")
        today = [t for t, _ in use.grants if t > now - DAY_S]
        if permit.a_day is not None and len(today) >= permit.a_day:
            return Wait(today[len(today) - permit.a_day] + DAY_S - now, f"{len(today)} of {permit.a_day} {what} a day are used")
        minute = [(t, part) for t, part in use.grants if t > now - MINUTE_S]
        spent = sum(part for _, part in minute)
        if permit.a_minute is not None and minute and spent + amount > permit.a_minute:
            return Wait(minute[0][0] + MINUTE_S - now, f"{spent:g} of {permit.a_minute:g} {what} a minute are used")
        return None
