"""Which training rows each phase gets. Pure.

Promises: blocks share no row; each is balanced over the classes (the same number of each, or the same share of each); which rows
a block gets depends on the seed and the rows' ids alone, not on their order, so more blocks or another resolution move no row.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from trainables.phases.spec import Phase, PhasesSpec
from tune.core.errors import Problem, UserError

Rows = NDArray[np.int64]
_SHOWN = 5  # classes of too few rows that are named


def draw_blocks(spec: PhasesSpec, rows: Rows, labels_N: NDArray[np.integer], ids: Sequence[str], classes: Sequence[str]) -> list[Rows]:
    """`spec.count` blocks of `rows`, each in ascending order. `labels_N` and `ids` are those of the whole table.

    Raises UserError naming the classes that have too few rows.
    """
    blocks: list[list[int]] = [[] for _ in range(spec.count)]
    problems: list[Problem] = []
    for c, name in enumerate(classes):
        mine = [int(row) for row in rows if labels_N[row] == c]
        mine.sort(key=lambda row: hashlib.sha256(f"{spec.seed}/{ids[row]}".encode()).digest())
        bounds = _bounds(spec, len(mine))
        if any(low >= high for low, high in itertools.pairwise(bounds)) or bounds[-1] > len(mine):
            problems.append(_too_few(spec, name, len(mine)))
            continue
        for block, low, high in zip(blocks, bounds[:-1], bounds[1:], strict=True):
            block += mine[low:high]
    if len(problems) > _SHOWN:
        more = Problem("trainable.phases", f"{len(problems) - _SHOWN} more such classes", problems[0].fix)
        problems = [*problems[:_SHOWN], more]
    if problems:
        raise UserError(problems)
    return [np.array(sorted(block), dtype=np.int64) for block in blocks]


def rows_of(phase: Phase, blocks: Sequence[Rows], all_rows: Rows) -> Rows:
    """The rows that a phase trains on, in ascending order."""
    if phase.blocks is None:
        return all_rows
    return np.sort(np.concatenate([blocks[i] for i in phase.blocks])) if phase.blocks else all_rows[:0]


def _bounds(spec: PhasesSpec, n: int) -> list[int]:
    """Where blocks begin and end in a class of `n` rows in drawn order."""
    if spec.sizes:
        return [0, *np.cumsum(spec.sizes).tolist()]
    return [0, *(min(n, round(end * n)) for end in np.cumsum(spec.shares).tolist())]


def _too_few(spec: PhasesSpec, name: str, n: int) -> Problem:
    if spec.sizes:
        got = f"class {name} has {n} training rows, {spec.count} blocks need {sum(spec.sizes)}"
        return Problem("trainable.phases.per_class", got, "lower per_class or count, add pictures, or give a share instead")
    got = f"class {name} has {n} training rows, so that one of {spec.count} blocks has none of it"
    return Problem("trainable.phases.share", got, "raise share, lower count, or add pictures")
