"""Pixels decoded and resized once a node, shared by all trials through a memory map.

The file's name is a digest of the data, the size and the decoder's version, so a changed picture is decoded again and two studies
on the same data share it. It is built under a lock into a temporary file and put in place whole; a builder that is killed leaves
nothing that a reader could take for pixels.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from trainables.data import decode
from trainables.data.sources import ImageTable
from tune.core.errors import StopStudy


def pixels(table: ImageTable, size_px: int, cache_dir: Path, progress: Callable[[int, int], None] | None = None) -> np.memmap:
    """uint8 pixels_NHWC (N rows of the table, H = W = `size_px`, C = RGB), square without regard to aspect, read-only.

    progress(done, total) is called while the file is built. Raises StopStudy `disk_full` if it does not fit.
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
                    _build(table, size_px, path, shape, progress)
        return np.memmap(path, dtype=np.uint8, mode="r", shape=shape)
    except OSError as error:
        reason = "disk_full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "cache_unusable"
        size_mb = np.prod(shape) / 1e6
        raise StopStudy(
            reason,
            f"{path} ({size_mb:.0f} MB of decoded pixels): {error.strerror or error}",
            "free space there or set PHASETUNE_CACHE to a folder with room, then resume",
        ) from None


def _whole(path: Path, shape: tuple[int, ...]) -> bool:
    try:
        return path.stat().st_size == int(np.prod(shape))
    except FileNotFoundError:
        return False


def _build(table: ImageTable, size_px: int, path: Path, shape: tuple[int, ...], progress: Callable[[int, int], None] | None) -> None:
    tmp = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        with open(tmp, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(1, int(np.prod(shape))))  # a full disk shows here, not as a bus error later
        out = np.memmap(tmp, dtype=np.uint8, mode="r+", shape=shape)

        def fill(i: int) -> None:
            from PIL import Image

            image = decode.decode_rgb(table.read(i), table.max_pixels)
            out[i] = np.asarray(image.resize((size_px, size_px), Image.Resampling.BILINEAR))

        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            for done, _ in enumerate(pool.map(fill, range(shape[0])), 1):
                if progress is not None and done % 64 == 0:
                    progress(done, shape[0])
        out.flush()
        del out
        os.replace(tmp, path)
    finally:
        tmp.unlink(missing_ok=True)
