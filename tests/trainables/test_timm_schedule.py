"""Learning rate, early stopping and the kept epoch, against torch's own schedulers."""

from __future__ import annotations

import json

import pytest

from trainables.progress import Progress
from trainables.timm_cnn.schedule import after_epoch, is_over, lr_factor
from trainables.timm_cnn.spec import TimmCnnSpec

LOSSES = [1.0, 0.8, 0.9, 0.85, 0.7, 0.75, 0.9, 0.8, 0.95]
ACCURACIES = [0.3, 0.5, 0.5, 0.5, 0.6, 0.6, 0.55, 0.6, 0.6]


def spec(**fields: object) -> TimmCnnSpec:
    return TimmCnnSpec.model_validate({"epochs": len(LOSSES), **fields})


def walk(settings: TimmCnnSpec) -> list[Progress]:
    found = [Progress()]
    for loss, accuracy in zip(LOSSES, ACCURACIES, strict=True):
        if is_over(found[-1], settings):
            break
        found.append(after_epoch(found[-1], {"val/loss": loss, "val/accuracy": accuracy}, settings))
    return found


def test_early_stopping_counts_epochs_without_a_new_best() -> None:
    assert len(walk(spec(early_stop={"patience": 2}))) - 1 == 4  # best after epoch 1, then two worse
    assert len(walk(spec(early_stop={"patience": 3}))) - 1 == 8


def test_without_early_stopping_the_last_epoch_ends_the_trial() -> None:
    assert walk(spec())[-1].epochs_done == len(LOSSES)


def test_the_kept_epoch_is_the_first_of_lowest_validation_loss() -> None:
    assert walk(spec())[-1].best_epoch == 4


def test_early_stopping_can_watch_a_metric_that_rises() -> None:
    assert len(walk(spec(early_stop={"patience": 2, "metric": "val/accuracy"}))) - 1 == 4


def test_progress_survives_json() -> None:
    last = walk(spec(schedule={"kind": "plateau"}))[-1]
    assert Progress.from_json(json.loads(json.dumps(last.to_json()))) == last


@pytest.mark.slow
@pytest.mark.parametrize("patience", [0, 1, 2])
def test_plateau_equals_torchs_scheduler(patience: int) -> None:
    import torch

    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode="max", patience=patience, factor=0.1)
    settings, expected = spec(schedule={"kind": "plateau", "patience": patience, "factor": 0.1}), [1.0]
    for accuracy in ACCURACIES:
        theirs.step(accuracy)
        expected.append(optimizer.param_groups[0]["lr"])
    assert [lr_factor(progress, settings) for progress in walk(settings)] == pytest.approx(expected)


@pytest.mark.slow
def test_cosine_equals_torchs_scheduler() -> None:
    import torch

    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=50, eta_min=0.01)
    settings, expected = spec(epochs=50, schedule={"kind": "cosine", "eta_min_factor": 0.01}), []
    for _ in range(50):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        theirs.step()
    assert [lr_factor(Progress(epochs_done=epoch), settings) for epoch in range(50)] == pytest.approx(expected)
