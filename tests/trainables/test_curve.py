"""The synthetic curve: its optimum, its seed, its planned troubles."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.trainables.reporting import FakeReporter, Killed
from trainables.curve.recipe import BEST_DEPTH, BEST_LR, limit, train
from trainables.curve.spec import METRICS, CurveSpec
from tune.core.errors import FailTrial


def reporter(folder: Path, **more: int) -> FakeReporter:
    return FakeReporter(folder, METRICS, **more)


def test_the_best_point_is_the_one_the_spec_names() -> None:
    best = limit(CurveSpec(lr=BEST_LR, depth=BEST_DEPTH))
    others = [
        limit(CurveSpec(lr=lr, depth=depth)) for lr in (1e-3, 1e-2, 1e-1) for depth in (3, 4, 5) if (lr, depth) != (BEST_LR, BEST_DEPTH)
    ]
    assert best == 1.0 and max(others) < best


def test_a_resumed_curve_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    spec = CurveSpec(noise=0.05, epochs=9)
    whole, broken = reporter(tmp_path / "whole"), reporter(tmp_path / "broken", kill_at=4)
    train(spec, whole)
    with pytest.raises(Killed):
        train(spec, broken)
    again = reporter(tmp_path / "broken")
    train(spec, again)
    assert broken.reports + again.reports == whole.reports


def test_the_seed_changes_the_noise_and_nothing_else_does(tmp_path: Path) -> None:
    spec = CurveSpec(noise=0.05, epochs=5)
    runs = [reporter(tmp_path / str(i), seed=seed) for i, seed in enumerate((1, 1, 2))]
    for run in runs:
        train(spec, run)
    assert runs[0].reports == runs[1].reports != runs[2].reports


def test_a_stop_ends_the_curve_at_that_step(tmp_path: Path) -> None:
    stopped = reporter(tmp_path, stop_at=2)
    train(CurveSpec(epochs=9), stopped)
    assert [step for step, _ in stopped.reports] == [0, 1, 2]


def test_fail_at_step_fails_by_name_before_that_report(tmp_path: Path) -> None:
    failing = reporter(tmp_path)
    with pytest.raises(FailTrial, match="planned_failure: fail_at_step = 2"):
        train(CurveSpec(fail_at_step=2), failing)
    assert len(failing.reports) == 2


def test_a_crash_kills_the_process_once_and_then_lets_the_trial_pass(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from tests.trainables.reporting import FakeReporter\n"
        "from trainables.curve.spec import *; from trainables.curve.recipe import train\n"
        "r = FakeReporter(Path(sys.argv[1]), METRICS); train(CurveSpec(epochs=5, crash_at_step=3), r)\n"
        "print(r.reports[0][0], r.reports[-1][0])"
    )
    first, second = (subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True) for _ in range(2))
    assert first.returncode == -9
    assert second.stdout.split() == ["3", "4"], second.stderr


def test_the_checkpoint_is_a_small_json(tmp_path: Path) -> None:
    train(CurveSpec(epochs=2), reporter(tmp_path))
    assert json.loads((tmp_path / "checkpoint" / "curve.json").read_text()) == {"step": 1}
