"""How the rows of an epoch come to the ranks, and what the ranks say to each other: shared by every recipe.

Promises: a batch's rows depend on (seed, epoch) alone, not on the number of workers; every rank gets equally many pieces.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from tune.core.ports import Reporter

_LOOK_EVERY = 16


@dataclass(frozen=True)
class Piece:
    """One rank's micro-batch, of a batch of `n_batch` rows."""

    rows: NDArray[np.int64]
    n_batch: int


def derived_seed(seed: int, *path: str | int) -> int:
    """A seed for one purpose, such as ("epoch", 3), from the trial's seed."""
    digest = hashlib.sha256("/".join(str(part) for part in (seed, *path)).encode()).digest()
    return int.from_bytes(digest[:7], "big")


def epoch_pieces(rows: NDArray[np.int64], batch: int, accumulation: int, reporter: Reporter, shuffle_seed: int) -> Iterator[Piece]:
    """This rank's micro-batches of one epoch, `accumulation` of them for each batch.

    The last batch may be smaller. It is left out if it has fewer rows than there are pieces, or one row where others have gone
    before, which batch norm could not take.
    """
    order = np.random.default_rng(shuffle_seed).permutation(rows)
    n_pieces = reporter.world_size * accumulation
    for start in range(0, len(order), batch):
        chosen = order[start : start + batch]
        if len(chosen) < n_pieces or (len(chosen) == 1 and start > 0):
            continue
        for part in np.array_split(chosen, n_pieces)[reporter.rank :: reporter.world_size]:
            yield Piece(part, len(chosen))


def summed(values: torch.Tensor, reporter: Reporter) -> torch.Tensor:
    """Sum over ranks, on the CPU, float64."""
    if reporter.world_size == 1:
        return values
    on_device = values.to(reporter.device, copy=True)
    torch.distributed.all_reduce(on_device)
    return on_device.cpu()


def looked_at(loss_sum: torch.Tensor, micro_step: int, reporter: Reporter) -> float | None:
    """The sum over ranks of a loss so far, the same on every rank, at the first micro-step and every 16th after it; None at the others,
    since reading it waits for the GPU. Every rank calls it at each of its micro-steps."""
    if micro_step % _LOOK_EVERY:
        return None
    return float(summed(loss_sum.detach().cpu(), reporter))


def barrier(reporter: Reporter) -> None:
    """What rank 0 has written is there for every rank after this."""
    if reporter.world_size > 1:
        torch.distributed.barrier()
