"""A disk that goes bad on command under one folder: full, read-only, broken or slow, for the processes started with its environment.

`bad_disk.c` does it through LD_PRELOAD, so it needs Linux and a C compiler, and no rights. Nothing else on the machine is touched.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("bad_disk.c")


def build(folder: Path) -> Path | None:
    """The library, or None where there is no C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return None
    library = folder / "bad_disk.so"
    subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", str(library), str(SOURCE), "-ldl"], check=True, capture_output=True)
    return library


class BadDisk:
    """The disk of one study: sound until it is told otherwise."""

    def __init__(self, library: Path, folder: Path, order: Path):
        self._folder, self._order = folder, order
        self.environment = {"LD_PRELOAD": str(library), "CHAOS_DISK_ORDER": str(order)}

    def goes_bad(self, error: int = 0, late_s: float = 0.0, below: str = "") -> None:
        """From now on each call that writes below the folder (or a folder in it) ends with this errno (0: it works), so late."""
        new = self._order.with_suffix(".new")
        new.write_text(f"{error} {round(late_s * 1e6)} {self._folder / below}")
        new.replace(self._order)

    def is_mended(self) -> None:
        self._order.unlink(missing_ok=True)
