"""What came of each phase: its metrics under promised names, and the table that reports read (`phases.json`).

Every report of a trial in phases carries `phase` and `resolution`; the report that ends a phase carries the phase's result too,
as `phase_end/<metric>`. Knows nothing of how a phase was trained.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from tune.core.metrics import Metric

FILE = "phases.json"
_END = "phase_end/"
_PICKED_BY = "val/f1_weighted"


@dataclass(frozen=True)
class PhaseResult:
    """A phase that is over. `rows`: training rows. `start`: "base" or "previous". `epochs`: trained, fewer than planned if it
    stopped early. `kept_epoch`: the global epoch whose weights are the phase's model. `seconds`: of training and evaluation."""

    phase: int
    resolution: int
    rows: int
    start: str
    epochs: int
    kept_epoch: int | None
    metrics: Mapping[str, float]
    seconds: float

    def end_metrics(self) -> dict[str, float]:
        """What the report that ends the phase carries besides the metrics of its step."""
        values = {f"{_END}{name}": value for name, value in self.metrics.items()}
        return values | {f"{_END}rows": float(self.rows), f"{_END}seconds": self.seconds}

    @staticmethod
    def from_json(record: Mapping[str, Any]) -> PhaseResult:
        return PhaseResult(**record)


def phase_metrics(at_the_end: Iterable[Metric]) -> tuple[Metric, ...]:
    """What a trainable with phases promises besides its own metrics. `at_the_end`: metrics of a phase's result."""
    return (
        Metric("phase", "count", "max", "phase of this step; 0 is zero-shot, the first that trains is 1", step_wise=False),
        Metric("resolution", "pixels", "max", "side of the pictures of this step", step_wise=False),
        *(Metric(f"{_END}{m.name}", m.unit, m.mode, f"at the end of a phase: {m.help or m.name}", step_wise=False) for m in at_the_end),
        Metric(f"{_END}rows", "count", "max", "training rows of the phase", step_wise=False),
        Metric(f"{_END}seconds", "seconds", "min", "wall time of the phase, training and evaluation", step_wise=False),
    )


def picked(results: Sequence[PhaseResult], pick: Literal["last", "best"]) -> PhaseResult:
    """The phase whose model is the trial's; of equals the earlier."""
    return results[-1] if pick == "last" else max(results, key=lambda result: result.metrics[_PICKED_BY])


def write_table(results: Sequence[PhaseResult], workdir: Path) -> None:
    """`phases.json` in `workdir`: a list with one mapping a phase, whole or not there at all."""
    unfinished = workdir / f"{FILE}.part"
    unfinished.write_text(json.dumps([asdict(result) for result in results], indent=1, allow_nan=False))
    unfinished.replace(workdir / FILE)
