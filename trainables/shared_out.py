"""The work of a trial whose group has fewer workers than the study says: the same batches in the same pieces, more of them a worker.

A batch is cut into workers x accumulation pieces. A smaller group keeps their number by accumulating more, so the global batch, the
micro-batch, which rows are in which piece, and a worker's memory for activations stay as they are. Light: no torch.
"""

from __future__ import annotations

from typing import Any

from trainables.engine_spec import for_workers


def shared_out(spec: Any, workers: int | None, at_work: int) -> Any:
    """`spec` for `at_work` of a trial's `workers`, which divide evenly among them.

    A spec without an engine shares nothing, and of `micro_batch: auto` the accumulation follows by itself.
    """
    engine = getattr(spec, "engine", None)
    if engine is None or engine.micro_batch == "auto" or workers is None or workers == at_work:
        return spec
    return spec.model_copy(update={"engine": for_workers(engine, spec.batch, workers, at_work)})
