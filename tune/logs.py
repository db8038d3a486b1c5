"""`phasetune logs`: what the workers of a trial print, in one view, each line with its rank if there are several.

The files say nothing of time, so a finished trial is shown rank by rank, oldest first; while it is followed, lines come as they are
written, and rotation loses none that was still there to be read. It reads a trial's folder; what the trial is doing it is told.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from tune.core.errors import Problem, UserError
from tune.core.worker_output import name, parsed

_BLOCK_BYTES = 1 << 20
_LONGEST_LINE_BYTES = 1 << 20  # a line without an end, such as a progress bar, is cut here


def ranks_of(folder: Path) -> list[int]:
    """Ranks of the workers that have printed something."""
    try:
        return sorted({found[0] for path in folder.iterdir() if (found := parsed(path.name)) is not None})
    except OSError:
        return []


def wanted_ranks(folder: Path, trial: str, rank: int | None) -> list[int]:
    """All ranks, or the one asked for. Raises UserError if there is nothing of it."""
    ranks = ranks_of(folder)
    if not ranks:
        fix = "wait until it has started; a trial that printed nothing has none, and one in the foreground printed to the terminal"
        raise UserError(Problem(f"--trial {trial}", "no output of its workers is kept here", fix))
    if rank is not None and rank not in ranks:
        raise UserError(Problem(f"--rank {rank}", f"no output of rank {rank}", f"use one of {', '.join(map(str, ranks))}"))
    return ranks if rank is None else [rank]


def written(folder: Path, ranks: Iterable[int], most: int | None = None) -> Iterator[str]:
    """The lines that stand in the files, rank by rank; of each rank the last `most`."""
    shown = list(ranks)
    for rank in shown:
        lines = _read(folder, rank)
        for line in lines if most is None else deque(lines, maxlen=most):
            yield _with_rank(line, rank, shown)


def followed(
    folder: Path, ranks: Callable[[], list[int]], is_over: Callable[[], bool], wait: Callable[[], None], most: int | None = None
) -> Iterator[str]:
    """Lines as they are written, until `is_over` and all is shown; first those that stand there, or the last `most` of each rank.

    Ranks may join.
    """
    tails: dict[int, _Tail] = {}
    first = True
    while True:
        over = is_over()  # before the look, so that the last lines are seen
        shown = ranks()
        for rank in shown:
            tails.setdefault(rank, _Tail(folder / name(rank), [folder / name(rank, age) for age in _ages(folder, rank)]))
            lines = tails[rank].new()
            for line in deque(lines, maxlen=most) if first else lines:
                yield _with_rank(line, rank, shown)
        first = False
        if over:
            for rank, tail in tails.items():
                yield from (_with_rank(line, rank, shown) for line in tail.rest())
            return
        wait()


class _Tail:
    """Follows one rank's file through rotation: `older` are read first, the oldest first."""

    def __init__(self, path: Path, older: Iterable[Path]):
        self._path, self._part = path, b""
        self._begin: list[Path] = list(older)
        self._file: BinaryIO | None = None

    def new(self) -> Iterator[str]:
        for path in self._begin:
            yield from self._of(_open(path))
        self._begin = []
        while True:
            yield from self._of(self._file, keep=True)
            fresh = _open(self._path)
            if fresh is None or (self._file is not None and os.path.sameopenfile(fresh.fileno(), self._file.fileno())):
                if fresh is not None:
                    fresh.close()
                return
            skipped = self._skipped()
            yield from self._of(self._file)  # what was written to it between the last look and the rotation
            for path in skipped:
                yield from self._of(_open(path))
            self._file = fresh

    def _skipped(self) -> list[Path]:
        """Files that came and went since the last look, the oldest first."""
        if self._file is None:
            return []
        mine = os.fstat(self._file.fileno())
        folder, rank = self._path.parent, (parsed(self._path.name) or (0, 0))[0]
        older = [folder / name(rank, age) for age in _ages(folder, rank)]
        known = [i for i, path in enumerate(older) if path.exists() and os.path.samestat(path.stat(), mine)]
        return older[known[0] + 1 :] if known else older

    def rest(self) -> Iterator[str]:
        """The last line, if it has no end."""
        if self._part:
            yield _text(self._part)
            self._part = b""

    def _of(self, file: BinaryIO | None, keep: bool = False) -> Iterator[str]:
        if file is None:
            return
        if file.tell() > os.fstat(file.fileno()).st_size:  # it was emptied
            file.seek(0)
        while block := file.read(_BLOCK_BYTES):
            *whole, self._part = (self._part + block).split(b"\n")
            yield from map(_text, whole)
            if len(self._part) > _LONGEST_LINE_BYTES:
                yield from self.rest()
        if not keep:
            file.close()


def _read(folder: Path, rank: int) -> Iterator[str]:
    tail = _Tail(folder / name(rank), [folder / name(rank, age) for age in _ages(folder, rank)])
    yield from tail.new()
    yield from tail.rest()


def _ages(folder: Path, rank: int) -> list[int]:
    """Ages of a rank's older files, the oldest first."""
    found = (parsed(path.name) for path in folder.iterdir())
    return sorted((file[1] for file in found if file is not None and file[0] == rank and file[1]), reverse=True)


def _open(path: Path) -> BinaryIO | None:
    try:
        return path.open("rb")
    except OSError:
        return None


def _text(line: bytes) -> str:
    """What a terminal would show of a line that is written over, as progress bars are."""
    return line.decode("utf-8", errors="replace").rstrip("\r").rpartition("\r")[2]


def _with_rank(line: str, rank: int, shown: list[int]) -> str:
    return f"[{rank}] {line}" if len(shown) > 1 else line
