"""The journal on a disk: append-only, synced before `append` returns, one writer, a torn last line forgiven.

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


def read_lines(path: Path) -> Iterator[str]:
    """Whole lines of the journal at `path`, the torn last one left out. Raises UserError if there is no journal."""
    try:
        with open(path, encoding="utf-8", errors="replace", newline="\n") as file:
            for line in file:
                if line.endswith("\n"):
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


def read_entries(study_dir: Path) -> Iterator[Entry]:
    """The events of the study in `study_dir`. Raises UserError if there is no journal, or where it is damaged."""
    return decode_all(read_lines(study_dir / NAME), str(study_dir / NAME))


class JournalFile:
    """The single writer of one study's journal. Raises UserError if another process holds it, StopStudy if the disk is full."""

    def __init__(self, study_dir: Path):
        self.path = study_dir / NAME
        self._lock = FileLock(str(study_dir / ".journal.lock"))
        try:
            self._lock.acquire(timeout=0)
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
        data = line.encode() + b"\n"
        try:
            done = 0
            while done < len(data):
                done += os.write(self._file, data[done:])
            os.fdatasync(self._file)
        except OSError as error:
            with contextlib.suppress(OSError):  # the reader forgives a torn last line
                os.ftruncate(self._file, self._size)
            reason = "disk_full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "storage_lost"
            raise StopStudy(
                reason,
                f"{self.path}: {error.strerror}",
                f"free space or mend the storage, then `phasetune resume {self.path.parent}`",
            ) from None
        self._size += len(data)

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
