"""A study directory written by hand around trials that a test has trained, or pretends to have."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tune.core.journal import Ended, Entry, Event, Noted, Role, SessionStarted, Started, StudyEnded, StudyStarted, Suggested, encode


@dataclass(frozen=True)
class Past:
    """A trial as the journal tells it."""

    trial: str
    state: str = "complete"
    role: Role = "search"
    values: tuple[float, ...] = (0.5,)
    metrics: Mapping[str, float] = field(default_factory=dict)
    reason: str = ""


def resolved(trainable: Mapping[str, Any], metric: str = "val/accuracy") -> dict[str, Any]:
    """What `load_resolved` takes: one learning rate to search."""
    return {
        "study": {"name": "made", "seed": 5},
        "metric": {"name": metric, "mode": "max"},
        "budget": {"trials": 4},
        "trainable": dict(trainable),
        "space": {"optim.lr": {"float": [1e-4, 1e-1], "log": True}},
    }


POINT = {"optim.lr": 0.003}


def write_study(folder: Path, study: Mapping[str, Any], trials: Sequence[Past], data: Mapping[str, Any], ended: bool = True) -> Path:
    """`journal.jsonl` and a folder for each trial."""
    environment = {"python": "3.11.9", "versions": {"torch": "2.13.0"}, "git_commit": "0123abcd", "git_dirty": False}
    events: list[Event] = [StudyStarted("made", "d1ge57", study, environment), SessionStarted(1, 1, "1 CPU"), Noted("data", data)]
    for number, past in enumerate(trials):
        events.append(Suggested(past.trial, number, past.role, POINT if past.role != "baseline" else {}))
        if past.state == "waiting":
            continue
        events.append(Started(past.trial, 1, 0))
        if past.state != "running":
            values = past.values if past.state != "failed" else ()
            events.append(Ended(past.trial, past.state, values, past.metrics, reason=past.reason))  # type: ignore[arg-type]
    if ended:
        events.append(StudyEnded("done", "all trials are done"))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "journal.jsonl").write_text("".join(encode(Entry(i, 1.8e9 + i, event)) + "\n" for i, event in enumerate(events)))
    (folder / "resolved.json").write_text(json.dumps(study))
    for past in trials:
        (folder / "trials" / past.trial).mkdir(parents=True, exist_ok=True)
    return folder
