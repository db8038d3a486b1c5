"""What a worker process prints during a trial, in a file of the trial's folder that cannot fill the disk.

stdout and stderr of the whole process, libraries and child processes included, go to `worker-<rank>.log`. A thread looks at its size;
past the limit the file becomes `.1`, `.1` becomes `.2`, and the oldest goes. Kept are so at most `(1 + older) * limit` bytes, plus what
is printed between two looks. A child process goes on writing to the file that it began with: one that grows by more than the limit after
that is emptied. Rotation loses no line; output that cannot be written at all is let go, since the trial matters more.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tune.core import worker_output


@dataclass(frozen=True)
class OutputLimits:
    """size_bytes: of one file. older: files kept beside the one that is written. look_s: between two looks at the size."""

    size_bytes: int = 8 << 20
    older: int = 3
    look_s: float = 0.5


@contextlib.contextmanager
def output_in(folder: Path, rank: int, head: str = "", limits: OutputLimits = OutputLimits()) -> Iterator[None]:
    """Append what this process prints to the file of its rank, after a line `head`, if it can be written at all."""
    log = _Log(folder, rank, limits)
    try:
        file = log.open()
    except OSError:  # storage is full or gone: the trial will meet it at its checkpoint, under its name
        yield
        return
    _flush()
    kept = os.dup(1), os.dup(2)
    _point_to(file)
    if head:
        with contextlib.suppress(OSError):
            os.write(1, f"{head}\n".encode())
    over = threading.Event()
    watcher = threading.Thread(target=_watch, args=(log, over), daemon=True, name=f"output of rank {rank}")
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
        _flush()
        for fd, copy in zip((1, 2), kept, strict=True):
            os.dup2(copy, fd)
            os.close(copy)


class _Log:
    """The files of one rank."""

    def __init__(self, folder: Path, rank: int, limits: OutputLimits):
        self.limits = limits
        self._put_aside: dict[int, int] = {}  # inode of an older file -> its size when it became one
        self._paths = [folder / worker_output.name(rank, age) for age in range(limits.older + 1)]

    def open(self) -> int:
        return os.open(self._paths[0], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def rotate_if_due(self) -> None:
        """Begin a new file for the process's output if this one is long."""
        if self._size(self._paths[0]) > self.limits.size_bytes:
            for younger, older in zip(self._paths[-2::-1], self._paths[:0:-1], strict=True):
                with contextlib.suppress(FileNotFoundError):
                    younger.replace(older)
            _point_to(self.open())
            aside = self._paths[1].stat()  # now: what the process printed until here belongs to it
            self._put_aside[aside.st_ino] = aside.st_size
        for path in self._paths[1:]:
            with contextlib.suppress(FileNotFoundError):
                found = path.stat()
                if found.st_size > self._put_aside.get(found.st_ino, found.st_size) + self.limits.size_bytes:
                    os.truncate(path, 0)
                    self._put_aside[found.st_ino] = 0

    def _size(self, path: Path) -> int:
        try:
            return path.stat().st_size
        except FileNotFoundError:
            return 0


def _watch(log: _Log, over: threading.Event) -> None:
    while not over.wait(log.limits.look_s):
        with contextlib.suppress(OSError):  # the storage is away: at the next look
            log.rotate_if_due()


def _point_to(file: int) -> None:
    """stdout and stderr of the process go to an open file from here on; it is closed under its old number."""
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
