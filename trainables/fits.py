"""Whether the work of a trial divides among its workers. Light: `check` asks it for every corner of a space."""

from __future__ import annotations

from typing import Protocol

from trainables.auto_engine import AutoEngineSpec, candidates
from trainables.engine_spec import EngineSpec, micro_batch_of


class Batched(Protocol):
    """A spec with a global batch and an engine."""

    @property
    def batch(self) -> int: ...

    @property
    def engine(self) -> EngineSpec: ...


def batch_splits(spec: Batched, workers: int) -> None:
    """Raises UserError naming the nearest legal values unless micro-batch x accumulation x workers = batch."""
    if isinstance(spec.engine, AutoEngineSpec) and spec.engine.is_open:
        next(candidates(spec.engine, spec.batch, workers, on_gpu=True))
    else:
        micro_batch_of(spec.batch, workers, spec.engine, where="batch" if spec.engine.micro_batch is None else "engine.micro_batch")
