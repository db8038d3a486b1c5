"""What was meant, written down before it is asked for: the records of an intent log, the port, and the fold that a restart begins with.

Before each call that costs money or leaves an object behind, an `Intent` is on disk with an attempt id that the request carries.
After a crash an intent without an end says: look for that attempt at the service before asking again. The log is append-only,
durable when `append` returns, of one writer at a time; `trainables.adapters.intent_file.IntentFile` keeps it in a trial's folder.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol

Kind = Literal["file", "job", "batch", "chat"]  # chat: the questions of one evaluation, which are no object and are never held


@dataclass(frozen=True)
class Intent:
    """Something is about to be asked for. `t`: unix seconds. Written again, with the same attempt, before each further sending.

    key: what it is for, stable over restarts, such as `phase-2`. params: all that the request will say, files by their sha256.
    """

    kind: Kind
    key: str
    attempt: str
    t: float
    params: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Held:
    """The object exists and is ours. `how`: the answer named it, it was found by its attempt, or another writer had made it."""

    kind: Kind
    key: str
    attempt: str
    t: float
    id: str
    how: Literal["answered", "adopted", "shared"]


@dataclass(frozen=True)
class Void:
    """The attempt came to nothing (refused, or ended without a result); the next one gets an attempt id of its own."""

    kind: Kind
    key: str
    attempt: str
    t: float
    why: str


Record = Intent | Held | Void
_NAMES: dict[str, type[Intent] | type[Held] | type[Void]] = {"intent": Intent, "held": Held, "void": Void}


class IntentLog(Protocol):
    """Durable when `append` returns."""

    def append(self, record: Record) -> None: ...

    def records(self) -> Iterator[Record]: ...


@dataclass(frozen=True)
class Standing:
    """Where the last attempt of a key stands. `open`: meant, and nobody knows whether it was sent."""

    intent: Intent | None = None
    held: Held | None = None

    @property
    def open(self) -> bool:
        return self.intent is not None and self.held is None


def standing(records: Iterable[Record], kind: Kind, key: str) -> Standing:
    """The fold of a log for one key. `intent.t` is the time of the last sending."""
    now = Standing()
    for record in records:
        if (record.kind, record.key) == (kind, key):
            if isinstance(record, Intent):
                now = Standing(intent=record)
            elif isinstance(record, Held):
                now = Standing(intent=now.intent, held=record)
            else:
                now = Standing()
    return now


def encode(record: Record) -> str:
    """One line of JSON without a newline."""
    name = next(name for name, cls in _NAMES.items() if isinstance(record, cls))
    return json.dumps({"type": name} | asdict(record), allow_nan=False, separators=(",", ":"), sort_keys=True)


def decode(line: str) -> Record:
    """Raises ValueError for a line that is none of ours."""
    try:
        raw = json.loads(line)
        return _NAMES[raw.pop("type")](**raw)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"no record of an intent log: {line[:80]!r} ({error})") from None
