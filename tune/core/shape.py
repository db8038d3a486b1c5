"""What one trial asks of the machines it runs on."""

from __future__ import annotations

from dataclasses import dataclass, replace

Labels = tuple[tuple[str, str], ...]  # of a node: name, value


@dataclass(frozen=True)
class TrialShape:
    """Each of a trial's workers is one process with this many logical CPUs and GPUs (shares of a device are allowed below 1).

    accelerator: the sort of GPU that the workers' nodes must have, by Ray's name such as H100; None: any.
    memory_gb_per_worker: GB (10^9 bytes) of a node's memory that are counted for a worker, though nothing keeps it to them; None: none are.
    labels: that the workers' nodes must have, by name and value; a value of !spot: any but that, or none.
    min_workers: fewest workers that the trial goes on with while there is no room for all of them; None: it needs them all.
    """

    workers: int
    cpus_per_worker: float
    gpus_per_worker: float = 0
    accelerator: str | None = None
    memory_gb_per_worker: float | None = None
    min_workers: int | None = None
    labels: Labels = ()

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
    def sizes(self) -> tuple[int, ...]:
        """Numbers of workers that the trial may have, all of them first: those among which its work divides evenly."""
        return sizes(self.workers, self.workers if self.min_workers is None else self.min_workers)

    def of(self, workers: int) -> TrialShape:
        """The shape that needs just so many workers."""
        return replace(self, workers=workers, min_workers=None)

    @property
    def gpu_word(self) -> str:
        return f"{self.accelerator} GPU" if self.accelerator else "GPU"

    def __str__(self) -> str:
        gpus = f", {self.gpus_per_worker:g} {self.gpu_word}" if self.gpus_per_worker else ""
        memory = f", {self.memory_gb_per_worker:g} GB" if self.memory_gb_per_worker else ""
        least = f", or at least {self.min_workers} of them" if self.min_workers is not None else ""
        where = f" on {label_words(self.labels)}" if self.labels else ""
        return f"{self.workers} worker{'s' if self.workers != 1 else ''} x {self.cpus_per_worker:g} CPU{gpus}{memory}{where}{least}"


def label_words(labels: Labels) -> str:
    return ", ".join(f"{name}={value}" for name, value in labels)


def sizes(workers: int, least: int) -> tuple[int, ...]:
    """Divisors of `workers` from `workers` down to `least`: each worker of a smaller group does the pieces of equally many."""
    return tuple(n for n in range(workers, least - 1, -1) if workers % n == 0)
