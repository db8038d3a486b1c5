"""What people may ask of a running study, as plain data that crosses from their process to the driver's and back into JSON.

A request has an id of its own, so that it is carried out once; what becomes of it is `tune.core.steer`'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from tune.core.errors import Problem, UserError
from tune.core.ports import Point


@dataclass(frozen=True)
class Stop:
    """End a trial in order, or (None) interrupt the study."""

    trial: str | None = None


@dataclass(frozen=True)
class Hold:
    """Pause the study (`on`) or let it go on."""

    on: bool = True


@dataclass(frozen=True)
class Pin:
    """Keep the scheduler from stopping a trial (`on`), or no longer."""

    trial: str = ""
    on: bool = True


@dataclass(frozen=True)
class SetLimits:
    """New limits by their names in `budget`, or `concurrency`."""

    limits: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Add:
    """Try this point next; it may leave keys out."""

    point: Point = field(default_factory=dict)


@dataclass(frozen=True)
class Clone:
    """A new trial with the values of `trial` and these changes. cold: from the beginning, as a trial like any other."""

    trial: str = ""
    changes: Point = field(default_factory=dict)
    cold: bool = False


What = Stop | Hold | Pin | SetLimits | Add | Clone
KINDS: dict[str, type] = {"stop": Stop, "hold": Hold, "pin": Pin, "set": SetLimits, "add": Add, "clone": Clone}


@dataclass(frozen=True)
class Request:
    """One wish: what, by whom, under which id."""

    id: str
    who: str
    what: What

    def to_json(self) -> dict[str, Any]:
        name = next(name for name, cls in KINDS.items() if isinstance(self.what, cls))
        return {"who": self.who, "do": name, **asdict(self.what)}


def decode(request: str, raw: Any) -> Request:
    """The request that an asker wrote. Raises UserError for what is none."""
    try:
        rest = dict(raw)
        who, cls = str(rest.pop("who")), KINDS[rest.pop("do")]
        return Request(request, who, cls(**rest))
    except (TypeError, ValueError, KeyError):
        raise UserError(Problem("the request", repr(raw)[:200], "ask with the same Phasetune as the driver's")) from None
