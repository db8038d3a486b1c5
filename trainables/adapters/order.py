"""What a worker group is told to run, and how an attempt at it ends. Plain values; they cross process borders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Order:
    """One attempt of one trial. `recipe` is "module:function"; `spec` the resolved trainable spec of `kind`, as JSON. workers: of a whole
    group, of which fewer may be at work; None: as many as there are."""

    trial: str
    kind: str
    recipe: str
    spec: Mapping[str, Any]
    seed: int
    workdir: str
    cache_dir: str
    attempt: int
    workers: int | None = None


@dataclass(frozen=True)
class GroupLimits:
    """hang_s: how long ranks may be apart before the group counts as hung. straggle_s: how long the other ranks have to end once
    one failed. rss_growth_bytes: what a worker may hold more than after its first trial, a kept base model apart, before the group is
    recycled. silence_s: how long a worker that its host does not hear goes on (pulse.py). look_s: how often the host asks for nodes
    that are drained. empty_s: how long a trial stays with a group without workers, before another group may take it."""

    hang_s: float = 900.0
    straggle_s: float = 10.0
    rss_growth_bytes: int = 1 << 30
    silence_s: float = 30.0
    look_s: float = 2.0
    empty_s: float = 120.0


@dataclass(frozen=True)
class End:
    """How an attempt ended on one rank. `reason` is a name and `detail` is for people: of a "failed" or "retry", and of a "done" that
    ended before its whole length.

    "stop": what ended it would end every other trial too; `fix` says what to do before the study is resumed.

    in_step: all ranks ended at the same report, so their process group is still in order.
    spoilt: the process may hold what it should not (it ran out of memory), so that the group is to be made anew.
    """

    kind: Literal["done", "failed", "retry", "stop"]
    reason: str = ""
    detail: str = ""
    fix: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    in_step: bool = False
    spoilt: bool = False

    def message(self) -> tuple[Any, ...]:
        """("done", metrics, files) or ("done", metrics, files, reason, detail), ("failed" | "retry", reason, detail), or
        ("stop", reason, detail, fix)."""
        if self.kind == "done":
            why = (self.reason, self.detail) if self.reason else ()
            return "done", dict(self.metrics), dict(self.files), *why
        return (self.kind, self.reason, self.detail, *((self.fix,) if self.kind == "stop" else ()))
