"""A study that may grow, on a cluster to which a person adds a node: it begins on the one that is there and uses the other when it is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.grown import Grown, at_once, states
from tests.cluster.machines import Machines
from tune.core.journal import SessionStarted, Started

pytestmark = [pytest.mark.ray, pytest.mark.slow]

STUDY = """
study: {name: grown, seed: 3}
metric: {name: val/score, mode: max}
budget: {trials: 60}
cluster: {gpus_per_worker: 0, autoscale: {max_trials: 3, idle_s: 5}}
sampler: {kind: random}
trainable: {kind: curve, epochs: 8, step_seconds: 0.5}
space:
  lr: {float: [1e-5, 1e-1], log: true}
"""


@pytest.fixture(scope="module")
def machines() -> Iterator[Machines]:
    with Machines(workers=[1]) as started:
        yield started


def test_a_node_that_a_person_adds_is_used_by_a_study_that_may_grow_and_what_never_comes_stalls_nothing(
    machines: Machines, tmp_path: Path
) -> None:
    (tmp_path / "study.yaml").write_text(STUDY)
    planned = machines.run("plan", str(tmp_path / "study.yaml"), "--address", machines.address, timeout_s=240)
    assert "1 at a time: 1 CPU on 2 nodes hold 1 group of 1 worker x 1 CPU; as trials wait, up to 2 more are asked for" in planned.stdout
    with Grown(machines, STUDY, tmp_path) as grown:
        grown.until_reported()
        assert grown.until_noted("asked").slot == 1
        machines.add()
        new = grown.until_noted("grown").slot  # which of two rooms gets the node is Ray's affair
        grown.until_begun(new)
        grown.set_trials(n_trials := len(grown.begun()) + 4)  # there were many, so that the node could take its time
        assert grown.to_the_end() == 0, grown.said()
        past = grown.entries()
    assert len(grown.begun()) >= n_trials and states(past) == ["complete"] * len(grown.begun()) and at_once(past) == 2
    assert {e.event.slot for e in past if isinstance(e.event, Started)} == {0, new}
    assert [e.event.slots for e in past if isinstance(e.event, SessionStarted)] == [1]
    assert {new, grown.until_noted("withdrawn").slot} == {1, 2}, "nobody added a third node"
