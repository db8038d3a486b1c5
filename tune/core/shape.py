"""What one trial asks of the machines it runs on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TrialShape:
    """Each of a trial's workers is one process with this many logical CPUs and GPUs (shares of a device are allowed below 1).

    accelerator: the sort of GPU that the workers' nodes must have, by Ray's name such as H100; None: any.
    """

    workers: int
    cpus_per_worker: float
    gpus_per_worker: float = 0
    accelerator: str | None = None

    @property
    def cpus(self) -> float:
        return self.workers * self.cpus_per_worker

    @property
    def gpus(self) -> float:
        return self.workers * self.gpus_per_worker

    @property
    def gpu_word(self) -> str:
        return f"{self.accelerator} GPU" if self.accelerator else "GPU"

    def __str__(self) -> str:
        gpus = f", {self.gpus_per_worker:g} {self.gpu_word}" if self.gpus_per_worker else ""
        return f"{self.workers} worker{'s' if self.workers != 1 else ''} x {self.cpus_per_worker:g} CPU{gpus}"
