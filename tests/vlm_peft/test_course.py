"""Steps, stretches and learning rates of a trial."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from trainables.progress import Progress
from trainables.vlm_peft.course import Course, Plan, is_over, lr_factor, pieces_of
from trainables.vlm_peft.spec import ScheduleSpec, VlmPeftSpec

pytestmark = pytest.mark.slow  # the course is told to a recipe's pieces, which import torch
GOOD: dict[str, Any] = {"model": {"name": "tiny:llava"}, "data": {"reader": "easy_vqa"}, "batch": 8}
ROWS = np.arange(100, 120, dtype=np.int64)


def pieces(steps: range, world_size: int = 1, accumulation: int = 1) -> list[list[Any]]:
    """Of each rank."""
    plan = Plan.of(VlmPeftSpec.model_validate(GOOD), len(ROWS))
    ranks = [SimpleNamespace(rank=rank, world_size=world_size, seed=3) for rank in range(world_size)]
    return [list(pieces_of(steps, plan, ROWS, 8, accumulation, rank)) for rank in ranks]


def test_an_epoch_has_every_row_once_and_the_next_another_order() -> None:
    (got,) = pieces(range(6))
    first, second = (np.concatenate([piece.rows for piece in got[i : i + 3]]) for i in (0, 3))
    assert sorted(first) == sorted(second) == ROWS.tolist() and first.tolist() != second.tolist()


def test_a_stretch_that_begins_in_the_middle_goes_on_with_the_same_rows() -> None:
    (whole,) = pieces(range(6))
    (part,) = pieces(range(2, 5))
    assert [piece.rows.tolist() for piece in part] == [piece.rows.tolist() for piece in whole[2:5]]


@pytest.mark.parametrize(("world_size", "accumulation"), [(1, 8), (2, 2), (2, 4), (3, 1)])
def test_the_rows_of_a_step_do_not_depend_on_workers_or_accumulation(world_size: int, accumulation: int) -> None:
    (alone,) = pieces(range(3))
    ranks = pieces(range(3), world_size, accumulation)
    assert {len(rank) for rank in ranks} == {3 * accumulation}
    for step in range(3):
        rows = [row for rank in ranks for piece in rank if piece.step == step and piece.counts for row in piece.rows]
        assert sorted(rows) == sorted(alone[step].rows)


def test_a_rank_without_rows_computes_along_and_counts_for_nothing() -> None:
    ranks = pieces(range(2, 3), world_size=2, accumulation=4)  # four rows for eight pieces
    assert sum(piece.counts for rank in ranks for piece in rank) == 4
    assert all(len(piece.rows) == 1 for rank in ranks for piece in rank)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["cosine", "linear", "constant"])
def test_the_learning_rate_is_that_of_transformers_scheduler(kind: str) -> None:
    import torch

    from trainables.torchvision_ops import ensure_torchvision_ops

    ensure_torchvision_ops()
    from transformers import get_scheduler

    name = {"constant": "constant_with_warmup"}.get(kind, kind)
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    theirs = get_scheduler(name, optimizer, num_warmup_steps=2, num_training_steps=20)
    for step in range(20):
        assert lr_factor(step, 20, ScheduleSpec(kind=kind, warmup_share=0.1)) == pytest.approx(theirs.get_last_lr()[0])
        optimizer.step()
        theirs.step()


def test_reports_stand_after_epochs_or_after_so_many_steps() -> None:
    by_epoch = Plan.of(VlmPeftSpec.model_validate(GOOD), 20)
    assert (by_epoch.total_steps, by_epoch.n_reports, by_epoch.stretch(1)) == (9, 3, range(3, 6))
    spec = VlmPeftSpec.model_validate({**GOOD, "report": "evaluation", "steps": 7, "eval_every_steps": 4})
    by_steps = Plan.of(spec, 20)
    assert (by_steps.total_steps, by_steps.n_reports, by_steps.stretch(1)) == (7, 2, range(4, 7))


def test_early_stopping_ends_a_trial() -> None:
    spec = VlmPeftSpec.model_validate({**GOOD, "early_stop": {"patience": 2}})
    plan = Plan.of(spec, 20)
    assert not is_over(Progress(epochs_done=2, waited=1), plan, spec)
    assert is_over(Progress(epochs_done=2, waited=2), plan, spec) and is_over(Progress(epochs_done=3), plan, spec)


def test_a_course_survives_json() -> None:
    course = Course(Progress(epochs_done=2, best_epoch=1, best={"val/loss": 1.5}), 77, {"old": 0.5})
    assert Course.from_json(json.loads(json.dumps(course.to_json()))) == course
