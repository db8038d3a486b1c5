"""Three nodes with processes of their own: a study whose trials need two of them is submitted, and nothing that was finished is lost when
first a worker's node is killed in the middle of a trial and then the driver's. The studies that train are `three_nodes.py`'s."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.machines import Machines
from tests.cluster.three_nodes import Case, play

pytestmark = [pytest.mark.ray, pytest.mark.slow]

STUDY = """
study: {name: lost_node, seed: 3}
metric: {name: val/score, mode: max}
budget: {trials: 3}
cluster: {workers: 2, gpus_per_worker: 0}
sampler: {kind: random}
trainable: {kind: curve, epochs: 3, step_seconds: 1.0}
space:
  lr: {float: [1e-5, 1e-1], log: true}
"""


@pytest.fixture(scope="module")
def machines() -> Iterator[Machines]:
    with Machines(workers=[1, 1], resources='{"driver": 1, "accelerator_type:H100": 1}') as started:
        yield started


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder of a user: a study and nothing else."""
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "study.yaml").write_text(STUDY)
    return tmp_path / "project"


def test_a_cluster_that_wants_a_token_says_so(machines: Machines, project: Path) -> None:
    submit = ("submit", str(project / "study.yaml"), "--working-dir", str(project), "--address", machines.url, "--storage", "/x")
    without = {name: value for name, value in machines.environment.items() if name != "RAY_AUTH_TOKEN"} | {"HOME": str(project)}
    missing = machines.run(*submit, environment=without | {"RAY_AUTH_MODE": "disabled"})
    assert missing.returncode == 2 and "it asks for a token and got none" in missing.stderr and "RAY_AUTH_TOKEN" in missing.stderr
    wrong = machines.run(*submit, environment=machines.environment | {"RAY_AUTH_TOKEN": "0" * 64})
    assert wrong.returncode == 2 and "it does not take this token" in wrong.stderr


def test_a_sort_of_gpu_that_the_cluster_lacks_is_refused_with_what_it_has(machines: Machines, project: Path) -> None:
    (project / "t4.yaml").write_text(STUDY.replace("gpus_per_worker: 0", "gpus_per_worker: 1, accelerator: T4"))
    planned = machines.run("plan", str(project / "t4.yaml"), "--address", machines.url)
    assert "missing      cluster.accelerator\n    got: T4; the cluster has H100 on 2 nodes" in planned.stdout, planned.stderr
    assert "(H100), " in planned.stdout and "0 groups (a group needs T4, it has H100)" in planned.stdout


def test_no_finished_trial_is_lost_when_a_workers_node_and_then_the_drivers_are_killed(
    machines: Machines, project: Path, tmp_path: Path
) -> None:
    """The driver's node is replaced later than the next driver starts: that one waits for it."""
    case = Case(str(project / "study.yaml"), "phasetune submit", kills=True)
    row, past = play(machines, case, tmp_path / "kept", None, project, away_s=(1.0, 10.0))
    said = (tmp_path / "kept" / "said.txt").read_text()
    assert not row.broken, row.broken
    assert row.kept and len(row.killed) == 2 and past, row
    assert "the driver was lost" in said and "it is started again and resumes" in said
