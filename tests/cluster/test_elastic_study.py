"""An elastic trial on real nodes: it loses a node, goes on with one worker, gets a node back, and learns what it would have learnt."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from tests.chaos.driving import Run
from tests.chaos.nodes import Nodes
from tune.core.fold import StudyFold
from tune.core.journal import GroupNoted, Reported
from tune.core.trial_view import TrialView

pytestmark = [pytest.mark.ray, pytest.mark.slow]
EPOCHS = 40
# A model without batch norm, whose running statistics are each worker's own; no dropout, no augmentation, both drawn for each worker.
STUDY = f"""
study: {{name: elastic, seed: 3}}
metric: {{name: val/loss, mode: min}}
budget: {{trials: 1}}
cluster: {{workers: 2, elastic: {{min_workers: 1, patience_s: 5}}, concurrency: 1, max_retries: 0}}
sampler: {{kind: random}}
trainable:
  kind: timm_cnn
  model: {{name: test_convnext, weights: none, drop: 0}}
  data: {{source: bundled, max_per_class: 12}}
  image_size: 160
  batch: 8
  epochs: {EPOCHS}
  augment: {{hflip: false}}
  baseline: false
  refit: null
space:
  optim.lr: {{float: [1e-4, 1e-3], log: true}}
"""


def notes(run: Run) -> list[GroupNoted]:
    return [entry.event for entry in run.entries() if isinstance(entry.event, GroupNoted)]


def reports(run: Run) -> list[Reported]:
    return [entry.event for entry in run.entries() if isinstance(entry.event, Reported)]


def pids(note: GroupNoted) -> list[int]:
    return [int(pid) for pid in note.detail.partition("pids ")[2].split(", ")]


def trial_of(run: Run) -> TrialView:
    [trial] = StudyFold.of(run.entries()).trials.values()
    return trial


def test_a_trial_whose_group_loses_a_node_and_gets_one_back_learns_the_same_and_repeats_no_step(tmp_path: Path) -> None:
    undisturbed = Run(tmp_path / "undisturbed", "elastic", STUDY, ("--foreground",))
    with Nodes(2) as nodes:
        run = Run(tmp_path / "lost", "elastic", STUDY, ("--address", nodes.address), nodes.environment)
        try:
            run.start()
            undisturbed.start()
            assert run.until_true(lambda: bool(reports(run)), "a report", 300)
            [whole] = notes(run)
            lost = nodes.node_with(psutil.Process(pids(whole)[1]))
            nodes.drain(lost, within_s=300)
            assert run.until_true(lambda: len(notes(run)) == 3, "one worker is at work", 240)
            nodes.kill_node(lost)
            nodes.add()
            run.to_the_end(600)
            undisturbed.to_the_end(600)
        finally:
            run.clean_up()
            undisturbed.clean_up()
    assert [(note.what, note.share) for note in notes(run)][::2] == [("started", 1.0), ("started", 0.5), ("started", 1.0)]
    assert [note.what for note in notes(run)][1::2] == ["preempted", "resized"]
    trial, same = trial_of(run), trial_of(undisturbed)
    assert (trial.state, trial.attempt, trial.moves, trial.retries) == ("complete", 3, 2, 0)
    assert [report.step for report in reports(run)] == list(range(EPOCHS))
    curves = [[metrics["val/loss"] for _, metrics in one.curve] for one in (trial, same)]
    assert curves[0] == pytest.approx(curves[1], rel=1e-3)
    assert max(curves[1]) > 1.05 * min(curves[1]), "it learnt something"
