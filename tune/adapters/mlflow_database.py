"""Makes MLflow's SQLite database whole or not at all.

MLflow creates its tables by a long row of migrations; a process killed in the middle leaves a file that no MLflow opens again
("table already exists"). So a new database is made under another name and moved into place, by one process at a time.
"""

from __future__ import annotations

import os
from pathlib import Path


def ensure_database(path: Path) -> None:
    """Create the database at `path` if there is none. Safe against kills and against other processes doing the same."""
    from filelock import FileLock

    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        return
    with FileLock(f"{path}.lock"):
        if path.exists():
            return
        for leftover in path.parent.glob(f".{path.name}.*.new*"):
            leftover.unlink(missing_ok=True)
        new = path.with_name(f".{path.name}.{os.getpid()}.new")
        _make(new)
        os.replace(new, path)


def _make(new: Path) -> None:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    store = SqlAlchemyStore(f"sqlite:///{new}", str(new.parent / "mlflow-artifacts"))
    with store.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    store.engine.dispose()
