"""A real `mlflow server` on loopback that can be killed, paused and started again, and a picture of all that it holds."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

# The last of them: no job runners beside the server.
QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


class MlflowServer:
    """`with MlflowServer(folder) as server:` serves `folder/server.db` at `server.uri`. The port stays over restarts."""

    def __init__(self, folder: Path, backend_uri: str | None = None, wait_s: float = 90):
        self.folder, self.wait_s = folder, wait_s
        self.backend_uri = backend_uri or f"sqlite:///{folder / 'server.db'}"
        # Bound and not listening, as long as this object lives: the kernel gives the port to nobody else who asks for any.
        self._held = socket.socket()
        self._held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._held.bind(("127.0.0.1", 0))
        self.port = self._held.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", self.backend_uri]
        command += ["--artifacts-destination", str(self.folder / "artifacts"), "--host", "127.0.0.1", "--port", str(self.port)]
        log = open(self.folder / "server.log", "ab")  # noqa: SIM115 - the process keeps it
        self._process = subprocess.Popen(
            [*command, "--workers", "1"], stdout=log, stderr=log, env=os.environ | QUIET, start_new_session=True, cwd=self.folder
        )
        deadline = time.monotonic() + self.wait_s
        while time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(self.uri + "/health", timeout=2) as answer:
                    if answer.status == 200:
                        return
            except (urllib.error.URLError, OSError):
                assert self._process.poll() is None, (self.folder / "server.log").read_text()[-2000:]
                time.sleep(0.1)
        raise AssertionError("mlflow server did not come up: " + (self.folder / "server.log").read_text()[-2000:])

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        os.killpg(self._process.pid, number)

    def kill(self) -> None:
        if self._process is not None:
            self.signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def __enter__(self) -> MlflowServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._held.close()


def client_of(uri: str) -> Any:
    """A client for the test's own questions."""
    from tune.adapters.mlflow_runs import mlflow_client

    return mlflow_client(uri)


def picture(uri: str, experiment: str) -> dict[str, Any]:
    """All live runs of an experiment by trial (`""` is the study), without ids and places. Fails if a trial has two."""
    client = client_of(uri)
    found = client.get_experiment_by_name(experiment)
    runs: dict[str, Any] = {}
    pages = client.search_runs([found.experiment_id], max_results=1000)
    parents = {run.info.run_id: run.data.tags.get("phasetune.trial", "") for run in pages}
    for run in pages:
        trial = parents[run.info.run_id]
        assert trial not in runs, f"two runs for '{trial}'"
        tags = {key: value for key, value in run.data.tags.items() if key != "mlflow.user"}
        if "mlflow.parentRunId" in tags:
            tags["mlflow.parentRunId"] = f"the run of '{parents[tags['mlflow.parentRunId']]}'"
        runs[trial] = {
            "status": run.info.status,
            "times": (run.info.start_time, run.info.end_time),
            "name": run.info.run_name,
            "tags": tags,
            "params": dict(run.data.params),
            "metrics": {
                key: sorted((m.step, m.value, m.timestamp) for m in client.get_metric_history(run.info.run_id, key))
                for key in run.data.metrics
            },
            "files": _files(client, run.info.run_id, None),
        }
    return runs


def _files(client: Any, run_id: str, folder: str | None) -> dict[str, int]:
    files: dict[str, int] = {}
    for item in client.list_artifacts(run_id, folder):
        files |= _files(client, run_id, item.path) if item.is_dir else {item.path: item.file_size}
    return files
