"""Names of the files in a trial's folder that hold what its workers print: `worker-<rank>.log`, and `.1`, `.2` ... the older, the higher.

Workers write them (`trainables.adapters.output`), `phasetune logs` reads them, a copy of a trial's folder leaves them out.
"""

from __future__ import annotations

import re

_NAME = re.compile(r"worker-(\d+)\.log(?:\.(\d+))?")


def name(rank: int, age: int = 0) -> str:
    """The file of a worker; `age` 0 is the one that is written to."""
    return f"worker-{rank}.log" + (f".{age}" if age else "")


def parsed(file_name: str) -> tuple[int, int] | None:
    """(rank, age) of a file, or None if it is another sort of file."""
    found = _NAME.fullmatch(file_name)
    return None if found is None else (int(found[1]), int(found[2] or 0))
