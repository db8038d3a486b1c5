"""What people did to a running study, as events of its journal (version 3 of it): pause, limits, pins, points of their own.

Each carries who asked, and the id of the request that it carries out, so that a request that a kill left behind is not done twice.
A stop is `tune.core.journal.StopAsked`, which is older. Values only; what they mean is `tune.core.fold`'s and `tune.core.search`'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tune.core.ports import Point


@dataclass(frozen=True)
class Held:
    """The study pauses (`on`): no trial starts, and what runs leaves its slot once its last report has a checkpoint. Or it goes on."""

    on: bool
    who: str
    request: str = ""


@dataclass(frozen=True)
class LimitsSet:
    """New limits in place of those in the study file: `trials`, `wall_hours`, `gpu_hours`, `usd`, `concurrency`; others stay."""

    limits: Mapping[str, float]
    who: str
    request: str = ""


@dataclass(frozen=True)
class Pinned:
    """The scheduler can neither stop nor pause this trial from now on (`on`), or it can again."""

    trial: str
    on: bool
    who: str
    request: str = ""


@dataclass(frozen=True)
class Wanted:
    """Someone wants this point tried next; it may leave keys out for the sampler to draw.

    of: the trial whose values were changed. trial, after_step: given if it goes on from a copy of that trial's checkpoint; it is then
    a trial of the role `clone`, which had a head start and is judged apart.
    """

    point: Point = field(default_factory=dict)
    who: str = ""
    request: str = ""
    of: str = ""
    trial: str = ""
    after_step: int | None = None


SteerEvent = Held | LimitsSet | Pinned | Wanted
STEER_TYPES: dict[str, type] = {"held": Held, "limits_set": LimitsSet, "pinned": Pinned, "wanted": Wanted}


def words(event: SteerEvent) -> str:
    """What was done, in one line for people."""
    match event:
        case Held(on, who):
            return f"{who} paused the study" if on else f"{who} let the study go on"
        case LimitsSet(limits, who):
            return f"{who} set " + ", ".join(f"{name} to {value:g}" for name, value in limits.items())
        case Pinned(trial, on, who):
            return f"{who} pinned {trial}: the scheduler cannot stop it" if on else f"{who} unpinned {trial}"
        case Wanted(point, who, _, of, trial, after_step):
            shown = ", ".join(f"{key}={value}" for key, value in point.items())
            if trial:
                return f"{who} cloned {of} as {trial}, from its checkpoint after step {after_step}: {shown}"
            return f"{who} wants {shown} tried next" + (f" (changed from {of})" if of else "")
