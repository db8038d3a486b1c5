"""A learning curve that costs nothing: for trying a search, a scheduler, a cluster or the handling of failures.

The score at a step depends on (spec, seed, step) alone, so a resumed trial goes on exactly where it was. No torch.
"""

from __future__ import annotations

import json
import math
import os
import random
import signal
import time
from pathlib import Path

from trainables.curve.spec import CurveSpec
from tune.core.errors import FailTrial
from tune.core.ports import Outcome, Reporter

BEST_LR, BEST_DEPTH = 1e-2, 4
_FLOOR = 1e-3  # scores stay in [_FLOOR, 1], so that the loss is finite


def train(spec: CurveSpec, reporter: Reporter) -> Outcome:
    checkpoint = reporter.resume_from()
    start = 0 if checkpoint is None else json.loads((checkpoint / "curve.json").read_text())["step"] + 1
    for step in range(start, spec.epochs):
        _planned_trouble(spec, reporter, step)
        if spec.step_seconds:
            time.sleep(spec.step_seconds)
        value = score(spec, reporter.seed, step)

        def save(folder: Path, step: int = step) -> None:
            (folder / "curve.json").write_text(json.dumps({"step": step}))

        if reporter.report(step, {"val/score": value, "val/loss": -math.log(value)}, save) == "stop":
            break
    return Outcome()


def limit(spec: CurveSpec) -> float:
    """What the curve tends to, without noise. 1 at the optimum."""
    penalty = 0.1 * math.log10(spec.lr / BEST_LR) ** 2 + 0.02 * (spec.depth - BEST_DEPTH) ** 2
    return max(_FLOOR, math.exp(-penalty))


def score(spec: CurveSpec, seed: int, step: int) -> float:
    """Height of the curve at a 0-based step: deeper curves rise more slowly."""
    risen = 1.0 - math.exp(-(step + 1) * 4.0 / (spec.epochs * (0.5 + spec.depth / 8)))
    noise = random.Random(f"{seed}/{step}").gauss(0.0, spec.noise) if spec.noise else 0.0
    return min(1.0, max(_FLOOR, limit(spec) * risen + noise))


def _planned_trouble(spec: CurveSpec, reporter: Reporter, step: int) -> None:
    if spec.fail_at_step == step:
        raise FailTrial("planned_failure", f"fail_at_step = {step}")
    if spec.crash_at_step == step and reporter.rank == 0:
        marks = reporter.workdir / "crashes.txt"
        done = len(marks.read_text().splitlines()) if marks.exists() else 0
        if done < spec.crashes:
            with marks.open("a") as file:
                file.write(f"{step}\n")
                file.flush()
                os.fsync(file.fileno())
            os.kill(os.getpid(), signal.SIGKILL)
