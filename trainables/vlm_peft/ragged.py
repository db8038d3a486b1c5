"""Arrays of different lengths in one memory-mapped file each: written once, front to back, read by every process of a node.

A `Writer` is used by one process; nothing is readable before `close`. Values are numpy arrays of one dtype a file; shapes are kept.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Writer:
    """`<name>.bin` and `<name>.json` in a folder."""

    def __init__(self, folder: Path, name: str) -> None:
        self._file = (folder / f"{name}.bin").open("wb")
        self._about = folder / f"{name}.json"
        self._shapes: list[list[int]] = []
        self._dtype: str | None = None

    def append(self, value: NDArray[Any]) -> None:
        assert self._dtype in (None, value.dtype.str), f"{self._about.stem} holds {self._dtype}, got {value.dtype.str}"
        self._dtype = value.dtype.str
        self._shapes.append(list(value.shape))
        self._file.write(np.ascontiguousarray(value).tobytes())

    def close(self) -> None:
        if self._file.closed:
            return
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._about.write_text(json.dumps({"dtype": self._dtype or "<i4", "shapes": self._shapes}))

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close() if kind is not None else self.close()


class Reader:
    """What a Writer wrote; `self[i]` is a read-only view into the file."""

    def __init__(self, folder: Path, name: str) -> None:
        about = json.loads((folder / f"{name}.json").read_text())
        path = folder / f"{name}.bin"
        self.shapes: list[tuple[int, ...]] = [tuple(shape) for shape in about["shapes"]]
        sizes = [int(np.prod(shape)) for shape in self.shapes]
        self._ends = np.cumsum([0, *sizes])
        dtype = np.dtype(about["dtype"])
        empty: NDArray[Any] = np.zeros(0, dtype)
        self._flat: NDArray[Any] = np.memmap(path, dtype=dtype, mode="r") if path.stat().st_size else empty

    def __len__(self) -> int:
        return len(self.shapes)

    def __getitem__(self, i: int) -> NDArray[Any]:
        return self._flat[self._ends[i] : self._ends[i + 1]].reshape(self.shapes[i])

    def lengths(self) -> NDArray[np.int64]:
        """Elements of each array."""
        return np.diff(self._ends).astype(np.int64)
