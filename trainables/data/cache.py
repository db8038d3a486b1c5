"""Pixels decoded and resized once a node, shared by all trials through a memory map.

The file's name is a digest of the data, the size and the decoder's version, so a changed picture is decoded again and two studies
on the same data share it. It is built under a lock into a temporary file and put in place whole; a builder that is killed leaves
nothing that a reader could take for pixels, and the next builder clears up after it.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from trainables.data import decode
from trainables.data.sources import ImageTable
from tune.core.errors import StopStudy

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def pixels(table: ImageTable, size_px: int, cache_dir: Path, progress: Callable[[int, int], None] | None = None) -> np.memmap:
    """uint8 pixels_NHWC (N rows of the table, H = W = `size_px`, C = RGB), square without regard to aspect, read-only.

    progress(done, total) is called while the file is built. Raises StopStudy: `disk_full` if it does not fit, `cache_unusable` if
    the folder cannot be written, `picture_unreadable` if a picture is damaged inside or is gone since the table was opened.
    """
    from filelock import FileLock

    shape = (len(table.ids), size_px, size_px, 3)
    key = hashlib.sha256(f"{table.digest}/{size_px}/{decode.VERSION}".encode()).hexdigest()[:24]
    path = cache_dir / f"pixels-{key}.u8"
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        if not _whole(path, shape):
            with FileLock(str(path) + ".lock"):
                if not _whole(path, shape):  # another process may have built it while this one waited
                    _build(table, size_px, path, progress)
        return np.memmap(path, dtype=np.uint8, mode="r", shape=shape)
    except OSError as error:
        size_mb = np.prod(shape) / 1e6
        raise StopStudy(
            "disk_full" if error.errno in _FULL else "cache_unusable",
            f"{path} ({size_mb:.0f} MB of decoded pixels): {error.strerror or error}",
            "free space there or set PHASETUNE_CACHE to a folder with room that you may write, then resume",
        ) from None


def _whole(path: Path, shape: tuple[int, ...]) -> bool:
    try:
        return path.stat().st_size == int(np.prod(shape))
    except FileNotFoundError:
        return False


def _build(table: ImageTable, size_px: int, path: Path, progress: Callable[[int, int], None] | None) -> None:
    """Called under the lock, so any other temporary file of this path is that of a builder that was killed."""
    for left in path.parent.glob(f"{path.stem}.*.tmp"):
        left.unlink(missing_ok=True)
    n, row_bytes = len(table.ids), size_px * size_px * 3
    if shutil.disk_usage(path.parent).free < n * row_bytes:  # said before hours of decoding, not after
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    tmp = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        with open(tmp, "wb") as file:

            def fill(i: int) -> None:  # written, not mapped: a disk that fills up is then an OSError and no bus error
                _write(file.fileno(), _square(table, i, size_px), i * row_bytes)

            with decode.quiet(), ThreadPoolExecutor(os.cpu_count() or 1) as pool:
                for done, _ in enumerate(pool.map(fill, range(n)), 1):
                    if progress is not None and (done % 64 == 0 or done == n):
                        progress(done, n)
            os.fsync(file.fileno())
        os.replace(tmp, path)
    finally:
        tmp.unlink(missing_ok=True)


def _square(table: ImageTable, i: int, size_px: int) -> bytes:
    from PIL import Image

    try:
        image = decode.decode_rgb(table.read(i), table.max_pixels)
    except (OSError, decode.BadImage) as error:
        why = (isinstance(error, OSError) and error.strerror) or str(error)
        fix = "put a sound picture there, or remove it or set trainable.data.broken: skip and start a new study"
        raise StopStudy("picture_unreadable", f"{table.ids[i]}: {why}", fix) from None
    return image.resize((size_px, size_px), Image.Resampling.BILINEAR).tobytes()


def _write(fd: int, data: bytes, offset: int) -> None:
    while data:  # a disk that is nearly full takes a part and refuses the rest
        n = os.pwrite(fd, data, offset)
        data, offset = data[n:], offset + n
