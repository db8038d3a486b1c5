"""A node of a real cluster is drained in the middle of a trial: the trial leaves it with all its steps and goes on elsewhere."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from tests.chaos.driving import Run
from tests.chaos.nodes import Nodes
from tune.core.fold import StudyFold
from tune.core.journal import GroupNoted, Reported, Started

pytestmark = [pytest.mark.ray, pytest.mark.slow]
STUDY = """
study: {name: drained, seed: 3}
metric: {name: val/score, mode: max}
budget: {trials: 1}
cluster: {concurrency: 1, max_retries: 0}
sampler: {kind: random}
trainable: {kind: curve, epochs: 12, step_seconds: 1.0}
space:
  lr: {float: [1e-5, 1e-1], log: true}
"""


def test_a_trial_whose_node_is_drained_goes_on_elsewhere_repeats_no_step_and_needs_no_retry(tmp_path: Path) -> None:
    with Nodes(2) as nodes:
        run = Run(tmp_path, "drained", STUDY, ("--address", nodes.address), nodes.environment)
        try:
            run.start()
            assert run.until_true(lambda: any(isinstance(e.event, Reported) for e in run.entries()), "a report", 300)
            [pid] = [int(e.event.detail.removeprefix("pids ")) for e in run.entries() if isinstance(e.event, GroupNoted)]
            nodes.drain(nodes.node_with(psutil.Process(pid)), within_s=300)
            run.to_the_end(300)
        finally:
            run.clean_up()
    past = run.entries()
    assert [e.event.what for e in past if isinstance(e.event, GroupNoted)] == ["started", "preempted", "started"]
    [trial] = StudyFold.of(past).trials.values()
    assert (trial.state, trial.attempt, trial.moves, trial.retries) == ("complete", 2, 1, 0)
    again = next(i for i, e in enumerate(past) if isinstance(e.event, Started) and e.event.attempt == 2)
    before = [e.event.step for e in past[:again] if isinstance(e.event, Reported)]
    after = [e.event.step for e in past[again:] if isinstance(e.event, Reported)]
    assert 0 < len(before) < 12 and before + after == list(range(12))
