"""The journal on a disk: append-only, synced before `append` returns, one writer, a torn last line forgiven.

The lock keeps writers apart. Where it cannot (storage that several machines see and whose locks a lost link loses), a writer looks
before each line: more in the file than it wrote, or another file in its place, means that it was superseded, and it writes no more. A
line that was on its way when the link broke may still land.

A kill may leave half a line at the end. A reader leaves it out; a writer cuts it off before it appends. Anything damaged before
the last line is an error of `tune.core.journal.decode`.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from filelock import FileLock, Timeout

from tune.core.errors import Problem, StopStudy, UserError
from tune.core.journal import Entry, decode_all

NAME = "journal.jsonl"
_LOOKERS_S = 1.0  # who looks whether a driver is there holds the lock for a moment
SUPERSEDED = "superseded"  # StopStudy.reason


def read_lines(path: Path) -> Iterator[str]:
    """Whole lines of the journal at `path`, the torn last one left out. Raises UserError if there is no journal."""
    return (line.decode("utf-8", errors="replace") for line in _whole_lines(path, 0))


def _whole_lines(path: Path, at: int) -> Iterator[bytes]:
    try:
        with open(path, "rb") as file:
            file.seek(at)
            for line in file:
                if not line.endswith(b"\n"):  # torn, or not yet written whole: its rest is no line of its own
                    return
                yield line
    except FileNotFoundError:
        raise UserError(Problem(str(path.parent), "no journal.jsonl there", _name_a_study(path.parent))) from None
    except NotADirectoryError:
        raise UserError(Problem(str(path.parent), "a file", _name_a_study(path.parent.parent))) from None
    except OSError as error:
        raise UserError(Problem(str(path), f"it cannot be read: {error.strerror}", "mend the permissions or the path")) from None


def _name_a_study(folder: Path) -> str:
    """The newest studies that lie in the folder, or an example."""
    journals = sorted(folder.glob(f"*/{NAME}"), key=lambda journal: journal.stat().st_mtime) if folder.is_dir() else []
    return "name a study directory, such as " + (", ".join(str(j.parent) for j in journals[:-4:-1]) or "studies/quickstart-1")


class JournalTail:
    """The events of a study that may still grow. Raises UserError if there is no journal, or where it is damaged."""

    def __init__(self, study_dir: Path):
        self._path = study_dir / NAME
        self._at = self._seq = 0
        self._file: tuple[int, int] | None = None

    def is_replaced(self) -> bool:
        """Whether another file is in the journal's place, or less of it than was read: a study made anew, a line cut off again."""
        try:
            now = os.stat(self._path)
        except OSError:  # `new` will say what is wrong
            return False
        known, self._file = self._file, (now.st_dev, now.st_ino)
        return now.st_size < self._at or known not in (None, self._file)

    def new(self) -> Iterator[Entry]:
        """Those that were written since the last call."""
        for entry in decode_all(self._lines(), str(self._path), self._seq):
            self._seq += 1
            yield entry

    def _lines(self) -> Iterator[str]:
        for line in _whole_lines(self._path, self._at):
            self._at += len(line)
            yield line.decode("utf-8", errors="replace")


def read_entries(study_dir: Path) -> Iterator[Entry]:
    """The events of the study in `study_dir`. Raises UserError if there is no journal, or where it is damaged."""
    return JournalTail(study_dir).new()


class JournalFile:
    """The single writer of one study's journal. Raises UserError if another process holds it.

    `append` raises StopStudy: `disk_full`, `storage_lost`, or `superseded` where another writer went on in its place. It says the
    same at every call after that.
    """

    def __init__(self, study_dir: Path):
        self.path = study_dir / NAME
        self._lock = FileLock(str(study_dir / ".journal.lock"))
        try:
            self._lock.acquire(timeout=_LOOKERS_S)
        except Timeout:
            raise UserError(
                Problem(
                    str(study_dir),
                    "another process is running this study",
                    "wait for it, or end it with `phasetune stop " + str(study_dir) + "`",
                )
            ) from None
        except OSError as error:
            raise UserError(
                Problem(str(study_dir), f"it cannot be written: {error.strerror}", "choose a writable folder with --storage")
            ) from None
        try:
            self._cut_torn_line()
            self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        except OSError as error:
            self._lock.release()
            raise UserError(Problem(str(self.path), f"it cannot be written: {error.strerror}", "mend the permissions")) from None
        self._size = os.fstat(self._file).st_size
        self._failure: StopStudy | None = None

    def _cut_torn_line(self) -> None:
        if not self.path.exists():
            return
        with open(self.path, "rb+") as file:
            size = file.seek(0, os.SEEK_END)
            keep = size
            while keep > 0:  # walk back block by block to the last newline
                start = max(0, keep - 65536)
                file.seek(start)
                found = file.read(keep - start).rfind(b"\n")
                if found >= 0:
                    keep = start + found + 1
                    break
                keep = start
            if keep < size:
                file.truncate(keep)
                os.fsync(file.fileno())

    def append(self, line: str) -> None:
        """Write one line and sync it. A line that could not be written whole is cut off again."""
        if self._failure is not None:
            raise self._failure
        data, done = line.encode() + b"\n", 0
        try:
            self._see_that_nobody_else_wrote()
            while done < len(data):
                done += os.write(self._file, data[done:])
            os.fdatasync(self._file)
        except OSError as error:
            with contextlib.suppress(OSError):  # the reader forgives a torn last line
                if os.fstat(self._file).st_size <= self._size + done:  # what came after ours is not ours to cut
                    os.ftruncate(self._file, self._size)
            reason = "disk_full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "storage_lost"
            fix = f"free space or mend the storage, then `phasetune resume {self.path.parent}`"
            self._failure = StopStudy(reason, f"{self.path}: {error.strerror}", fix)
            raise self._failure from None
        self._size += len(data)

    def _see_that_nobody_else_wrote(self) -> None:
        """Raises StopStudy `superseded`. A file that is opened anew is looked up anew by a network file system."""
        handle = os.open(self.path, os.O_RDONLY)
        try:
            there = os.fstat(handle)
        finally:
            os.close(handle)
        if there.st_size != self._size or not os.path.samestat(there, os.fstat(self._file)):
            got = f"{self.path}: another process has gone on with this study; this one was thought lost, and leaves it"
            self._failure = StopStudy(SUPERSEDED, got, f"look at it with `phasetune status {self.path.parent}`")
            raise self._failure

    def lines(self) -> Iterator[str]:
        return read_lines(self.path)

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
            self._lock.release()

    def __enter__(self) -> JournalFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
