"""What people did to the study while it ran, and what came of the clones that they started. Nothing if nobody did anything."""

from __future__ import annotations

import time

from tune.core.journal import StopAsked
from tune.core.steer_events import SteerEvent, words
from tune.report.document import Section, Table
from tune.report.facts import Facts
from tune.report.wording import count, number, setting, titled


def steering(facts: Facts) -> list[Section]:
    """Clones stand apart from the search: they had a head start, so their values do not compare with its trials'."""
    if not facts.fold.steered:
        return []
    rows = tuple((time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(t)), _said(event)) for t, event in facts.fold.steered)
    text = (
        f"People stepped in {count(len(rows), 'time')}. What the search decided of itself is as it would have been after the same steps.",
    )
    tables = [Table("What was asked, and by whom", ("when", "what"), rows, folded=len(rows) > 12)]
    clones = facts.fold.of_role("clone")
    if clones:
        names = [objective.name for objective in facts.goal.objectives]
        head = ("clone", "of", "state", *(titled(name, facts.unit(name)) for name in names), "point")
        cells = tuple(
            (
                clone.trial,
                clone.of,
                clone.state + (f": {clone.detail}" if clone.detail else ""),
                *(number(facts.metric_of(clone, name), facts.unit(name)) for name in names),
                ", ".join(f"{key}={setting(value)}" for key, value in clone.point.items()),
            )
            for clone in clones
        )
        caption = "Clones, which went on from a copy of another trial's checkpoint"
        tables.append(Table(caption, head, cells, frozenset(range(3, 3 + len(names)))))
    return [Section("steering", "Steering", text, tables=tuple(tables))]


def _said(event: StopAsked | SteerEvent) -> str:
    return f"{event.who} asked {event.trial or 'the study'} to stop" if isinstance(event, StopAsked) else words(event)
