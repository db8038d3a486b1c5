"""What a worker's process and its machine are busy with, as MLflow's system metrics: read at each report, one figure a trial.

MLflow shows whatever begins with `system/` on a page of its own, and takes no part in a study's objectives or limits.

How busy a GPU is its driver says of the last second or less. At a report that is the second in which the trial was judged and
saved, so it is asked for all the while that a trial trains (`Gauge.watch`), and a report gives the mean since the one before.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol

import psutil

_MEGABYTE = 1e6
_LOOK_EVERY_S = 1.0  # a look takes about a millisecond of this process


class Card(Protocol):
    """What is read of one GPU. A test has one of its own."""

    def busy_percentage(self) -> float | None:
        """Of the last second or less; None if this process has not used the GPU yet, or the driver does not tell."""

    def memory_bytes(self) -> tuple[int, int] | None:
        """Free, total; None if this process has not used the GPU yet."""


class Gauge:
    """Of this process, and of the device its trials run on ("cpu", "cuda:0"). A percentage is that since the last reading."""

    def __init__(self, device: str, card: Card | None = None):
        self._process = psutil.Process()
        self._card = card or (_Cuda(device) if device.startswith("cuda") else None)
        self._looks, self._busy = 0, 0.0  # so many since the last reading, and their sum
        self._looks_lock = threading.Lock()
        self._of_cpus()  # what psutil counts from

    @contextlib.contextmanager
    def watch(self, every_s: float = _LOOK_EVERY_S) -> Iterator[None]:
        """A trial trains: look at its GPU all the while, from a thread of its own, for nothing else may wait for a driver that hangs.
        Without a GPU there is nothing to do."""
        if self._card is None:
            yield
            return
        over = threading.Event()

        def look_on() -> None:
            while not over.wait(every_s):
                self.look()

        self._mean()  # what was seen before is not this trial's
        threading.Thread(target=look_on, name="gpu-use", daemon=True).start()
        try:
            yield
        finally:
            over.set()

    def look(self) -> None:
        """Note how busy the GPU is now."""
        busy = None if self._card is None else self._card.busy_percentage()
        if busy is not None:
            with self._looks_lock:
                self._looks, self._busy = self._looks + 1, self._busy + busy

    def read(self) -> dict[str, float]:
        """system/<what>_percentage in 0 to 100 (100 a core for the worker's own), system/<what>_megabytes."""
        return self._of_cpus() | ({} if self._card is None else self._of_gpu(self._card))

    def _of_cpus(self) -> dict[str, float]:
        return {
            "system/cpu_utilization_percentage": psutil.cpu_percent(),
            "system/system_memory_usage_percentage": psutil.virtual_memory().percent,
            "system/worker_cpu_percentage": self._process.cpu_percent(),
            "system/worker_memory_megabytes": self._process.memory_info().rss / _MEGABYTE,
        }

    def _of_gpu(self, card: Card) -> dict[str, float]:
        memory = card.memory_bytes()
        if memory is None:
            return {}
        free, total = memory
        found = {
            "system/gpu_memory_usage_megabytes": (total - free) / _MEGABYTE,
            "system/gpu_memory_usage_percentage": 100 * (total - free) / total,
        }
        busy = self._mean()
        if busy is None:  # reports that follow each other faster than looks
            self.look()
            busy = self._mean()
        return found | ({} if busy is None else {"system/gpu_utilization_percentage": busy})

    def _mean(self) -> float | None:
        """Of what was seen since this was asked last."""
        with self._looks_lock:
            looks, busy = self._looks, self._busy
            self._looks, self._busy = 0, 0.0
        return busy / looks if looks else None


def over_workers(readings: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """One reading of a trial: the mean of percentages over its workers, the largest of megabytes."""
    taken: dict[str, list[float]] = {}
    for reading in readings:
        for name, value in reading.items():
            taken.setdefault(name, []).append(value)
    return {name: max(seen) if name.endswith("_megabytes") else sum(seen) / len(seen) for name, seen in taken.items()}


class _Cuda:
    """A GPU as torch sees it. Asking neither imports torch nor begins to use the GPU, which takes half a gigabyte of it."""

    def __init__(self, device: str):
        self._device = device

    def busy_percentage(self) -> float | None:
        torch = _torch_in_use()
        if torch is None:
            return None
        try:
            return float(torch.cuda.utilization(self._device))
        except _not_told():
            return None

    def memory_bytes(self) -> tuple[int, int] | None:
        torch = _torch_in_use()
        return None if torch is None else torch.cuda.mem_get_info(self._device)


def _torch_in_use() -> Any:
    """torch, if it is there and uses a GPU."""
    torch = sys.modules.get("torch")
    return torch if torch is not None and torch.cuda.is_initialized() else None


def _not_told() -> tuple[type[Exception], ...]:
    """What asking raises where there is no nvidia-ml-py, or a driver that does not tell (of a MIG slice): its own errors are no
    RuntimeErrors."""
    nvml = sys.modules.get("pynvml")
    return (ModuleNotFoundError, RuntimeError, *(() if nvml is None else (nvml.NVMLError,)))
