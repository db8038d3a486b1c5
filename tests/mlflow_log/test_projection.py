"""The projection against MLflow itself: a database, and a real server that is killed, restarted and paused in the middle."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.mlflow_log.made_study import LONG_KEY, METRIC, entries, made_study, write_study
from tests.mlflow_log.server import QUIET, MlflowServer, client_of, picture
from tune.adapters.mlflow_fold import STUDY_TAG
from tune.adapters.mlflow_log import MlflowProjection, ProjectionReport
from tune.core.journal import Entry

pytestmark = pytest.mark.slow
JOURNAL = entries(made_study(seed=1, n_trials=8, n_steps=9))
ENOUGH_S = 120


@pytest.fixture(scope="module")
def study_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    write_study(folder, JOURNAL)
    return folder


@pytest.fixture(scope="module")
def blank_db(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated, empty database to copy, because making one takes seconds."""
    path = tmp_path_factory.mktemp("blank") / "mlflow.db"
    client_of(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def db(blank_db: Path, tmp_path: Path) -> str:
    shutil.copy(blank_db, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, blank_db: Path) -> Iterator[MlflowServer]:
    folder = tmp_path_factory.mktemp("server")
    shutil.copy(blank_db, folder / "server.db")
    with MlflowServer(folder) as running:
        yield running


@pytest.fixture(scope="module")
def whole(study_dir: Path, blank_db: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What an uninterrupted projection leaves."""
    folder = tmp_path_factory.mktemp("whole")
    shutil.copy(blank_db, folder / "mlflow.db")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    assert project(study_dir, uri, "x").behind == 0
    return picture(uri, "x")


def project(study_dir: Path, uri: str, experiment: str, journal: list[Entry] = JOURNAL, **options: Any) -> ProjectionReport:
    projection = MlflowProjection(study_dir, uri, experiment, **options)
    projection.start()
    for entry in journal:
        projection.offer(entry)
    return projection.close(ENOUGH_S)


class Mortal:
    """A client whose process dies at its `last`-th call: before the call's effect, or after it but before the answer."""

    def __init__(self, uri: str, last: int, after: bool):
        self._client, self._left, self._after = client_of(uri), last, after
        self.dead = threading.Event()

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)

        def call(*args: Any) -> Any:
            self._left -= 1
            if self._left > 0 and not self.dead.is_set():
                return method(*args)
            if self._left == 0 and self._after:
                method(*args)
            self.dead.set()
            raise ConnectionError("killed")

        return call


def test_a_whole_study_stands_in_mlflow_as_one_parent_and_a_child_for_each_trial(whole: dict[str, Any]) -> None:
    assert set(whole) == {"", "baseline", *(f"t{i:04d}" for i in range(8))}
    parent, child = whole[""], whole["t0001"]
    assert parent["status"] == "FINISHED" and parent["params"]["trainable.optim.lr"] == "0.0003"
    assert {"resolved.json", "environment.json", "data.json"} <= set(parent["files"])
    assert parent["tags"]["phasetune.data_digest"] == "feedf00d" and "best:" in parent["tags"]["mlflow.note.content"]
    assert [step for step, *_ in parent["metrics"][f"best/{METRIC}"]] == list(range(8))
    assert child["tags"]["mlflow.parentRunId"] == "the run of ''" and child["tags"]["phasetune.commit"] == "0123abc"
    assert len(child["metrics"][METRIC]) == 9 and "test/accuracy" in child["metrics"] and "cost/gpu_seconds" in child["metrics"]
    assert {"confusion.json", "plots/curves.csv", "parameters.json"} <= set(child["files"])
    assert LONG_KEY not in child["params"] and len(child["params"]) == 4
    assert {whole[t]["status"] for t in whole} == {"FINISHED", "FAILED"}
    assert whole["t0004"]["tags"]["phasetune.reason"] == "not_finite"


def test_a_file_that_is_not_there_is_named_and_harms_nothing(study_dir: Path, db: str) -> None:
    report = project(study_dir, db, "x")
    assert report == ProjectionReport(0, ("t0007: the file gone.txt is not there; left out",))


def test_a_projection_killed_at_any_call_and_replayed_leaves_equal_runs(study_dir: Path, db: str, whole: dict[str, Any]) -> None:
    rng = random.Random(7)
    for i, last in enumerate([2, 3, 4, *rng.sample(range(5, 45), 7)]):
        for after in (False, True):
            experiment = f"killed {i} {after}"
            mortals: list[Mortal] = []

            def open_mortal(last: int = last, after: bool = after, mortals: list[Mortal] = mortals) -> Mortal:
                mortals.append(Mortal(db, last, after))
                return mortals[-1]

            projection = MlflowProjection(study_dir, db, experiment, open_client=open_mortal, interval_s=0)
            projection.start()
            projection.offer(JOURNAL[rng.randrange(20, len(JOURNAL))])
            while not mortals:
                time.sleep(0.001)
            _wait_until(lambda: mortals[0].dead.is_set() or projection.behind == 0)  # noqa: B023
            projection.close(timeout_s=0)
            assert project(study_dir, db, experiment).behind == 0
            assert picture(db, experiment) == whole, f"killed at call {last}, {'after' if after else 'before'} its effect"


def test_a_study_told_in_pieces_and_told_again_is_the_same_study(study_dir: Path, db: str, whole: dict[str, Any]) -> None:
    for end in (40, 90, len(JOURNAL), len(JOURNAL)):
        assert project(study_dir, db, "x", JOURNAL[:end]).behind == 0
    assert picture(db, "x") == whole


def test_a_server_killed_and_restarted_in_the_middle_ends_with_the_same_runs(
    study_dir: Path, server: MlflowServer, whole: dict[str, Any]
) -> None:
    projection = MlflowProjection(study_dir, server.uri, "restarted", interval_s=0)
    projection.start()
    for i, entry in enumerate(JOURNAL):
        if i == 60:
            _wait_until(lambda: projection.behind < 60)
            server.kill()
        if i == 100:
            _wait_until(lambda: bool(projection.trouble))
        projection.offer(entry)
    assert projection.behind > 0
    server.start()
    report = projection.close(ENOUGH_S)
    assert report.behind == 0 and picture(server.uri, "restarted") == whole


def test_a_hung_server_holds_up_neither_offers_nor_the_close(study_dir: Path, server: MlflowServer, whole: dict[str, Any]) -> None:
    projection = MlflowProjection(study_dir, server.uri, "hung", interval_s=0)
    projection.start()
    projection.offer(JOURNAL[30])
    _wait_until(lambda: projection.behind == 0)
    server.signal(signal.SIGSTOP)
    try:
        began = time.monotonic()
        for entry in JOURNAL:
            projection.offer(entry)
        report = projection.close(timeout_s=1)
        assert time.monotonic() - began < 30 and report.behind > 0
    finally:
        server.signal(signal.SIGCONT)
    assert project(study_dir, server.uri, "hung").behind == 0  # the resume
    assert picture(server.uri, "hung") == whole


def test_a_driver_killed_with_sigkill_and_resumed_makes_no_second_run(study_dir: Path, server: MlflowServer, whole: dict[str, Any]) -> None:
    code = (
        "import sys; from pathlib import Path; from tune.adapters.mlflow_log import *; from tune.core.journal import decode\n"
        "p = MlflowProjection(Path(sys.argv[1]), sys.argv[2], 'sigkill', interval_s=0); p.start()\n"
        "[p.offer(decode(line)) for line in open(sys.argv[1] + '/journal.jsonl')]; print(p.close(600))"
    )
    client = client_of(server.uri)
    for wanted in (2, 6):
        driver = subprocess.Popen([sys.executable, "-c", code, str(study_dir), server.uri], env=os.environ | QUIET)
        _wait_until(lambda wanted=wanted: _count(client, "sigkill") >= wanted)  # type: ignore[misc]
        driver.kill()
        driver.wait()
    assert project(study_dir, server.uri, "sigkill").behind == 0
    assert picture(server.uri, "sigkill") == whole


def test_a_server_that_lost_its_database_is_told_all_again(study_dir: Path, db: str, whole: dict[str, Any]) -> None:
    projection = MlflowProjection(study_dir, db, "x", interval_s=0)
    projection.start()
    projection.offer(JOURNAL[60])
    _wait_until(lambda: projection.behind == 0)
    client = client_of(db)
    experiment_id = client.get_experiment_by_name("x").experiment_id
    store = client._tracking_client.store
    for run in client.search_runs([experiment_id]):
        client.delete_run(run.info.run_id)
        store._hard_delete_run(run.info.run_id)
    projection.offer(JOURNAL[-1])
    assert projection.close(ENOUGH_S).behind == 0
    assert picture(db, "x") == whole


def test_a_refused_value_is_left_out_by_name_and_all_others_arrive(study_dir: Path, db: str, whole: dict[str, Any]) -> None:
    assert project(study_dir, db, "x", JOURNAL[:8]).behind == 0  # up to the baseline's end
    client = client_of(db)
    (parent,) = client.search_runs([client.get_experiment_by_name("x").experiment_id], "tags.`phasetune.role` = 'study'")
    study = parent.data.tags[STUDY_TAG]
    tags = {STUDY_TAG: study, "phasetune.trial": "t0000", "mlflow.parentRunId": parent.info.run_id}
    run = client.create_run(parent.info.experiment_id, whole["t0000"]["times"][0], tags, whole["t0000"]["name"])
    client.log_param(run.info.run_id, "batch", "another value")  # MLflow refuses to change a parameter
    report = project(study_dir, db, "x")
    refused = [error for error in report.errors if error.startswith("t0000")]
    assert report.behind == 0 and len(refused) == 1 and "batch = 8 was refused and left out" in refused[0]
    told = picture(db, "x")["t0000"]
    assert told["params"] == whole["t0000"]["params"] | {"batch": "another value"}
    assert told["metrics"] == whole["t0000"]["metrics"]


def test_a_trial_that_a_person_deleted_in_mlflow_stays_deleted(study_dir: Path, db: str) -> None:
    assert project(study_dir, db, "x", JOURNAL[:60]).behind == 0
    client = client_of(db)
    experiment_id = client.get_experiment_by_name("x").experiment_id
    (run,) = client.search_runs([experiment_id], "tags.`phasetune.trial` = 't0001'")
    client.delete_run(run.info.run_id)
    assert project(study_dir, db, "x").behind == 0
    assert "t0001" not in picture(db, "x")


def test_a_projection_says_nothing_on_the_terminal(study_dir: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from tune.adapters.mlflow_log import *; from tune.core.journal import decode\n"
        "p = MlflowProjection(Path(sys.argv[1]), sys.argv[2], 'quiet'); p.start()\n"
        "[p.offer(decode(line)) for line in open(sys.argv[1] + '/journal.jsonl')]; assert p.close(600).behind == 0"
    )
    uri = f"sqlite:///{tmp_path / 'new' / 'mlflow.db'}"
    done = subprocess.run([sys.executable, "-c", code, str(study_dir), uri], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (tmp_path / "new" / "mlflow-artifacts" / "quiet").is_dir()


def test_a_disk_that_is_full_is_told_of_once_and_not_by_tracebacks(study_dir: Path, tmp_path: Path) -> None:
    code = (
        "import resource, sys, time; from pathlib import Path\n"
        "from tune.adapters.mlflow_log import *; from tune.core.journal import decode\n"
        "p = MlflowProjection(Path(sys.argv[1]), sys.argv[2], 'full'); p.start()\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), resource.RLIM_INFINITY))\n"
        "[p.offer(decode(line)) for line in open(sys.argv[1] + '/journal.jsonl')]\n"
        "while not p.trouble: time.sleep(0.01)\n"
        "print(*p.close(1).errors)"
    )
    database = tmp_path / "mlflow.db"
    client_of(f"sqlite:///{database}")
    size = str(database.stat().st_size)
    done = subprocess.run(
        [sys.executable, "-c", code, str(study_dir), f"sqlite:///{database}", size], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("MLflow cannot be told: ")


def _wait_until(condition: Any) -> None:
    deadline = time.monotonic() + ENOUGH_S
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.01)


def _count(client: Any, experiment: str) -> int:
    found = client.get_experiment_by_name(experiment)
    return 0 if found is None else len(client.search_runs([found.experiment_id]))
