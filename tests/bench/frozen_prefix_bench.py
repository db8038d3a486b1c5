"""A 24-trial head search with and without keeping what the frozen encoder gives: Lite0 and MiniLM with real weights on clip art.

Both sides run the recipe itself in one process, one trial after another, same points, seeds and epochs, decoded pixels there before the
clock starts. The first trial with the cache pays for computing it.

    python -m tests.bench.frozen_prefix_bench [--epochs 5] [--trials 24] [--computed-trials 24]

`--computed-trials`: how many of the points are run without the cache; the seconds of the rest are taken to be their mean.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.trainables.reporting import FakeReporter
from trainables.vlm_classifier.recipe import train
from trainables.vlm_classifier.spec import METRICS, VlmClassifierSpec

POINTS = [
    {"optim": {"lr": lr}, "head": {"hidden": hidden, "dropout": dropout}}
    for lr in (3e-4, 1e-3, 3e-3, 1e-2)
    for hidden in ("none", "512", "512-256")
    for dropout in (0.1, 0.4)
]


def measure(epochs: int = 5, trials: int = 24, computed_trials: int | None = None) -> dict[str, Any]:
    """Seconds of both sides; scores of a point that both ran, to see that they are the same."""
    points = POINTS[:trials]
    n_computed = len(points) if computed_trials is None else min(computed_trials, len(points))
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        _trial(points[0], root / "warm", root / "cache", 1, "off")  # imports, decoded pixels
        kept = [_trial(point, root / f"kept{i}", root / "cache", epochs, "required") for i, point in enumerate(points)]
        computed = [_trial(point, root / f"off{i}", root / "cache", epochs, "off") for i, point in enumerate(points[:n_computed])]
    kept_s, computed_s = sum(s for s, _ in kept), sum(s for s, _ in computed) * len(points) / n_computed
    return {
        "trials": len(points),
        "epochs": epochs,
        "computed_trials": n_computed,
        "kept_seconds": kept_s,
        "computed_seconds": computed_s,
        "first_kept_seconds": kept[0][0],
        "further_kept_seconds": (kept_s - kept[0][0]) / max(1, len(kept) - 1),
        "ratio": computed_s / kept_s,
        "largest_loss_difference": max(abs(a - b) for (_, a), (_, b) in zip(kept, computed, strict=False)),
    }


def _trial(point: dict[str, Any], folder: Path, cache: Path, epochs: int, use: str) -> tuple[float, float]:
    """Seconds, and the test loss."""
    spec = VlmClassifierSpec.model_validate({**point, "epochs": epochs, "peft": {"method": "frozen"}, "cache": {"use": use}})
    reporter = FakeReporter(folder, METRICS)
    reporter.cache_dir = cache
    started = time.perf_counter()
    outcome = train(spec, reporter)
    return time.perf_counter() - started, outcome.metrics["test/loss"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--computed-trials", type=int, default=None)
    asked = parser.parse_args()
    for name, value in measure(asked.epochs, asked.trials, asked.computed_trials).items():
        print(f"{name}: {value:.4g}" if isinstance(value, float) else f"{name}: {value}")


if __name__ == "__main__":
    main()
