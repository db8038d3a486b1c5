"""Weights of the epochs that a trial keeps, as safetensors files in its folder.

Each epoch's file has its own name, so that an older one, which the last whole checkpoint may still name, is never overwritten.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import torch

from tune.core.ports import Reporter

BEST = "best.safetensors"


def keep(weights: Mapping[str, torch.Tensor], epoch: int, about: Mapping[str, str], reporter: Reporter) -> None:
    """Write the weights of a 0-based global epoch with facts `about` them, on rank 0."""
    from safetensors.torch import save_file

    if reporter.rank != 0:
        return
    path = _path(epoch, reporter.workdir)
    unfinished = path.with_name(f"{path.name}.part")
    save_file(dict(weights), unfinished, metadata={**about, "epoch": str(epoch)})
    unfinished.replace(path)


def weights_of(epoch: int, workdir: Path) -> dict[str, torch.Tensor]:
    """The weights that were kept, of a trial's end under their last name."""
    from safetensors.torch import load_file

    path = _path(epoch, workdir)
    return load_file(path if path.exists() else workdir / BEST)  # killed after the last test, before its result was known


def drop_all_but(epochs: Collection[int], reporter: Reporter) -> None:
    needed = {_path(epoch, reporter.workdir).name for epoch in epochs}
    if reporter.rank == 0:
        for file in reporter.workdir.glob("best-*.safetensors"):
            if file.name not in needed:
                file.unlink()


def give_last_name(epoch: int, reporter: Reporter) -> None:
    """At the trial's end: the epoch's file becomes `best.safetensors`, all others go. On rank 0."""
    if reporter.rank == 0:
        path = _path(epoch, reporter.workdir)
        if path.exists():
            path.replace(reporter.workdir / BEST)
        drop_all_but((), reporter)


def _path(epoch: int, workdir: Path) -> Path:
    return workdir / f"best-{epoch:05d}.safetensors"
