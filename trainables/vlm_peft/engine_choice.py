"""The engines that `micro_batch: auto` and `zero: auto` leave to choose from, and what they become on the usual GPUs. No torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pydantic import ValidationError

from trainables.auto_engine import CARDS_GB, ROOM_SHARE, candidates
from trainables.engine_spec import EngineSpec, micro_batch_of
from trainables.vlm_peft.spec import VlmPeftSpec


def settlements(spec: VlmPeftSpec, workers: int, on_gpu: bool) -> Iterator[VlmPeftSpec]:
    """The spec with each engine that it may get, from the fastest to the one that needs least memory; itself, if nothing is open.

    Raises UserError for a batch that does not divide.
    """
    if not spec.engine.is_open:
        yield spec
        return
    for engine in candidates(spec.engine, spec.batch, workers, on_gpu):
        if _is_allowed(spec, engine):
            yield with_engine(spec, engine)


def with_engine(spec: VlmPeftSpec, engine: EngineSpec) -> VlmPeftSpec:
    return spec.model_copy(update={"engine": engine})


def on_cards(needs: Sequence[tuple[VlmPeftSpec, int]], workers: int) -> str:
    """What an open engine becomes on GPUs of the usual sizes, in words. needs: settlements in their order, with their bytes."""
    said: dict[str, list[str]] = {}
    for card in CARDS_GB:
        fitting = next((one for one, needed in needs if needed <= card * 2**30 * ROOM_SHARE), None)
        said.setdefault("does not fit" if fitting is None else words(fitting, workers), []).append(str(card))
    return "auto: " + "; ".join(f"{'|'.join(cards)} GB: {text}" for text, cards in said.items())


def words(spec: VlmPeftSpec, workers: int) -> str:
    """A settled engine: `ZeRO 3 with offload, 4 rows at once`."""
    engine: EngineSpec = spec.engine
    zero, rows = engine.zero, micro_batch_of(spec.batch, workers, engine)
    how = "" if zero is None else f"ZeRO {zero.stage}{' with offload' if zero.offload_parameters == 'cpu' else ''}, "
    return f"{how}{rows} row{'s' if rows > 1 else ''} at once"


def _is_allowed(spec: VlmPeftSpec, engine: EngineSpec) -> bool:
    """Whether the rest of the spec can be trained under it."""
    whole = spec.model_dump(mode="json", exclude={"engine"}) | {"engine": engine.model_dump(mode="json", exclude_unset=True)}
    try:
        VlmPeftSpec.model_validate(whole)
    except ValidationError:
        return False
    return True
