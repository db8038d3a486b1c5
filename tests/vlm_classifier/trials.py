"""Tiny trials with a fake reporter: real timm and transformers classes at random weights, on a few rows of bundled clip art."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.trainables.reporting import FakeReporter
from trainables.vlm_classifier.spec import METRICS, VlmClassifierSpec

TWO_TOWER: dict[str, Any] = {
    "family": "two_tower",
    "two_tower": {"image": {"name": "test_resnet", "weights": "none", "drop": 0.0}, "text": {"weights": "tiny:"}},
    "image_size": 32,
    "max_tokens": 12,
}


def family(name: str, **knobs: Any) -> dict[str, Any]:
    """An encoder of a family with a small random configuration."""
    return {"family": name, name: {"weights": "tiny:", **knobs}, "max_tokens": 12}


def spec(**fields: Any) -> VlmClassifierSpec:
    settings: dict[str, Any] = {
        "data": {"reader": "clipart", "subset": {"train": 40, "val": 20, "test": 20}, "pictures": "trust"},
        "encoder": TWO_TOWER,
        "epochs": 3,
        "batch": 10,
        "optim": {"lr": 1e-2},
        "peft": {"method": "frozen"},
    }
    return VlmClassifierSpec.model_validate({**settings, **fields})


def reporter(folder: Path, cache: Path | None = None, **more: int) -> FakeReporter:
    """cache: a folder that several trials share."""
    made = FakeReporter(folder, METRICS, **more)
    if cache is not None:
        made.cache_dir = cache
    return made


def untimed(run: FakeReporter) -> list[tuple[int, dict[str, float]]]:
    measured = ("seconds", "rows_per_second", "peak_memory_bytes")
    return [(step, {name: value for name, value in values.items() if name not in measured}) for step, values in run.reports]
