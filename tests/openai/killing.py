"""A process that dies at a chosen point of the protocol: before or after any call to the service and any line of the log."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from trainables.openai_phases.intents import IntentLog, Record


class Killed(BaseException):
    """Nothing may catch it."""


class Bomb:
    """Goes off at the n-th point that is passed, from 0; None: never. `names`: the points that were passed."""

    def __init__(self, at: int | None):
        self.at = at
        self.names: list[str] = []

    def point(self, name: str) -> None:
        self.names.append(name)
        if self.at is not None and len(self.names) > self.at:
            raise Killed(name)

    def around(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            self.point(f"before {name}")
            answer = call(*args, **kwargs)
            answer = list(answer) if name in ("files", "jobs", "batches", "answers") else answer
            self.point(f"after {name}")
            return answer

        return wrapped


class BombAfter(Bomb):
    """Goes off at every point from the n-th passing of one, from 0, on: threads do not pass points in one order."""

    def __init__(self, name: str, nth: int):
        super().__init__(None)
        self._name, self._nth = f"after {name}", nth

    def point(self, name: str) -> None:
        super().point(name)
        if self.names.count(self._name) > self._nth:
            raise Killed(name)


class MinedWire:
    """A wire with a bomb around every call."""

    def __init__(self, wire: Any, bomb: Bomb):
        self._wire, self._bomb = wire, bomb

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._wire, name)
        return self._bomb.around(name, found) if callable(found) else found


class MinedLog:
    """A log with a bomb around every line."""

    def __init__(self, log: IntentLog, bomb: Bomb):
        self._log, self._bomb = log, bomb
        self.records = log.records

    def append(self, record: Record) -> None:
        self._bomb.around(f"append {type(record).__name__}", self._log.append)(record)
