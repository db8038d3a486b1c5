"""A study sent to a cluster of `Machines`, in one of the two ways; what its journal, its processes and MLflow say of it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import psutil

from tests.chaos.driving import Blow
from tests.cluster.machines import ROOT, Machines, until
from tune.core.journal import Ended, Entry, GroupNoted, Reported, Suggested, decode_all

Way = Literal["ray job submit", "phasetune submit"]
ENDS_WITHIN_S = 300.0
ON_A_WORKER_NODE = 0.5  # of the resource `driver`, which every worker node has once


class Sent:
    """A context manager that ends the client. `study`: a path in `working_dir`, which is sent; that of `ray job submit` must hold our code.
    `folder`: for its storage and for what the client prints."""

    def __init__(self, machines: Machines, study: str, way: Way, folder: Path, working_dir: Path = ROOT):
        self.way, self.storage = way, folder / "studies"
        self.storage.mkdir(parents=True)
        self._machines, self._study, self._working_dir = machines, study, working_dir
        self._said_in = folder / "said.txt"
        self._client: subprocess.Popen[bytes] | None = None
        self._began_at = time.time()

    def __enter__(self) -> Sent:
        return self

    def __exit__(self, *_: object) -> None:
        if self._client is not None:
            self._client.kill()
            self._client.wait()

    @property
    def database(self) -> str:
        """Where MLflow keeps its runs."""
        return f"sqlite:///{self.storage}/mlflow.db"

    # -- the job ---------------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Send it; once it has begun, send the command that resumes it."""
        begun = self._study_dir()
        words = ["run", self._study, "--storage", str(self.storage)] if begun is None else ["resume", str(begun)]
        resource = "driver"
        if self.way == "ray job submit":
            where = [
                "--working-dir",
                os.path.relpath(self._working_dir, ROOT),
                "--entrypoint-resources",
                f'{{"{resource}": {ON_A_WORKER_NODE}}}',
            ]
            command = ["ray", "job", "submit", "--address", self._machines.url, *where, "--", "python", "-m", "tune", *words]
            command += ["--address", "auto", "--json"]
        else:
            what = [self._study, "--storage", str(self.storage)] if begun is None else ["--resume", str(begun)]
            where = ["--working-dir", os.path.relpath(self._working_dir, ROOT), "--entry-resource", f"{resource}={ON_A_WORKER_NODE}"]
            command = ["python", "-m", "tune", "submit", *what, "--address", self._machines.url, *where, "--follow", "--json"]
        command[0] = str(Path(sys.executable).parent / command[0])
        with self._said_in.open("ab") as said:
            said.write(f"== {' '.join(command)}\n".encode())
            said.flush()
            self._client = subprocess.Popen(command, cwd=ROOT, env=self._machines.environment, stdout=said, stderr=said)

    def wait_for_the_job(self, timeout_s: float = ENDS_WITHIN_S) -> int:
        """The exit code of what sent it, which ends with the job."""
        assert self._client is not None
        try:
            return self._client.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the job did not end within {timeout_s:g} s: {self.said()[-1500:]}") from None

    def to_the_end(self) -> None:
        code = self.wait_for_the_job()
        if code != 0 or "Traceback (most recent call last)" in self.said():
            raise AssertionError(f"exit code {code}: {self.said()[-1500:]}")

    def said(self) -> str:
        """What the clients printed, and what the drivers did; Ray takes nodes of one IP address for each other when it hands logs on."""
        logs = [p for p in self._machines.folder.glob("*/session_*/logs/job-driver-*.log") if p.stat().st_mtime >= self._began_at]
        texts = [self._said_in, *sorted(logs, key=lambda path: path.stat().st_mtime)]
        return "\n".join(path.read_text(errors="replace") for path in texts)

    def driver(self) -> psutil.Process:
        """The process that searches."""
        drivers = [p for word in ("run", "resume") for p in self._machines.processes("-m", "tune", word)]
        if not drivers:
            raise AssertionError(f"no driver: {self.said()[-1500:]}")
        return drivers[-1]

    def nodes_of_group(self) -> list[int]:
        """The numbers of the worker nodes on which the workers of the last group are, rank by rank."""
        noted = [e.event.detail for e in self.entries() if isinstance(e.event, GroupNoted) and e.event.what == "started"]
        return [self._machines.node_with(psutil.Process(int(pid))) for pid in re.findall(r"\d+", noted[-1].removeprefix("pids "))]

    # -- the journal -----------------------------------------------------------------------------------------------------------

    def entries(self) -> list[Entry]:
        """Whole lines alone."""
        study_dir = self._study_dir()
        if study_dir is None:
            return []
        whole, _, _ = (study_dir / "journal.jsonl").read_bytes().rpartition(b"\n")
        return list(decode_all(whole.decode().splitlines()))

    def until_reported(self, n_ended: int) -> None:
        """Wait until so many trials have ended and another one is under way, between two of its steps."""

        def is_so() -> bool:
            past = self.entries()
            ended = {e.event.trial for e in past if isinstance(e.event, Ended)}
            open_reports = [e.event for e in past if isinstance(e.event, Reported) and e.event.trial not in ended and not e.event.stop]
            return len(ended) >= n_ended and bool(open_reports)

        assert self._client is not None
        client = self._client
        until(lambda: is_so() or client.poll() is not None, f"{n_ended} trials have ended and one reports", ENDS_WITHIN_S)
        if client.poll() is not None:
            raise AssertionError(f"the job ended before {n_ended} trials had and one was under way: {self.said()[-3000:]}")

    def blow(self, lasted_s: float) -> Blow:
        """A node is killed now."""
        return Blow(tuple(self.entries()), time.time(), lasted_s)

    def _study_dir(self) -> Path | None:
        found = [path.parent for path in self.storage.glob("*/journal.jsonl")]
        return found[0] if found else None


def right_in_mlflow(database: str, experiment: str, past: Sequence[Entry]) -> int:
    """Ended trials of a journal whose one run in MLflow is over and holds the point, the state and the last value of each metric."""
    from tune.adapters.mlflow_fold import TRIAL_TAG, mlflow_key, param_text
    from tune.adapters.mlflow_runs import mlflow_client

    client = mlflow_client(database)
    found = client.get_experiment_by_name(experiment)
    if found is None:
        return 0
    runs: dict[str, list] = {}
    for run in client.search_runs([found.experiment_id], max_results=1000):
        if TRIAL_TAG in run.data.tags:
            runs.setdefault(run.data.tags[TRIAL_TAG], []).append(run)
    points = {e.event.trial: e.event.point for e in past if isinstance(e.event, Suggested)}
    last: dict[str, dict[str, float]] = {}
    for entry in past:
        if isinstance(entry.event, Reported):
            last.setdefault(entry.event.trial, {}).update(entry.event.metrics)
    right = 0
    for event in (e.event for e in past if isinstance(e.event, Ended)):
        [run, *more] = runs.get(event.trial, [None])
        if run is None or more or run.info.status != "FINISHED":
            continue
        data = run.data
        right += (
            data.tags["phasetune.state"] == event.state
            and all(data.params.get(mlflow_key(key)) == param_text(value) for key, value in points[event.trial].items())
            and all(data.metrics.get(mlflow_key(key)) == value for key, value in last[event.trial].items())
        )
    return right
