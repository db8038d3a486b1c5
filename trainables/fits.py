"""Whether the work of a trial divides among its workers. Light: `check` asks it for every corner of a space."""

from __future__ import annotations

from typing import Protocol

from trainables.auto_engine import AutoEngineSpec
from trainables.engine_spec import EngineSpec, micro_batch_of


class Batched(Protocol):
    """A spec with a global batch and an engine."""

    @property
    def batch(self) -> int: ...

    @property
    def engine(self) -> EngineSpec: ...


def batch_splits(spec: Batched, workers: int) -> None:
    """Raises UserError naming the nearest legal values unless micro-batch x accumulation x workers = batch."""
    engine = spec.engine
    if isinstance(engine, AutoEngineSpec) and engine.micro_batch == "auto":
        engine = EngineSpec()  # accumulation follows
    micro_batch_of(spec.batch, workers, engine, where="batch" if engine.micro_batch is None else "engine.micro_batch")
