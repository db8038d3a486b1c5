"""How the shares of a ZeRO checkpoint lie on disk, so that what N workers wrote is read by any M.

ZeRO splits vectors evenly over the workers, padded at the end: at stages 1 and 2 a parameter group laid end to end, at stage 3 each
parameter. A worker's masters are its shares, at stage 3 several in a row, and optimizer state lies as its master does. The order of
the vectors does not depend on the number of workers; how many are in one master may.

It promises that a worker reads only what it will hold, that padding is never read and is zero where it is made anew, and that the
same number of workers reads back its own parts as they are. It does not know DeepSpeed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainables.adapters.engine import read_facts, read_part
from tune.core.errors import FailTrial


@dataclass(frozen=True)
class Split:
    """One vector: its length without padding, and how much of it each worker holds, with padding."""

    length: int
    share: int


@dataclass(frozen=True)
class Place:
    """Where a vector lies: its share begins at `offset` of a master."""

    master: int
    offset: int
    split: Split


@dataclass(frozen=True)
class Layout:
    """The vectors of each master, the same on all workers."""

    workers: int
    masters: tuple[tuple[Split, ...], ...]

    def facts(self) -> dict[str, Any]:
        return {"workers": self.workers, "vectors": [[[split.length, split.share] for split in master] for master in self.masters]}

    @staticmethod
    def of_facts(facts: Mapping[str, Any]) -> Layout:
        return Layout(facts["workers"], tuple(tuple(Split(*split) for split in master) for master in facts["vectors"]))

    def lengths(self) -> list[int]:
        return [split.length for master in self.masters for split in master]

    def places(self) -> list[Place]:
        """Of each vector, in their order."""
        found = []
        for i, master in enumerate(self.masters):
            offset = 0
            for split in master:
                found.append(Place(i, offset, split))
                offset += split.share
        return found


def pieces(saved: Split, share: int, rank: int) -> Iterator[tuple[int, int, int]]:
    """What a worker that is to hold `share` elements of a vector reads, in order: (worker that saved it, start, stop in its share)."""
    at, end = rank * share, min((rank + 1) * share, saved.length)
    while at < end:
        part, start = divmod(at, saved.share)
        stop = min(saved.share, start + end - at)
        yield part, start, stop
        at += stop - start


def part_name(share: int) -> str:
    return f"engine-rank{share}"


def saved_layout(folder: Path, expected: Mapping[str, Any], wanted: Layout) -> Layout:
    """The layout of a checkpoint that an engine of layout `wanted` can read. Raises FailTrial `checkpoint_mismatch` where it cannot."""
    facts = read_facts(folder, "engine", expected)
    if "vectors" not in facts:  # written before checkpoints said it
        if expected["stage"] > 0:
            read_facts(folder, "engine", {"workers": wanted.workers})
        return wanted
    saved = Layout.of_facts(facts)
    if saved.lengths() != wanted.lengths():
        counts = [f"{sum(layout.lengths())} numbers in {len(layout.lengths())} vectors" for layout in (saved, wanted)]
        raise FailTrial("checkpoint_mismatch", f"{folder}: another model's, it trains {counts[0]}, this one {counts[1]}")
    for part in range(saved.workers):
        read_facts(folder, part_name(part), expected)
    return saved


def read_shares(
    folder: Path, expected: Mapping[str, Any], saved: Layout, wanted: Layout, rank: int
) -> Iterator[tuple[int, str, Tensor | float]]:
    """What the masters of this worker and their optimizer state are to be: (place of the master, "master" or state's name, value)."""
    if saved == wanted:
        tensors, facts = read_part(folder, part_name(rank), expected)
        for name, value in (*tensors.items(), *facts["numbers"].items()):
            place, _, key = name.partition(".")
            yield int(place), key, value
        return
    from safetensors import safe_open

    numbers: dict[str, float] = read_facts(folder, part_name(0), expected)["numbers"]
    places = saved.places()
    with ExitStack() as stack:
        parts = [stack.enter_context(safe_open(str(folder / f"{part_name(i)}.safetensors"), "pt")) for i in range(saved.workers)]
        names = [*parts[0].keys(), *numbers]
        first = 0
        for i, master in enumerate(wanted.masters):
            vectors = places[first : first + len(master)]
            first += len(master)
            prefix = f"{vectors[0].master}."  # the same state exists for every master
            for key in (name.removeprefix(prefix) for name in names if name.startswith(prefix)):
                yield i, key, numbers[prefix + key] if prefix + key in numbers else _gathered(parts, key, vectors, master, rank)


def _gathered(parts: Sequence[Any], key: str, vectors: Sequence[Place], master: Sequence[Split], rank: int) -> Tensor:
    """One tensor of a worker's master from the parts of all that saved. One without dimensions is the same on all workers."""
    first = parts[0].get_slice(f"{vectors[0].master}.{key}")
    if not first.get_shape():
        whole: Tensor = parts[0].get_tensor(f"{vectors[0].master}.{key}")
        return whole
    made = torch.zeros(sum(split.share for split in master), dtype=first[:1].dtype)
    offset = 0
    for vector, split in zip(vectors, master, strict=True):
        at = offset
        for part, start, stop in pieces(vector.split, split.share, rank):
            saved = parts[part].get_slice(f"{vector.master}.{key}")
            made[at : at + stop - start] = saved[vector.offset + start : vector.offset + stop]
            at += stop - start
        offset += split.share
    return made
