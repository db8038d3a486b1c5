"""MLflow as a projection of a study's journal, in a thread of its own: the study neither waits for it nor dies of it.

`offer` only says how far the journal is durable; the thread reads `journal.jsonl` itself, folds it (`mlflow_fold`) and tells the
server (`mlflow_runs`). So memory stays small while a server is away, and catching up later, on resume, or after a kill is one
and the same thing: read on. It promises one run a trial and that repeats are absorbed, not that the server is up to date while
the study runs. It does not decide what MLflow should hold.
"""

from __future__ import annotations

import os
import shlex
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tune.adapters.journal_file import NAME
from tune.adapters.mlflow_database import ensure_database
from tune.adapters.mlflow_fold import MlflowFold
from tune.adapters.mlflow_runs import RunWriter, Unreachable, mlflow_client, set_up_mlflow
from tune.core.journal import Entry, decode
from tune.core.secrets import masked

ROUND_ENTRIES = 5000  # read at once when there is much to catch up with
MAX_ERRORS = 50
FIRST_BACKOFF_S, LAST_BACKOFF_S, CLOSING_BACKOFF_S = 0.5, 30.0, 1.0
CLOSING_PATIENCE_S = 8.0  # a server that fails for so long while we close is left to the next resume
_SQLITE = "sqlite:///"


@dataclass(frozen=True)
class ProjectionReport:
    """`behind`: journal entries that MLflow does not have yet. `errors`: what was left out, and the trouble that lasts."""

    behind: int
    errors: tuple[str, ...]


class MlflowProjection:
    """See the module. `interval_s`: the shortest time between two tellings of a study that runs.

    Files of a trial above `max_artifact_bytes` are not copied; the tag `phasetune.files` says where they lie. `open_client` is
    for tests.
    """

    def __init__(
        self,
        study_dir: Path,
        tracking_uri: str,
        experiment: str,
        *,
        interval_s: float = 1.0,
        max_artifact_bytes: int = 5_000_000,
        open_client: Callable[[], Any] | None = None,
    ):
        self._tail = JournalTail(study_dir / NAME)
        self._fold = MlflowFold()
        self._problems: dict[str, int] = {}
        self._writer = RunWriter(
            open_client or partial(_open, tracking_uri),
            experiment,
            study_dir,
            _artifact_uri(tracking_uri, experiment),
            max_artifact_bytes,
            self._note,
        )
        self._interval_s = interval_s
        self._connected = False
        self._offered = 0  # entries that are durable: the thread reads no further
        self._told = 0  # entries that the server has
        self._trouble = ""  # the last failure, until a round succeeds
        self._wake, self._closing, self._abandoned = threading.Event(), threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="mlflow-projection", daemon=True)

    def start(self) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read once, when mlflow is imported
        self._thread.start()

    def offer(self, entry: Entry) -> None:
        """The journal is durable up to this entry. Never blocks, never raises; old entries may be offered again."""
        self._offered = max(self._offered, entry.seq + 1)
        self._wake.set()

    @property
    def behind(self) -> int:
        return max(0, self._offered - self._told)

    @property
    def trouble(self) -> str:
        """Why the server cannot be told just now; empty when all is well. For the live view."""
        return self._trouble

    def close(self, timeout_s: float) -> ProjectionReport:
        """Tell the rest, for at most `timeout_s` seconds. What is then left waits for the next resume."""
        self._closing.set()
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        self._abandoned.set()
        errors = [text if n == 1 else f"{text} ({n} times)" for text, n in list(self._problems.items())]
        return ProjectionReport(self.behind, (*errors, *([self._trouble] if self._trouble else [])))

    # -- the thread -----------------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        backoff_s = FIRST_BACKOFF_S
        failing_since_s: float | None = None  # while closing
        while not self._abandoned.is_set():
            self._wake.clear()
            over = self._closing.is_set()
            if self.behind == 0 and not over:
                self._wake.wait()
                continue
            try:
                if self.behind:
                    self._round()
                elif self._connected:
                    self._writer.settle()
                self._trouble, backoff_s, failing_since_s = "", FIRST_BACKOFF_S, None
            except Exception as error:  # noqa: BLE001 - whatever MLflow does, the study goes on
                self._connected = False
                if not isinstance(error, Unreachable):  # Gone, or a fault of ours: the journal from its start is always right
                    self._fold, self._told = MlflowFold(), 0
                    self._tail.rewind()
                self._trouble = masked(f"MLflow cannot be told: {' '.join(str(error).split())[:300]}")
                if over:
                    failing_since_s = failing_since_s or time.monotonic()
                    if time.monotonic() - failing_since_s > CLOSING_PATIENCE_S:
                        return
                self._pause(min(backoff_s, CLOSING_BACKOFF_S) if over else backoff_s)
                backoff_s = min(backoff_s * 2, LAST_BACKOFF_S)
                continue
            if over and self.behind == 0:
                return
            self._pause(self._interval_s if self.behind < ROUND_ENTRIES else 0.0)

    def _round(self) -> None:
        """Read on if all that was read is told, then tell each run its news. A failed round leaves the rest for the next."""
        fold = self._fold
        if self._told == fold.next_seq:
            for entry in self._tail.read(self._offered, ROUND_ENTRIES):
                fold.apply(entry)
            if self._told == fold.next_seq:
                raise RuntimeError(f"{self._tail.path} ends before entry {self._offered - 1}")
        while fold.problems:
            self._note(fold.problems.pop())
        assert fold.study_id is not None and fold.parent is not None, "a journal begins with study_started"
        if not self._connected:
            self._writer.connect(fold.study_id)
            self._connected = True
        for sheet in fold.pending():
            if self._abandoned.is_set():
                return
            self._writer.write(sheet, fold.parent)
            fold.told(sheet)
        self._told = fold.next_seq

    def _note(self, problem: str) -> None:
        if problem in self._problems or len(self._problems) < MAX_ERRORS:
            self._problems[problem] = self._problems.get(problem, 0) + 1

    def _pause(self, seconds: float) -> None:
        """Wait, but not in the way of a close: before it the close cuts the wait short, after it only troubles wait."""
        if self._closing.is_set():
            if self._trouble:
                self._abandoned.wait(seconds)
        else:
            self._closing.wait(seconds)


class JournalTail:
    """Reads the journal onwards from where it stopped, whole lines only, and never past what is known to be durable."""

    def __init__(self, path: Path):
        self.path = path
        self._offset_bytes = 0

    def rewind(self) -> None:
        self._offset_bytes = 0

    def read(self, end_seq: int, limit: int) -> list[Entry]:
        """At most `limit` entries with `seq` below `end_seq`."""
        entries: list[Entry] = []
        with open(self.path, "rb") as file:
            file.seek(self._offset_bytes)
            while len(entries) < limit and (line := file.readline()).endswith(b"\n"):
                entry = decode(line.decode("utf-8", "replace"))
                if entry.seq >= end_seq:
                    break
                entries.append(entry)
                self._offset_bytes += len(line)
        return entries


def default_tracking_uri(studies: Path) -> str:
    """A database beside the studies; their files go to `mlflow-artifacts` beside it."""
    return f"{_SQLITE}{studies.resolve() / 'mlflow.db'}"


def ui_command(tracking_uri: str, port: int = 5000) -> str:
    """The command that shows a study in a browser on this machine, or the address where a server shows it already."""
    if tracking_uri.startswith(("http://", "https://")):
        return f"open {masked(tracking_uri)}"
    program = f"{shlex.quote(sys.executable)} -m mlflow ui"
    return f"{program} --backend-store-uri {shlex.quote(masked(tracking_uri))} --host 127.0.0.1 --port {port}"


def _artifact_uri(tracking_uri: str, experiment: str) -> str | None:
    """With a SQLite file nobody else decides where files go, and MLflow's own default is the working directory."""
    if not tracking_uri.startswith(_SQLITE):
        return None
    folder = "".join(c if c.isalnum() or c in "._-" else "_" for c in experiment).lstrip(".") or "_"
    return (Path(tracking_uri.removeprefix(_SQLITE)).resolve().parent / "mlflow-artifacts" / folder).as_uri()


def _open(tracking_uri: str) -> Any:
    if tracking_uri.startswith(_SQLITE):
        set_up_mlflow()
        ensure_database(Path(tracking_uri.removeprefix(_SQLITE)))
    return mlflow_client(tracking_uri)
