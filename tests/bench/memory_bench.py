"""Benchmark (m): what `plan` estimates a trial to need, beside what a whole trial held, in main memory of a CPU.

Each trial, and each step of a LLaVA, runs in a process of its own with an allocator that gives tensors back at once. Measured is the
resident high-water mark since the engine was opened, less what the process held before, so it has in it what libraries take on first use.

    MALLOC_MMAP_THRESHOLD_=65536 python -m tests.bench.memory_bench CASE      prints {"estimated": bytes, "measured": bytes}
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

_CNN: dict[str, Any] = {"data": {"source": "bundled"}, "model": {"name": "tf_efficientnet_lite0", "weights": "lite0_package"}, "epochs": 1}
_TOWERS: dict[str, Any] = {
    "encoder": {"family": "two_tower", "image_size": 96, "max_tokens": 12},
    "data": {"reader": "clipart", "text_field": "title"},
    "inputs": {"use": "both", "both": {"fusion": "concat"}},
    "batch": 32,
    "epochs": 1,
    "optim": {"kind": "adamw", "lr": 1e-4},
}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "Lite0, all of it, 96 px, 32 rows": ("timm_cnn", {**_CNN, "tune_depth": "all", "image_size": 96, "batch": 32}),
    "Lite0, all of it, 128 px, 64 rows": ("timm_cnn", {**_CNN, "tune_depth": "all", "image_size": 128, "batch": 64}),
    "Lite0 frozen and MiniLM, 32 rows": ("vlm_classifier", {**_TOWERS, "peft": {"method": "full"}}),
    "Lite0 and MiniLM, 32 rows": ("vlm_classifier", {**_TOWERS, "peft": {"method": "full", "vision": "tuned"}}),
}
_GENERATIVE = ("lora", "recomputed", "full")  # of tests.vlm_peft.measured: a training step of a LLaVA with random weights


def measure() -> dict[str, dict[str, int]]:
    """Estimated and measured bytes by the name of the trial."""
    found = {name: _in_own_process("tests.bench.memory_bench", name) for name in CASES}
    steps = _in_own_process("tests.vlm_peft.measured", *_GENERATIVE)
    return found | {f"a step of a LLaVA of random weights, {name}": steps[name] for name in _GENERATIVE}


def _in_own_process(module: str, *words: str) -> dict[str, Any]:
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-m", module, *words], env=environment, capture_output=True, text=True, check=True)
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measured


def _trial(kind: str, fields: dict[str, Any]) -> dict[str, int]:
    import torch

    from tests.trainables.reporting import FakeReporter
    from tests.vlm_peft.measured import resident_bytes
    from trainables import catalog

    torch.set_num_threads(1)
    entry = catalog.CATALOG[kind]
    spec = catalog.spec_class(kind).model_validate(fields)
    estimated = catalog.estimated(entry, spec, 1).peak_memory_bytes
    assert estimated is not None
    with tempfile.TemporaryDirectory() as folder:
        reporter = FakeReporter(Path(folder), catalog.metrics_of(kind))
        gc.collect()
        before = resident_bytes()
        catalog.load(entry.recipe)(spec, reporter)
    return {"estimated": estimated, "measured": round(reporter.reports[-1][1]["peak_memory_bytes"]) - before}


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    print(json.dumps(_trial(*CASES[sys.argv[1]])))
