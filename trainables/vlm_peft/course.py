"""The optimizer steps of a trial, cut into stretches that end in a report; the learning rate at each. Pure values.

A stretch is an epoch, or `eval_every_steps` steps. An epoch's order is drawn from (seed, epoch) alone, so that a stretch may begin
and end anywhere in it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainables.pieces import derived_seed
from trainables.progress import Progress, advanced
from trainables.vlm_peft.spec import METRICS, ScheduleSpec, VlmPeftSpec
from tune.core.ports import Reporter


@dataclass(frozen=True)
class Course:
    """What a trial remembers: goes through the checkpoint as JSON. `sources_before`: scores of the kept sets before tuning."""

    progress: Progress = field(default_factory=Progress)
    tokens: int = 0
    sources_before: dict[str, float] | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(record: Mapping[str, Any]) -> Course:
        return Course(Progress.from_json(record["progress"]), record["tokens"], record["sources_before"])


@dataclass(frozen=True)
class Plan:
    """How many steps an epoch and the trial have, and where reports stand."""

    steps_per_epoch: int
    total_steps: int
    steps_per_report: int

    @staticmethod
    def of(spec: VlmPeftSpec, n_rows: int) -> Plan:
        """n_rows: to train on. The last step of an epoch may have fewer rows than the others."""
        per_epoch = math.ceil(n_rows / spec.batch)
        if spec.steps is not None and spec.eval_every_steps is not None:
            return Plan(per_epoch, spec.steps, spec.eval_every_steps)
        return Plan(per_epoch, per_epoch * spec.n_epochs, per_epoch)

    @property
    def n_reports(self) -> int:
        return math.ceil(self.total_steps / self.steps_per_report)

    def stretch(self, report_i: int) -> range:
        """The steps before a report."""
        return range(report_i * self.steps_per_report, min((report_i + 1) * self.steps_per_report, self.total_steps))


@dataclass(frozen=True)
class Piece:
    """One rank's micro-batch of a step. `counts`: False where there are fewer rows than pieces: `rows` are then computed, since all
    ranks compute equally often, and weigh nothing. `batch_rows`: of the whole step, over all ranks."""

    step: int
    rows: NDArray[np.int64]
    counts: bool
    batch_rows: NDArray[np.int64]


def pieces_of(steps: range, plan: Plan, rows: NDArray[np.int64], batch: int, accumulation: int, reporter: Reporter) -> Iterator[Piece]:
    """This rank's micro-batches of a stretch, `accumulation` of them for each step.

    Which rows are in a step depends on (seed, step) alone, not on workers or accumulation, so that a micro-batch may be halved.
    """
    order, drawn_epoch = rows, -1
    n_pieces = reporter.world_size * accumulation
    for step in steps:
        epoch, k = divmod(step, plan.steps_per_epoch)
        if epoch != drawn_epoch:
            order, drawn_epoch = np.random.default_rng(derived_seed(reporter.seed, "order", epoch)).permutation(rows), epoch
        chosen = order[k * batch : (k + 1) * batch]
        for part in np.array_split(chosen, n_pieces)[reporter.rank :: reporter.world_size]:
            yield Piece(step, part if len(part) else chosen[:1], len(part) > 0, chosen)


def lr_factor(step: int, total_steps: int, schedule: ScheduleSpec) -> float:
    """What every learning rate is multiplied by in the update of a 0-based step.

    As transformers' get_{cosine,linear,constant}_schedule_with_warmup, whose first update under a warm-up has rate zero.
    """
    warmup = math.ceil(schedule.warmup_share * total_steps)
    if step < warmup:
        return step / warmup
    share = (step - warmup) / max(1, total_steps - warmup)
    if schedule.kind == "cosine":
        return max(0.0, (1.0 + math.cos(math.pi * share)) / 2.0)
    return max(0.0, 1.0 - share) if schedule.kind == "linear" else 1.0


def after_report(progress: Progress, values: Mapping[str, float], spec: VlmPeftSpec) -> Progress:
    """The progress once another stretch has given `values` (val/*)."""
    kept_by = METRICS.find(spec.keep_by)
    watched = None if spec.early_stop is None else METRICS.find(spec.early_stop.metric)
    assert kept_by is not None
    return advanced(progress, values, kept_by=kept_by, watched=watched)


def is_over(progress: Progress, plan: Plan, spec: VlmPeftSpec) -> bool:
    """True after the last stretch, or when early stopping has run out of patience."""
    patient = spec.early_stop is None or progress.waited < spec.early_stop.patience
    return progress.epochs_done >= plan.n_reports or not patient
