"""Three nodes with processes of their own: a study is submitted, the node of its driver is killed, nothing that was finished is lost."""

from __future__ import annotations

import collections
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.machines import ROOT, Machines, until

pytestmark = [pytest.mark.ray, pytest.mark.slow]

STUDY = """
study: {name: lost_node, seed: 3}
metric: {name: val/score, mode: max}
budget: {trials: 6}
cluster: {concurrency: 1}
sampler: {kind: random}
trainable: {kind: curve, epochs: 3, step_seconds: 0.25}
space:
  lr: {float: [1e-5, 1e-1], log: true}
"""


@pytest.fixture(scope="module")
def machines() -> Iterator[Machines]:
    with Machines(workers=[1, 1], resources='{"driver": 1}') as started:
        yield started


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder of a user: a study and nothing else."""
    (tmp_path / "study.yaml").write_text(STUDY)
    return tmp_path


def events(storage: Path) -> list[dict[str, Any]]:
    [study_dir] = list(storage.glob("lost_node-*")) or [None]
    journal = None if study_dir is None else study_dir / "journal.jsonl"
    if journal is None or not journal.exists():
        return []
    whole, _, _ = journal.read_text().rpartition("\n")
    return [json.loads(line) for line in whole.splitlines()]


def finished(storage: Path) -> dict[str, dict[str, Any]]:
    """Trial -> the event of its end."""
    return {event["trial"]: event for event in events(storage) if event["type"] == "ended"}


def test_a_cluster_that_wants_a_token_says_so(machines: Machines, project: Path) -> None:
    submit = ("submit", str(project / "study.yaml"), "--working-dir", str(project), "--address", machines.url, "--storage", "/x")
    without = {name: value for name, value in machines.environment.items() if name != "RAY_AUTH_TOKEN"} | {"HOME": str(project)}
    missing = machines.run(*submit, environment=without | {"RAY_AUTH_MODE": "disabled"})
    assert missing.returncode == 2 and "it asks for a token and got none" in missing.stderr and "RAY_AUTH_TOKEN" in missing.stderr
    wrong = machines.run(*submit, environment=machines.environment | {"RAY_AUTH_TOKEN": "0" * 64})
    assert wrong.returncode == 2 and "it does not take this token" in wrong.stderr


def test_no_finished_trial_is_lost_when_the_node_of_the_driver_is_killed(machines: Machines, project: Path) -> None:
    storage = project / "storage"
    submit = ["submit", str(project / "study.yaml"), "--working-dir", str(project), "--address", machines.url, "--storage", str(storage)]
    submit += ["--entry-resource", "driver=0.5", "--follow", "--json"]
    with (project / "followed").open("w") as said:
        following = subprocess.Popen(
            [sys.executable, "-m", "tune", *submit], cwd=ROOT, env=machines.environment, stdout=said, stderr=subprocess.STDOUT
        )
    try:
        until(lambda: len(finished(storage)) >= 2 or following.poll() is not None, "two trials are finished", 120)
        assert following.poll() is None, (project / "followed").read_text()[-3000:]
        [driver] = machines.processes("-m", "tune", "run")
        machines.kill_node(machines.node_with(driver))
        before = finished(storage)
        assert len(before) < 6, "the node was killed in the middle"
        assert following.wait(120) == 0, (project / "followed").read_text()[-3000:]
    finally:
        following.kill()
        following.wait()
    after = finished(storage)
    assert len(after) == 6 and {trial: after[trial] for trial in before} == before
    ends = collections.Counter(event["trial"] for event in events(storage) if event["type"] == "ended")
    assert set(ends.values()) == {1}, "a trial ended twice"
    text = (project / "followed").read_text()
    assert "the driver was lost" in text and "it is started again and resumes" in text
    summary = json.loads(text.splitlines()[-1])
    assert summary["exit_code"] == 0 and summary["job"].startswith("lost_node-")
