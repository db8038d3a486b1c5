"""Worker groups that are told when they are up, and room that is told when it is there: for tests of who gets a trial, without Ray."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


class FakeHost:
    """Takes every call and does nothing with it but number it. `facts` is what its `ready` would answer, None while it would wait."""

    def __init__(self) -> None:
        self.__dict__["calls"] = []
        self.__dict__["facts"] = None

    def __getattr__(self, name: str) -> Any:
        return type("Method", (), {"remote": staticmethod(lambda *args: self.call(name, *args))})

    def call(self, *said: Any) -> str:
        self.calls.append(said)
        return f"call {len(self.calls)}"


class FakeRoom:
    def __init__(self) -> None:
        self.has_its_place = self.withdrawn = False

    def there(self) -> bool:
        return self.has_its_place

    def withdraw(self) -> None:
        self.withdrawn = True


class FakeGroups:
    """`made`, `released`: slots in order. `rooms`: all that were asked for. `in_room`: slots whose group was started in one."""

    def __init__(self) -> None:
        self.hosts: dict[int, FakeHost] = {}
        self.made: list[int] = []
        self.released: list[int] = []
        self.rooms: list[FakeRoom] = []
        self.in_room: list[int] = []

    def make(self, slot: int, room: Any) -> tuple[FakeHost, str]:
        self.made.append(slot)
        self.hosts[slot] = FakeHost()
        if room is not None:
            self.in_room.append(slot)
        return self.hosts[slot], f"host {slot}"

    def release(self, slot: int) -> None:
        self.released.append(slot)

    def ask(self) -> FakeRoom:
        self.rooms.append(FakeRoom())
        return self.rooms[-1]

    @property
    def pending(self) -> int:
        """Rooms that are asked for and not there."""
        return sum(not room.has_its_place and not room.withdrawn for room in self.rooms)


def fake_when_up(host: FakeHost) -> Callable[[], Mapping[str, Any] | None]:
    host.facts = None
    return lambda: host.facts
