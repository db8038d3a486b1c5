"""What `micro_batch: auto` and `zero: auto` become in a trial: the first engine whose estimated peak fits in a worker's memory.

All workers of a trial choose by the one that has least. The choice lies in the trial's folder: an attempt that goes on from a
checkpoint keeps it, on whatever device it finds itself; with another number of workers only the accumulation changes. Where none fits
the one that needs least is taken: the estimate may be too high, and running out of memory has its own remedy (`memory_short`).
"""

from __future__ import annotations

import json
import os
from typing import Any

import click
import torch

from trainables.auto_engine import ROOM_SHARE
from trainables.engine_spec import EngineSpec, for_workers
from trainables.vlm_peft.engine_choice import settlements, with_engine, words
from trainables.vlm_peft.estimate import on_meta, peak_of
from trainables.vlm_peft.spec import VlmPeftSpec
from tune.core.ports import Reporter

_NOTE = "engine.json"


def settled_spec(spec: VlmPeftSpec, reporter: Reporter) -> VlmPeftSpec:
    """The spec with an engine that leaves nothing open. All workers of a trial call it together."""
    if not spec.engine.is_open:
        return spec
    room = _least(room_bytes(reporter.device, reporter.world_size), reporter)
    note = reporter.workdir / _NOTE
    is_noted = note.exists()
    if is_noted:
        noted: dict[str, Any] = json.loads(note.read_text())
        before = noted.pop("workers", reporter.world_size)
        chosen = with_engine(spec, for_workers(EngineSpec.model_validate(noted), spec.batch, before, reporter.world_size))
    else:
        chosen = _first_that_fits(spec, reporter, room)
    if reporter.world_size > 1:
        torch.distributed.barrier()  # until here nobody writes what another one looks for
    if reporter.rank == 0 and not is_noted:
        new = note.with_name(f"{_NOTE}.new")
        new.write_text(json.dumps({"workers": reporter.world_size, **chosen.engine.model_dump(mode="json", exclude_unset=True)}))
        os.replace(new, note)
    if reporter.rank == 0:
        click.echo(f"engine: {words(chosen, reporter.world_size)} in each of {reporter.world_size} workers, for {room / 2**30:.1f} GiB")
    return chosen


def room_bytes(device: str, world_size: int) -> float:
    """What a worker may fill: its share of a GPU's memory, or of the machine's, which all workers of a trial share."""
    if device != "cpu":
        of_it = torch.cuda.get_per_process_memory_fraction(device)  # below 1 where trials share a GPU
        return float(torch.cuda.get_device_properties(device).total_memory) * of_it * ROOM_SHARE
    import psutil

    return float(psutil.virtual_memory().total) * ROOM_SHARE / world_size


def _first_that_fits(spec: VlmPeftSpec, reporter: Reporter, room: float) -> VlmPeftSpec:
    adapted, config = on_meta(spec)
    chosen = spec
    for chosen in settlements(spec, reporter.world_size, on_gpu=reporter.device != "cpu"):
        if peak_of(chosen, adapted, config, reporter.world_size).total <= room:
            break
    return chosen


def _least(room: float, reporter: Reporter) -> float:
    if reporter.world_size == 1:
        return room
    least = torch.tensor([room], dtype=torch.float64, device=reporter.device)
    torch.distributed.all_reduce(least, op=torch.distributed.ReduceOp.MIN)
    return float(least)
