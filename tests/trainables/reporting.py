"""A reporter that keeps everything in memory and in a folder: what a recipe sees, without Ray."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from tune.core.metrics import MetricSet
from tune.core.ports import Answer, Decision, Question, Use


class FakeReporter:
    """stop_at: the step whose report is answered with "stop". kill_at: the step after whose report `Killed` is raised."""

    trial, rank, world_size, device = "t0000", 0, 1, "cpu"

    def __init__(self, folder: Path, metrics: MetricSet, seed: int = 7, stop_at: int | None = None, kill_at: int | None = None):
        self.seed, self._metrics, self._stop_at, self._kill_at = seed, metrics, stop_at, kill_at
        self.workdir, self.cache_dir = folder / "work", folder / "cache"
        self._checkpoint = folder / "checkpoint"
        for path in (self.workdir, self.cache_dir):
            path.mkdir(parents=True, exist_ok=True)
        self.questions: list[Question] = []
        self.reports: list[tuple[int, dict[str, float]]] = []

    def resume_from(self) -> Path | None:
        return self._checkpoint if self._checkpoint.exists() else None

    def report(self, step: int, metrics: Mapping[str, float], save: Callable[[Path], None] | None = None) -> Decision:
        checked = self._metrics.validated(metrics, self.trial)
        if save is not None:
            new = self._checkpoint.with_name("new")
            shutil.rmtree(new, ignore_errors=True)
            new.mkdir()
            save(new)
            shutil.rmtree(self._checkpoint, ignore_errors=True)
            new.rename(self._checkpoint)
        self.reports.append((step, checked))
        if step == self._kill_at:
            raise Killed
        return "stop" if step == self._stop_at else "continue"

    def ask(self, question: Question) -> Answer:
        self.questions.append(question)
        return None if isinstance(question, Use) else True

    def curve(self, name: str) -> list[float]:
        return [metrics[name] for _, metrics in self.reports]


class Killed(BaseException):
    """Stands for the end of the process."""
