"""Arrays on a node's disk, computed once, read through memory maps by every process, within a bound.

An entry is a folder `prefix-<key>` of one file an array and `meta.json`. It is built beside its place, under a lock of its key, synced
and put in place by one rename: a builder that is killed leaves nothing that a reader could take for an entry, and whoever builds next
clears up after it. Readers hold a shared lock on the entry, which ends with their process; when room is needed, the entries that were
opened longest ago and that nobody holds are deleted. An entry that cannot fit is a `TooLarge`: its caller does without.
It knows nothing about models; keys are digests that its callers make.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tune.core.errors import StopStudy

FORMAT = 1
_META = "meta.json"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
Block = Mapping[str, NDArray[Any]]  # name -> rows of an array


class TooLarge(Exception):
    """An entry that the bound has no room for."""

    def __init__(self, needs_bytes: int, max_bytes: int, held_bytes: int):
        self.needs_bytes, self.max_bytes, self.held_bytes = needs_bytes, max_bytes, held_bytes
        used = f", of which running trials hold {held_bytes / 1e9:.3g} GB" if held_bytes else ""
        super().__init__(f"it needs {needs_bytes / 1e9:.3g} GB and the bound is {max_bytes / 1e9:.3g} GB{used}")


@dataclass
class Entry:
    """An entry in use. `arrays`: read-only memory maps, rows first. It cannot be deleted for room while this object lives."""

    arrays: dict[str, NDArray[Any]]
    facts: dict[str, Any]
    built: bool  # by this call
    _hold: Any = field(repr=False, default=None)


class Store:
    """The entries in one folder. Several processes may use stores on the same folder, with bounds of their own."""

    def __init__(self, folder: Path, max_bytes: int):
        self.folder, self.max_bytes = folder, max_bytes

    def find(self, key: str) -> Entry | None:
        """The entry, if it is whole. Counts as a use."""
        place = self._place(key)
        try:
            hold = open(place / _META, "rb")  # noqa: SIM115 - held open as long as the entry is in use
        except (FileNotFoundError, NotADirectoryError):
            return None
        fcntl.flock(hold, fcntl.LOCK_SH)
        try:
            meta = json.loads(hold.read())
            arrays = {name: _mapped(place / f"{name}.bin", shape, dtype) for name, (shape, dtype) in meta["arrays"].items()}
            os.utime(place / _META)
        except (FileNotFoundError, NotADirectoryError):  # deleted for room a moment ago
            hold.close()
            return None
        return Entry(arrays, meta["facts"], built=False, _hold=hold)

    def get(self, key: str, n_rows: int, blocks: Callable[[], Iterable[Block]], facts: Mapping[str, Any]) -> Entry:
        """The entry, built first if it is not there: `blocks()` gives its `n_rows` rows in order, a few at a time.

        facts: JSON that is kept with it. Raises TooLarge; StopStudy `disk_full` or `cache_unusable`.
        """
        from filelock import FileLock

        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            while True:
                found = self.find(key)
                if found is not None:
                    return found
                with FileLock(str(self._place(key)) + ".lock"):
                    found = self.find(key)  # another process may have built it while this one waited
                    if found is not None:
                        return found
                    self._build(key, n_rows, blocks(), facts)
                    found = self.find(key)
                if found is not None:
                    found.built = True
                    return found
        except OSError as error:
            raise StopStudy(
                "disk_full" if error.errno in _FULL else "cache_unusable",
                f"{self.folder} (outputs of frozen modules): {error.strerror or error}",
                "free space there, set PHASETUNE_CACHE to a folder with room that you may write, or set cache.use: off; then resume",
            ) from None

    def _build(self, key: str, n_rows: int, blocks: Iterable[Block], facts: Mapping[str, Any]) -> None:
        """Called under the key's lock, so any other unfinished folder of this key is that of a builder that was killed."""
        for left in self.folder.glob(f"prefix-{key}.*.part"):
            shutil.rmtree(left, ignore_errors=True)
        shutil.rmtree(self._place(key), ignore_errors=True)  # an entry whose deletion was cut
        part: Path | None = None
        try:
            files: dict[str, Any] = {}
            arrays: dict[str, tuple[list[int], str]] = {}
            n_done = 0
            for block in blocks:
                if part is None:
                    arrays = {name: ([n_rows, *rows.shape[1:]], rows.dtype.str) for name, rows in block.items()}
                    part = self._reserved(key, arrays)
                    files = {name: open(part / f"{name}.bin", "wb") for name in arrays}  # noqa: SIM115 - closed below
                for name, rows in block.items():  # written, not mapped: a disk that fills up is then an OSError and no bus error
                    files[name].write(np.ascontiguousarray(rows).data)
                n_done += len(next(iter(block.values())))
            assert part is not None and n_done == n_rows, f"{n_done} rows where {n_rows} were due"
            for file in files.values():
                _sync_and_close(file)
            with open(part / _META, "w", encoding="utf-8") as meta:
                json.dump({"format": FORMAT, "arrays": arrays, "facts": dict(facts)}, meta)
                meta.flush()
                os.fsync(meta.fileno())
            part.rename(self._place(key))
        finally:
            if part is not None:
                shutil.rmtree(part, ignore_errors=True)

    def _reserved(self, key: str, arrays: Mapping[str, tuple[list[int], str]]) -> Path:
        """An empty folder to build in, after room has been made for it; what it will take is written into its name."""
        from filelock import FileLock

        needs = sum(int(np.prod(shape)) * np.dtype(dtype).itemsize for shape, dtype in arrays.values())
        with FileLock(str(self.folder / "prefix.lock")):
            self._make_room(needs)
            if shutil.disk_usage(self.folder).free < needs:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return Path(tempfile.mkdtemp(prefix=f"prefix-{key}.{needs}.", suffix=".part", dir=self.folder))

    def _make_room(self, needs: int) -> None:
        """Delete what was used longest ago until `needs` bytes fit."""
        self._drop_left_over()
        promised = sum(int(part.name.split(".")[1]) for part in self.folder.glob("prefix-*.part"))
        whole = (path for path in self.folder.glob("prefix-*") if path.suffix != ".part" and (path / _META).is_file())
        entries = sorted(whole, key=_last_use)
        sizes = {path: sum(file.stat().st_size for file in path.glob("*.bin")) for path in entries}
        excess = needs + promised + sum(sizes.values()) - self.max_bytes
        for path in entries:
            if excess <= 0:
                return
            if _delete(path):
                excess -= sizes.pop(path)
        if excess > 0:
            raise TooLarge(needs, self.max_bytes, promised + sum(sizes.values()))

    def _drop_left_over(self) -> None:
        """Unfinished folders whose builder is gone: nobody holds the lock of their key."""
        from filelock import FileLock, Timeout

        for part in self.folder.glob("prefix-*.part"):
            key = part.name.split(".")[0].removeprefix("prefix-")
            lock = FileLock(str(self._place(key)) + ".lock")
            try:
                with lock.acquire(timeout=0):
                    shutil.rmtree(part, ignore_errors=True)
            except Timeout:
                continue

    def _place(self, key: str) -> Path:
        return self.folder / f"prefix-{key}"


def _mapped(path: Path, shape: list[int], dtype: str) -> NDArray[Any]:
    return np.memmap(path, dtype=np.dtype(dtype), mode="r", shape=tuple(shape))


def _last_use(path: Path) -> float:
    try:
        return (path / _META).stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _delete(path: Path) -> bool:
    """True if the entry is gone; False if somebody holds it."""
    with _exclusive(path / _META) as mine:
        if not mine:
            return False
        (path / _META).unlink()  # first: without it the folder is no entry
        shutil.rmtree(path, ignore_errors=True)
        return True


@contextmanager
def _exclusive(path: Path) -> Iterator[bool]:
    try:
        file = open(path, "rb")  # noqa: SIM115 - closed below, with its lock
    except FileNotFoundError:
        yield False
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        yield False
    else:
        yield True
    finally:
        file.close()


def _sync_and_close(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())
    file.close()
