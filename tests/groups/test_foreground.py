"""A trial in this process: same messages as from a group, and every way to end has a name."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.groups.recipes import order_of
from trainables.adapters import checkpoint
from trainables.adapters.attempt import end_of, run_in_foreground
from trainables.adapters.order import End
from tune.core.errors import Problem, RetryTrial, StopStudy, UserError
from tune.core.ports import Decision

pytestmark = pytest.mark.slow


def go_on(step: int, metrics: dict[str, float]) -> Decision:
    return "continue"


def run(tmp_path: Path, recipe: str, on_report: Callable[[int, dict[str, float]], Decision] = go_on, **spec: object) -> tuple:
    return run_in_foreground(order_of(tmp_path, "t0000", recipe, **spec), on_report)


def test_reports_reach_the_caller_in_order_and_the_outcome_comes_last(tmp_path: Path):
    seen: list[tuple[int, dict[str, float]]] = []

    def on_report(step: int, metrics: dict[str, float]) -> Decision:
        seen.append((step, metrics))
        return "continue"

    kind, metrics, files = run(tmp_path, "steps", on_report, epochs=2)
    assert seen == [(0, {"val/score": 0.0}), (1, {"val/score": 0.5})]
    assert (kind, metrics, files) == ("done", {"val/score": 1.0}, {"started_at": "0"})


def test_stop_ends_the_recipe_at_that_step(tmp_path: Path):
    kind, metrics, files = run(tmp_path, "steps", lambda step, _: "stop" if step == 1 else "continue", epochs=4)
    assert (kind, metrics, files) == ("done", {"val/score": 0.25}, {"stopped": "here"})


def test_a_second_attempt_repeats_the_last_report_and_goes_on_after_it(tmp_path: Path):
    class CutOff(Exception):
        pass

    def cut_at_1(step: int, metrics: dict[str, float]) -> Decision:
        if step == 1:
            raise CutOff
        return "continue"

    with pytest.raises(CutOff):
        run(tmp_path, "steps", cut_at_1, epochs=3)
    steps: list[int] = []
    _, _, files = run(tmp_path, "steps", lambda step, _: (steps.append(step), "continue")[1], epochs=3)
    assert steps == [1, 2]
    assert files == {"started_at": "2"}


def test_a_stop_that_the_recipe_never_heard_ends_the_second_attempt_at_once(tmp_path: Path):
    run(tmp_path, "steps", lambda step, _: "stop" if step == 1 else "continue", epochs=9)
    steps: list[int] = []
    message = run(tmp_path, "steps", lambda step, _: (steps.append(step), "stop")[1], epochs=9)
    assert steps == [1]
    assert message[:3] == ("done", {}, {})


def test_trouble_of_the_search_is_not_blamed_on_the_trial(tmp_path: Path):
    def on_report(step: int, metrics: dict[str, float]) -> Decision:
        raise StopStudy("disk_full", "the journal cannot grow", "make room")

    with pytest.raises(StopStudy, match="the journal cannot grow"):
        run(tmp_path, "steps", on_report)


@pytest.mark.parametrize(
    ("recipe", "kind", "reason", "words"),
    [
        ("raises", "failed", "value_error", "ValueError: seven is not a colour (recipes.py:"),
        ("calls_sys_exit", "failed", "exited", "the recipe called sys.exit(4) (recipes.py:"),
        ("reports_nan", "failed", "not_finite", "reported val/loss = nan"),
        ("asks_to_retry", "retry", "hub_unreachable", "try again later"),
        ("runs_out_of_memory", "retry", "out_of_memory", "no room for the model"),
        ("fills_the_disk", "stop", "disk_full", "No space left on device"),
        ("no_such_recipe", "failed", "attribute_error", "no_such_recipe"),
    ],
)
def test_each_way_to_fail_has_a_name(tmp_path: Path, recipe: str, kind: str, reason: str, words: str):
    message = run(tmp_path, recipe)
    assert message[:2] == (kind, reason)
    assert words in message[2]


def test_a_spec_that_does_not_validate_fails_by_name(tmp_path: Path):
    message = run(tmp_path, "steps", epochs="many")
    assert message[:2] == ("failed", "validation_error")
    assert "epochs" in message[2]


def test_a_full_disk_stops_the_study_and_keeps_the_checkpoint_before_it(tmp_path: Path):
    run(tmp_path, "steps", lambda step, _: "stop", epochs=3)
    kind, reason, _, fix = run(tmp_path, "fills_the_disk")
    assert (kind, reason, fix) == ("stop", "disk_full", "free space or mend the storage, then resume the study")
    assert checkpoint.step_of(tmp_path / "t0000") == 0


@pytest.mark.parametrize(
    ("error", "kind", "reason"),
    [
        (OSError(errno.EROFS, "Read-only file system"), "stop", "storage_read_only"),
        (OSError(errno.EIO, "Input/output error"), "stop", "storage_lost"),
        (RuntimeError("[../gloo/transport/tcp/pair.cc] Connection closed by peer"), "retry", "worker_lost"),
        (type("DistBackendError", (RuntimeError,), {})("NCCL error"), "retry", "worker_lost"),
        (type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory"), "retry", "out_of_memory"),
        (torch.AcceleratorError("CUDA error: uncorrectable ECC error encountered"), "retry", "device_fault"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`"), "retry", "device_fault"),
        (torch.AcceleratorError("CUDA error: device-side assert triggered"), "failed", "device_assert"),
        (torch.AcceleratorError("CUDA error: out of memory"), "retry", "out_of_memory"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), "retry", "out_of_memory"),
        (type("DistBackendError", (RuntimeError,), {})("NCCL error: unhandled cuda error"), "retry", "worker_lost"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED"), "failed", "runtime_error"),
        (UserError(Problem("data.root", "no such folder", "give one")), "failed", "user_error"),
        (RetryTrial("hub_unreachable", "later"), "retry", "hub_unreachable"),
        (StopStudy("insufficient_quota", "no credit", "add credit"), "stop", "insufficient_quota"),
    ],
)
def test_an_exception_becomes_an_end_with_a_name(tmp_path: Path, error: Exception, kind: str, reason: str):
    end = end_of(error, tmp_path)
    assert (end.kind, end.reason) == (kind, reason)


def test_what_would_end_every_trial_comes_with_its_fix_and_an_early_end_with_its_reason():
    assert End("stop", "insufficient_quota", "no credit", "add credit").message() == (
        "stop",
        "insufficient_quota",
        "no credit",
        "add credit",
    )
    assert End("done", "budget", "phase 3 may cost $4", metrics={"a": 1.0}).message() == (
        "done",
        {"a": 1.0},
        {},
        "budget",
        "phase 3 may cost $4",
    )
    assert End("done").message() == ("done", {}, {})
