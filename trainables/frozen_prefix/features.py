"""The outputs at a model's frontier for every row of a data set, from the store or computed now, and back as tensors.

Promises: what is kept is what the model in training mode gives at its frontier, in the precision it is trained in: equal bit for bit
where a batch has the same rows, and else within rounding (a test holds it to 1e-5 in fp32; half-precision outputs are kept in 16 bits,
so parts of them that autocast leaves in fp32 are rounded once, 2^-8 relative in bf16). Before anything is kept, the first rows are
computed twice under other seeds, and alone: a prefix that draws, or that mixes rows, is refused by name.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainables.frozen_prefix.chain import Batch, Chain
from trainables.frozen_prefix.frontier import Frontier
from trainables.frozen_prefix.store import Block, Entry, Store
from tune.core.errors import FailTrial

VERSION = 1  # part of every key: raise it when a section of some model computes differently
_RESIDENT_BYTES = 1 << 28  # arrays up to this size are held on the device
_LOOKED_AT = 2  # rows that are computed twice before anything is kept
BATCH_ROWS = 32
"""Rows whose outputs are computed at once."""
_ALONE_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.02}  # of the largest value; other kernels sum otherwise

Loader = Callable[[NDArray[np.int64], Collection[str]], Batch]  # rows, names of the streams that read them -> their raw inputs


def key_of(**parts: Any) -> str:
    """A key of everything that decides the outputs: JSON values, each under its name."""
    return hashlib.sha256(json.dumps({"version": VERSION, **parts}, sort_keys=True).encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Kept:
    """Outputs at the frontier of all rows. `entries`: section -> where they lie."""

    entries: Mapping[str, Entry]
    device: torch.device
    _resident: Mapping[str, Tensor]

    @staticmethod
    def of(entries: Mapping[str, Entry], device: torch.device) -> Kept:
        resident: dict[str, Tensor] = {}
        for entry in entries.values():
            for name, rows in entry.arrays.items():
                if rows.nbytes <= _RESIDENT_BYTES:
                    resident[name] = _to_tensor(np.array(rows), entry.facts["dtype"]).to(device)
        return Kept(entries, device, resident)

    @property
    def sections(self) -> Collection[str]:
        return self.entries.keys()

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of a row of each output."""
        return {name: rows.shape[1:] for entry in self.entries.values() for name, rows in entry.arrays.items()}

    @property
    def size_bytes(self) -> int:
        return sum(rows.nbytes for entry in self.entries.values() for rows in entry.arrays.values())

    @property
    def n_built(self) -> int:
        """How many of the entries this process has computed."""
        return sum(entry.built for entry in self.entries.values())

    def load(self, rows: NDArray[np.int64]) -> dict[str, Tensor]:
        """The outputs of some rows, on the device, fp32 or in the 16 bits they were computed in."""
        found: dict[str, Tensor] = {}
        for entry in self.entries.values():
            for name, array in entry.arrays.items():
                if name in self._resident:
                    found[name] = self._resident[name][torch.from_numpy(rows).to(self.device)]
                else:
                    found[name] = _to_tensor(array[rows], entry.facts["dtype"]).to(self.device)
        return found


def keep(
    chain: Chain,
    frontier: Frontier,
    *,
    store: Store,
    keys: Mapping[str, str],
    at: Mapping[str, str],
    n_rows: int,
    load: Loader,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    batch_rows: int = BATCH_ROWS,
    progress: Callable[[str, int, int], None] | None = None,
) -> Kept:
    """The outputs at `frontier`, of which those that no process has computed yet are computed now, by modules that are on `device`.

    keys: section -> `key_of` everything that decides its outputs. at: section -> the caller's name of its place, kept with it.
    dtype: of the autocast that training uses. Raises TooLarge; FailTrial `prefix_not_fixed`; StopStudy as the store.
    """
    places = {name: place for name, place in frontier.places.items() if place}
    in_joint = chain.joint is not None and chain.joint.name in places
    entries: dict[str, Entry] = {}
    for name, place in places.items():
        readers = (*(section.name for section in chain.streams), *chain.joint_reads) if in_joint else (name,)

        def computed(
            rows: NDArray[np.int64], name: str = name, place: int = place, readers: Collection[str] = readers
        ) -> dict[str, Tensor]:
            with torch.no_grad(), _autocast(device, dtype):
                return chain.run_to(load(rows, readers), {name: place})

        def blocks(compute: Callable[[NDArray[np.int64]], dict[str, Tensor]] = computed, name: str = name) -> Iterator[Block]:
            _look(compute, min(_LOOKED_AT, n_rows), dtype, name)
            for start in range(0, n_rows, batch_rows):
                rows = np.arange(start, min(start + batch_rows, n_rows))
                yield {key: _to_array(value, dtype) for key, value in compute(rows).items()}
                if progress is not None:
                    progress(name, int(rows[-1]) + 1, n_rows)

        entries[name] = store.get(keys[name], n_rows, blocks, {"dtype": str(dtype).removeprefix("torch."), "at": at[name]})
    return Kept.of(entries, device)


def find(store: Store, keys: Mapping[str, str], device: torch.device) -> Kept | None:
    """What another trial has kept under these keys, if all of it is there."""
    entries: dict[str, Entry] = {}
    for name, key in keys.items():
        entry = store.find(key)
        if entry is None:
            return None
        entries[name] = entry
    return Kept.of(entries, device)


def _look(compute: Callable[[NDArray[np.int64]], dict[str, Tensor]], n: int, dtype: torch.dtype, section: str) -> None:
    """Raises FailTrial unless the first rows come out the same under two seeds, and alone."""
    rows = np.arange(n)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        first = compute(rows)
        torch.manual_seed(2)
        again = compute(rows)
        alone = compute(rows[:1])
    for name, value in first.items():
        if not torch.equal(value, again[name]):
            raise FailTrial("prefix_not_fixed", f"{section}: {name} differs between two forwards of one row; set cache.use: off")
        largest = float(value.abs().max())
        if float((value[:1] - alone[name]).abs().max()) > _ALONE_TOLERANCE[dtype] * max(largest, 1e-6):
            raise FailTrial("prefix_not_fixed", f"{section}: {name} of a row depends on the rows beside it; set cache.use: off")


def _autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[Any]:
    return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype=dtype)


def _to_array(value: Tensor, dtype: torch.dtype) -> NDArray[Any]:
    held = value.detach().to(dtype).cpu().contiguous()
    return held.view(torch.int16).numpy() if dtype == torch.bfloat16 else held.numpy()  # NumPy has no bfloat16


def _to_tensor(rows: NDArray[Any], dtype: str) -> Tensor:
    tensor = torch.from_numpy(np.ascontiguousarray(rows))
    return tensor.view(torch.bfloat16) if dtype == "bfloat16" else tensor
