"""An engine that leaves parts of itself to memory: `micro_batch: auto` and `zero: auto`.

Light: pydantic only. What an engine of this size needs is told by the kind that uses it; here are the engines there are, from the
fastest to the one that needs least.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from trainables.engine_spec import EngineSpec, ZeroSpec, micro_batch_of

ROOM_SHARE = 0.9
"""Of a device's memory: the rest is the driver's, the allocator's, and what an estimate leaves out."""
CARDS_GB = (16, 24, 40, 48, 80, 141)  # memory of GPUs that are sold, for `plan`


class AutoEngineSpec(EngineSpec):
    zero: ZeroSpec | Literal["auto"] | None = None  # type: ignore[assignment]
    """DeepSpeed ZeRO; absent: plain torch (DistributedDataParallel when there are several workers); auto: plain torch where a row fits in
    a worker's memory so, else the first of stage 2, stage 3, and stage 3 with everything offloaded where one does."""
    micro_batch: Annotated[int, Field(ge=1)] | Literal["auto"] | None = None  # type: ignore[assignment]
    """Samples a worker computes at once; absent: batch / workers / accumulation; auto: as many as fit in its memory, and accumulation
    follows."""

    @model_validator(mode="after")
    def _accumulation_follows(self) -> AutoEngineSpec:
        if self.micro_batch == "auto" and "accumulation" in self.model_fields_set:
            raise ValueError("accumulation follows from micro_batch: auto; leave it out, or give micro_batch a number")
        return self

    @property
    def is_open(self) -> bool:
        """Whether memory decides something."""
        return "auto" in (self.zero, self.micro_batch)


def candidates(engine: AutoEngineSpec, batch: int, workers: int, on_gpu: bool) -> Iterator[EngineSpec]:
    """What the engine may become, from the fastest to the one that needs least. Raises UserError for a batch that does not divide."""
    stages: list[Any] = [engine.zero]
    if engine.zero == "auto":
        offload = {"offload_optimizer": "cpu", "offload_parameters": "cpu"}
        stages = [None, *([{"stage": 2}, {"stage": 3}] if workers > 1 else []), *([{"stage": 3, **offload}] if on_gpu else [])]
    given = engine.model_dump(exclude={"zero", "micro_batch"}, exclude_unset=True)
    if engine.micro_batch != "auto":
        given |= {"micro_batch": engine.micro_batch}
        shares = [engine.accumulation]
    else:
        whole = micro_batch_of(batch, workers, EngineSpec())
        shares = [n for n in range(1, whole + 1) if whole % n == 0]
    for zero in stages:
        for accumulation in shares:
            yield EngineSpec.model_validate({**given, "zero": zero, "accumulation": accumulation})
