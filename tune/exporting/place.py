"""A folder that appears whole or not at all: written under a hidden name beside its place, then renamed.

A writer that is killed leaves a hidden folder without `phasetune.json` under its final name; the next writer of the same place
clears it away. Two writers of one place at a time: the second is refused.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tune.core.errors import Problem, StopStudy, UserError

_FULL = (errno.ENOSPC, errno.EDQUOT)


def check_free(out: Path) -> None:
    """Raises UserError if something stands at `out` already; an empty folder does no harm."""
    if out.is_symlink() or (out.exists() and not (out.is_dir() and not any(out.iterdir()))):
        raise UserError(Problem(str(out), "it exists already", "name another folder with --out, or remove that one"))


@contextmanager
def appearing(out: Path) -> Iterator[Path]:
    """An empty folder to write into; at the end of the block it is put in place at `out`, after an error it is removed.

    Raises UserError if `out` is taken or cannot be written, or if another process writes it now; StopStudy `disk_full`.
    """
    check_free(out)
    unfinished = out.with_name(f".{out.name}.part")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        held = _hold(unfinished)
    except OSError as error:
        raise UserError(Problem(str(out), f"it cannot be written: {error.strerror or error}", "choose a folder with --out")) from None
    try:
        yield unfinished
        _as_readable_as_the_folder(unfinished)
        check_free(out)
        os.rename(unfinished, out)
        _sync(out.parent)
    except OSError as error:
        if error.errno in _FULL:
            raise StopStudy("disk_full", f"{out}: {error.strerror}", "free space, or choose a folder with --out") from None
        raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
        os.close(held)


def _hold(unfinished: Path) -> int:
    """The hidden folder, emptied and locked for as long as the returned descriptor is open."""
    import fcntl

    unfinished.mkdir(exist_ok=True)
    held = os.open(unfinished, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(held)
        raise UserError(Problem(str(unfinished), "another process is writing it", "wait for it, or choose a folder with --out")) from None
    for left in unfinished.iterdir():  # of a writer that was killed
        shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()
    return held


def _as_readable_as_the_folder(folder: Path) -> None:
    """safetensors writes files for their owner alone; an export is for whoever may look into its folder."""
    mode = folder.stat().st_mode & 0o666
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            path.chmod(mode)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
