"""What a worker's process and its machine are busy with, as MLflow's system metrics: read at each report, one figure a trial.

MLflow shows whatever begins with `system/` on a page of its own, and takes no part in a study's objectives or limits.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from typing import Any

import psutil

_MEGABYTE = 1e6


class Gauge:
    """Of this process, and of the device its trials run on ("cpu", "cuda:0"). A percentage is that since the last reading."""

    def __init__(self, device: str):
        self._process = psutil.Process()
        self._device = device
        self.read()  # what psutil counts from

    def read(self) -> dict[str, float]:
        """system/<what>_percentage in 0 to 100 (100 a core for the worker's own), system/<what>_megabytes."""
        found = {
            "system/cpu_utilization_percentage": psutil.cpu_percent(),
            "system/system_memory_usage_percentage": psutil.virtual_memory().percent,
            "system/worker_cpu_percentage": self._process.cpu_percent(),
            "system/worker_memory_megabytes": self._process.memory_info().rss / _MEGABYTE,
        }
        return found | (_gpu(self._device) if self._device.startswith("cuda") else {})


def over_workers(readings: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """One reading of a trial: the mean of percentages over its workers, the largest of megabytes."""
    taken: dict[str, list[float]] = {}
    for reading in readings:
        for name, value in reading.items():
            taken.setdefault(name, []).append(value)
    return {name: max(seen) if name.endswith("_megabytes") else sum(seen) / len(seen) for name, seen in taken.items()}


def _gpu(device: str) -> dict[str, float]:
    import torch

    free, total = torch.cuda.mem_get_info(device)
    found: dict[str, Any] = {
        "system/gpu_memory_usage_megabytes": (total - free) / _MEGABYTE,
        "system/gpu_memory_usage_percentage": 100 * (total - free) / total,
    }
    with contextlib.suppress(ModuleNotFoundError, RuntimeError):  # no nvidia-ml-py, or a driver that does not tell (a MIG slice)
        found["system/gpu_utilization_percentage"] = float(torch.cuda.utilization(device))
    return found
