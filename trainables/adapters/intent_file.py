"""An intent log in a file: one line a record, on disk before `append` returns, one writer at a time.

The lock dies with its process, so a trial that was killed does not hold up its successor; one that is still alive does, and the
successor is told to come again. A last line that a crash cut short was not yet acted on and is dropped.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType

from filelock import FileLock, Timeout

from trainables.openai_phases.intents import Record, decode, encode
from tune.core.errors import FailTrial, RetryTrial


class IntentFile:
    """`with IntentFile(workdir / "intents.jsonl") as log:`."""

    def __init__(self, path: Path, wait_s: float = 30.0):
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(f"{path}.lock")
        try:
            self._lock.acquire(timeout=wait_s)
        except Timeout:
            raise RetryTrial("intents_in_use", f"another process still writes {path.name}; it may be an earlier attempt") from None
        try:
            self._records = _mended(path)
        except FailTrial:
            self._lock.release()
            raise
        existed = path.exists()
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115 - held until close
        if not existed:
            _sync_folder(path.parent)

    def append(self, record: Record) -> None:
        line = (encode(record) + "\n").encode()
        while line:
            line = line[self._file.write(line) or 0 :]
        os.fsync(self._file.fileno())
        self._records.append(record)

    def records(self) -> Iterator[Record]:
        return iter(tuple(self._records))

    def close(self) -> None:
        self._file.close()
        self._lock.release()

    def __enter__(self) -> IntentFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def guard_in(folder: Path) -> Callable[[str], AbstractContextManager[object]]:
    """A guard for `Submissions`: trials with this folder in common, on one node or on a shared disk, upload a content one at a time."""
    folder.mkdir(parents=True, exist_ok=True)
    return lambda sha256: FileLock(folder / f"{sha256}.lock", thread_local=False)


def _mended(path: Path) -> list[Record]:
    """The records of the file, which is cut behind the last whole line. Raises FailTrial if a whole line is damaged."""
    if not path.exists():
        return []
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        with open(path, "r+b") as file:
            file.truncate(whole)
            os.fsync(file.fileno())
    records: list[Record] = []
    for i, line in enumerate(data[:whole].splitlines(), start=1):
        try:
            records.append(decode(line.decode()))
        except ValueError as error:
            raise FailTrial("damaged_intents", f"{path.name}:{i}: {error}; look at the service for open jobs before a new trial") from None
    return records


def _sync_folder(folder: Path) -> None:
    """So that a file made in it is still there after a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
