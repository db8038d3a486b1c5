"""Recipes for the tests of worker groups: each does one thing that a trial may do to its group. Spec and metrics of `curve`."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from trainables.adapters.order import Order
from trainables.curve.spec import CurveSpec
from tune.core.errors import RetryTrial
from tune.core.ports import Outcome, Reporter


def nothing(spec: CurveSpec, reporter: Reporter) -> Outcome:
    return Outcome()


def steps(spec: CurveSpec, reporter: Reporter) -> Outcome:
    """Report 0, 1/epochs ... with a checkpoint after each; count on from the checkpoint."""
    folder = reporter.resume_from()
    start = 0 if folder is None else json.loads((folder / f"rank-{reporter.rank}.json").read_text()) + 1
    for step in range(start, spec.epochs):

        def save(folder: Path, step: int = step) -> None:
            (folder / f"rank-{reporter.rank}.json").write_text(json.dumps(step))

        print("step", step, "on rank", reporter.rank)
        if reporter.report(step, {"val/score": step / spec.epochs}, save) == "stop":
            return Outcome({"val/score": step / spec.epochs}, {"stopped": "here"})
    return Outcome({"val/score": 1.0}, {"started_at": str(start)})


def all_reduce(spec: CurveSpec, reporter: Reporter) -> Outcome:
    """The sum of (rank + 1) over ranks, by the group's process group."""
    import torch
    import torch.distributed

    total = torch.tensor(float(reporter.rank + 1))
    torch.distributed.all_reduce(total)
    reporter.report(0, {"val/score": float(total)})
    return Outcome({"val/score": float(total)})


def exits(spec: CurveSpec, reporter: Reporter) -> Outcome:
    """The last rank ends its process at step 1 of the first attempt."""
    for step in range(3):
        mark = reporter.workdir / "exited"
        if step == 1 and reporter.rank == reporter.world_size - 1 and not mark.exists():
            mark.touch()
            os._exit(3)
        reporter.report(step, {"val/score": step / 3})
    return Outcome()


def hangs(spec: CurveSpec, reporter: Reporter) -> Outcome:
    """The last rank never reaches the report."""
    if reporter.rank == reporter.world_size - 1:
        time.sleep(3600)
    reporter.report(0, {"val/score": 0.0})
    return Outcome()


def raises(spec: CurveSpec, reporter: Reporter) -> Outcome:
    """The last rank raises while the others wait for it at a report."""
    if reporter.rank == reporter.world_size - 1:
        raise ValueError("seven is not a colour")
    reporter.report(0, {"val/score": 0.0})
    return Outcome()


def reports_nan(spec: CurveSpec, reporter: Reporter) -> Outcome:
    """The last rank's loss is no number; each rank saves."""
    value = float("nan") if reporter.rank == reporter.world_size - 1 else 0.5
    reporter.report(0, {"val/loss": value}, lambda folder: (folder / f"{reporter.rank}").touch())
    return Outcome()


def calls_sys_exit(spec: CurveSpec, reporter: Reporter) -> Outcome:
    sys.exit(4)


def asks_to_retry(spec: CurveSpec, reporter: Reporter) -> Outcome:
    raise RetryTrial("hub_unreachable", "try again later")


def runs_out_of_memory(spec: CurveSpec, reporter: Reporter) -> Outcome:
    raise MemoryError("no room for the model")


_poisoned: list[str] = []


def loses_its_device(spec: CurveSpec, reporter: Reporter) -> Outcome:
    """The last rank's device fails in the first attempt, and from then on in whatever its process does."""
    import torch

    mark = reporter.workdir / "device-failed"
    if reporter.rank == reporter.world_size - 1 and (_poisoned or not mark.exists()):
        mark.touch()
        _poisoned.append(reporter.trial)
        raise torch.AcceleratorError("CUDA error: uncorrectable ECC error encountered")
    return steps(spec, reporter)


def fills_the_disk(spec: CurveSpec, reporter: Reporter) -> Outcome:
    def save(folder: Path) -> None:
        raise OSError(28, "No space left on device", str(folder / "weights"))

    reporter.report(0, {"val/score": 0.5}, save)
    return Outcome()


_kept: list[bytearray] = []


def leaks(spec: CurveSpec, reporter: Reporter) -> Outcome:
    """Keep `epochs` MiB in the process for ever."""
    _kept.append(bytearray(os.urandom(1 << 20)) * spec.epochs)
    return Outcome()


def forever(spec: CurveSpec, reporter: Reporter) -> Outcome:
    step = 0
    while reporter.report(step, {"val/score": 0.5}) == "continue":
        step += 1
    return Outcome({"val/score": 0.5})


def sleeps(spec: CurveSpec, reporter: Reporter) -> Outcome:
    reporter.report(0, {"val/score": 0.5})
    time.sleep(3600)
    return Outcome()


def order_of(folder: Path, trial: str, recipe: str, attempt: int = 0, **spec: object) -> Order:
    """An order for one of these recipes."""
    return Order(trial, "curve", f"tests.groups.recipes:{recipe}", spec, 1, str(folder / trial), str(folder), attempt)
