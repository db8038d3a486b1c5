"""The real program on a local Ray: a study with a crashing worker, kill -9 of the driver, and a clean end."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import psutil
import pytest

from tests.session.driver import entries, fold, kill_at, phasetune, write_study
from tests.session.test_kill_and_resume import mlflow_trials
from tune.core.journal import Ended, Retried, Started

pytestmark = [pytest.mark.ray, pytest.mark.slow]


STUDY = """
study: {name: curve, seed: 42}
metric: {name: val/score, mode: max}
budget: {trials: 3}
cluster: {concurrency: 1, max_retries: 1}
scheduler: {kind: none}
trainable: {kind: curve, epochs: 6, step_seconds: 0.3}
space:
  lr: {float: [1e-4, 1.0], log: true}
  crash_at_step: {choice: [null, 1]}
  crashes: {choice: [1, 9]}
first: [{crash_at_step: 1, crashes: 9}, {crash_at_step: 1, crashes: 1}, {crash_at_step: null}]
"""


def ray_processes() -> set[int]:
    """Processes of any Ray on this machine."""
    found = set()
    for process in psutil.process_iter(["pid", "cmdline"]):
        words = " ".join(process.info["cmdline"] or [])
        if "raylet" in words or "gcs_server" in words:
            found.add(process.info["pid"])
    return found


def test_crashed_workers_are_retried_or_fail_by_name_and_a_killed_driver_resumes_the_rest(tmp_path: Path) -> None:
    before = ray_processes()
    study, storage = write_study(tmp_path, STUDY), tmp_path / "studies"
    journal = storage / "curve-1" / "journal.jsonl"
    kill_at(24, journal, "run", study, "--storage", storage, timeout_s=400)  # the second trial's second attempt has reported
    deadline = time.monotonic() + 120
    while ray_processes() - before and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not ray_processes() - before, "the killed driver's Ray stayed"
    done = phasetune("resume", journal.parent, "--json", timeout_s=600)
    assert done.code == 0, done.err
    view = fold(journal.parent)
    ends = {e.event.trial: e.event for e in entries(journal.parent) if isinstance(e.event, Ended)}
    assert ends["t0000"].state == "failed" and ends["t0000"].reason == "worker_lost"
    assert ends["t0001"].state == ends["t0002"].state == "complete" and not view.running
    retried = [e.event for e in entries(journal.parent) if isinstance(e.event, Retried)]
    assert [event.trial for event in retried] == ["t0000", "t0001"] and {event.reason for event in retried} == {"worker_lost"}
    starts = [e.event for e in entries(journal.parent) if isinstance(e.event, Started) and e.event.trial == "t0001"]
    assert len(starts) == 3 and starts[1].after_step == 0 and (starts[2].after_step or 0) >= 1
    assert mlflow_trials(storage) == Counter(dict.fromkeys(view.trials, 1))
