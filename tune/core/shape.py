"""What one trial asks of the machines it runs on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TrialShape:
    """Each of a trial's workers is one process with this many logical CPUs and GPUs (shares of a device are allowed below 1).

    accelerator: the sort of GPU that the workers' nodes must have, by Ray's name such as H100; None: any.
    memory_gb_per_worker: GB (10^9 bytes) of a node's memory that are counted for a worker, though nothing keeps it to them; None: none are.
    """

    workers: int
    cpus_per_worker: float
    gpus_per_worker: float = 0
    accelerator: str | None = None
    memory_gb_per_worker: float | None = None

    @property
    def cpus(self) -> float:
        return self.workers * self.cpus_per_worker

    @property
    def gpus(self) -> float:
        return self.workers * self.gpus_per_worker

    @property
    def memory_gb(self) -> float:
        return self.workers * (self.memory_gb_per_worker or 0.0)

    @property
    def gpu_word(self) -> str:
        return f"{self.accelerator} GPU" if self.accelerator else "GPU"

    def __str__(self) -> str:
        gpus = f", {self.gpus_per_worker:g} {self.gpu_word}" if self.gpus_per_worker else ""
        memory = f", {self.memory_gb_per_worker:g} GB" if self.memory_gb_per_worker else ""
        return f"{self.workers} worker{'s' if self.workers != 1 else ''} x {self.cpus_per_worker:g} CPU{gpus}{memory}"
