"""The parts `mlflow` and `postgres` of benchmark (f): how fast MLflow's store can be told, and how far behind it falls. See scale.py.

Into SQLite, and into a PostgreSQL of its own where Debian's `postgresql` and a driver (`pip install psycopg2-binary`) are installed;
what is not run is named with the reason. Paced: the journal is announced at so many trials a second, as a running study does.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.bench.scale import MB, Sheet
from tests.bench.scale_search import studies
from tune.adapters.journal_file import read_entries
from tune.adapters.mlflow_log import MlflowProjection
from tune.core.journal import Ended, Entry

RATES = (2, 5, 10, 20)  # trials that end in a second
PACED_S = 40.0
_TICK_S = 0.1
_PATIENCE_S = 3600.0
_BINARIES = "/usr/lib/postgresql/*/bin"


def into_sqlite(kind: str, sizes: Sequence[int], folder: Path) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        _measure("SQLite", f"sqlite:///{temporary}/mlflow.db", sizes, studies(kind, sizes, folder))
        size_mb = sum(file.stat().st_size for file in Path(temporary).glob("mlflow.db*")) / MB
        print(f"\nThe SQLite database of all of these: {size_mb:.0f} MB")


def into_postgres(kind: str, sizes: Sequence[int], folder: Path) -> None:
    lacking = no_postgres()
    if lacking:
        print(f"\nMLflow in PostgreSQL: not run: {lacking}")
        return
    with postgres() as uri:
        _measure("PostgreSQL", uri, sizes, studies(kind, sizes, folder))


def _measure(store: str, uri: str, sizes: Sequence[int], dirs: Sequence[Path]) -> None:
    _project(dirs[0], uri, "warm-up")  # the store makes its tables
    seconds = [_project(study_dir, uri, f"scale-{n}") for n, study_dir in zip(sizes, dirs, strict=True)]
    sheet = Sheet(f"MLflow's projection of a whole study from nothing, {store}", sizes)
    sheet.row("seconds", seconds, 1)
    sheet.row("runs a second", [n / s for n, s in zip(sizes, seconds, strict=True)], 0)
    print(f"\nMLflow's lag behind a study that runs, {store}, {PACED_S:.0f} s at each pace\n")
    print("| trials a second | events a second | most events behind | behind at the end | s to catch up then |\n|" + " --- |" * 5)
    for rate in RATES:
        _paced(dirs[min(1, len(dirs) - 1)], uri, f"paced-{rate}", rate)


def _project(study_dir: Path, uri: str, experiment: str) -> float:
    """Seconds from nothing to all of it."""
    projection, last = MlflowProjection(study_dir, uri, experiment), list(read_entries(study_dir))[-1]
    begun = time.perf_counter()
    projection.start()
    projection.offer(last)
    left = projection.close(_PATIENCE_S)
    assert left.behind == 0, left
    return time.perf_counter() - begun


def _paced(study_dir: Path, uri: str, experiment: str, rate: int) -> None:
    """Announce as many trials of a journal as `rate` makes, with all their events, and watch how many events are not told."""
    entries = _of_trials(list(read_entries(study_dir)), round(rate * PACED_S))
    projection, most, begun = MlflowProjection(study_dir, uri, experiment), 0, time.perf_counter()
    projection.start()
    while (share := (time.perf_counter() - begun) / PACED_S) < 1.0:
        projection.offer(entries[min(len(entries) - 1, int(share * len(entries)))])
        most = max(most, projection.behind)
        time.sleep(_TICK_S)
    projection.offer(entries[-1])
    behind, ended = projection.behind, time.perf_counter()
    left = projection.close(_PATIENCE_S)
    assert left.behind == 0, left
    caught_up_s = time.perf_counter() - ended
    print(f"| {rate} | {len(entries) / PACED_S:.0f} | {most} | {behind} | {caught_up_s:.1f} |", flush=True)


def _of_trials(entries: Sequence[Entry], trials: int) -> Sequence[Entry]:
    """The journal up to where so many trials have ended."""
    ended = [i for i, entry in enumerate(entries) if isinstance(entry.event, Ended)]
    return entries[: ended[trials] + 1] if trials < len(ended) else entries


# -- PostgreSQL --------------------------------------------------------------------------------------------------------------------


def no_postgres() -> str:
    """Why PostgreSQL cannot be started and talked to here, or nothing."""
    if not list(Path("/").glob(f"{_BINARIES}/initdb".lstrip("/"))):
        return "no initdb; apt-get install postgresql"
    if importlib.util.find_spec("psycopg2") is None:
        return "no driver; pip install psycopg2-binary"
    return ""


@contextlib.contextmanager
def postgres() -> Iterator[str]:
    """The SQLAlchemy URI of an empty database of a server of our own, which listens on a Unix socket only."""
    binaries = max(Path("/").glob(_BINARIES.lstrip("/")), key=lambda path: int(path.parent.name))
    home = Path(tempfile.mkdtemp(prefix="pg-"))  # short: a socket's path has a limit
    user = "postgres" if os.geteuid() == 0 else None  # it refuses to run as root
    try:
        if user is not None:
            shutil.chown(home, user)

        def call(*words: str) -> None:
            subprocess.run(words, check=True, stdout=subprocess.DEVNULL, user=user, cwd=home)

        data, settings = str(home / "data"), f"-c listen_addresses='' -c unix_socket_directories='{home}'"
        call(str(binaries / "initdb"), "-D", data, "-U", "mlflow", "-A", "trust", "-E", "UTF8", "--no-locale")
        call(str(binaries / "pg_ctl"), "-D", data, "-w", "-l", str(home / "log"), "-o", settings, "start")
        try:
            call(str(binaries / "createdb"), "-h", str(home), "-U", "mlflow", "mlflow")
            yield f"postgresql+psycopg2://mlflow@/mlflow?host={home}"
        finally:
            call(str(binaries / "pg_ctl"), "-D", data, "-w", "-m", "fast", "stop")
    finally:
        shutil.rmtree(home, ignore_errors=True)
