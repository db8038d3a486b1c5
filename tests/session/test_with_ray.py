"""The real program on a local Ray: a study with a crashing worker, kill -9 of the driver, and a clean end."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import psutil
import pytest

from tests.session.driver import CURVE, entries, fold, kill_at, phasetune, write_study
from tests.session.test_kill_and_resume import mlflow_trials
from tune.core.journal import Ended, Retried

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def ray_processes() -> set[int]:
    """Processes of any Ray on this machine."""
    found = set()
    for process in psutil.process_iter(["pid", "cmdline"]):
        words = " ".join(process.info["cmdline"] or [])
        if "raylet" in words or "gcs_server" in words:
            found.add(process.info["pid"])
    return found


def test_a_crashed_worker_is_retried_from_its_checkpoint_and_a_killed_driver_resumes_the_rest(tmp_path: Path) -> None:
    before = ray_processes()
    text = CURVE.replace("epochs: 12", "epochs: 12, crash_at_step: 2").replace("trials: 10", "trials: 4").replace("0.01", "0.05")
    study, storage = write_study(tmp_path, text), tmp_path / "studies"
    journal = storage / "curve-1" / "journal.jsonl"
    kill_at(30, journal, "run", study, "--storage", storage)
    deadline = time.monotonic() + 60
    while ray_processes() - before and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not ray_processes() - before, "the killed driver's Ray stayed"
    done = phasetune("resume", journal.parent, "--json", timeout_s=300)
    assert done.code == 0, done.err
    view = fold(journal.parent)
    assert len(view.trials) == 4 and not view.running and view.count("failed") == 0
    retried = [e.event for e in entries(journal.parent) if isinstance(e.event, Retried)]
    assert retried and {event.reason for event in retried} == {"worker_lost"}
    assert mlflow_trials(storage) == Counter(dict.fromkeys(view.trials, 1))


def test_a_worker_that_always_crashes_fails_by_name_and_the_others_go_on(tmp_path: Path) -> None:
    text = CURVE.replace("epochs: 12", "epochs: 4, crashes: 9").replace("trials: 10", "trials: 2")
    text = text.replace("scheduler: {kind: asha, grace: 2, factor: 2}", "scheduler: {kind: none}\ncluster: {max_retries: 1}")
    text = text.replace("depth: {int: [1, 10]}", "crash_at_step: {choice: [null, 1]}")
    text += "first: [{crash_at_step: 1, lr: 0.01}, {crash_at_step: null, lr: 0.01}]\n"
    done = phasetune("run", write_study(tmp_path, text), "--storage", tmp_path / "studies", "--json", timeout_s=300)
    assert done.code == 0, done.err
    ends = {e.event.trial: e.event for e in entries(Path(done.summary["dir"])) if isinstance(e.event, Ended)}
    assert ends["t0000"].state == "failed" and ends["t0000"].reason == "worker_lost"
    assert ends["t0001"].state == "complete"
