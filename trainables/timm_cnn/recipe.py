"""Fine-tune a timm image model on labelled images: one trial, read top to bottom.

Promises: everything needed to go on is in the checkpoint and in the kept weights beside it, and each epoch draws from a seed of
its own, so on a CPU a resumed trial ends bit for bit where an uninterrupted one does; the weights of a phase's epoch with the
lowest validation loss are its model, which is tested and which the next phase may start from; a trial without phases is one phase
on all rows; it runs on any reporter, without Ray. It does not choose hyperparameters.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from trainables.adapters.engine import Engine, open_engine
from trainables.kept import drop_all_but, keep, weights_of
from trainables.out_of_memory import memory_named
from trainables.phases.results import FILE as PHASES_FILE
from trainables.phases.results import PhaseResult, write_table
from trainables.phases.spec import Phase
from trainables.pieces import barrier, derived_seed, epoch_pieces, looked_at, summed
from trainables.timm_cnn.augment import augment
from trainables.timm_cnn.course import Course, phase_spec
from trainables.timm_cnn.finish import finish, kept_on_test
from trainables.timm_cnn.images import Images, evaluate
from trainables.timm_cnn.model import build, optimizer_spec, parameter_groups
from trainables.timm_cnn.schedule import after_epoch, is_over, lr_factor
from trainables.timm_cnn.spec import EarlyStopSpec, TimmCnnSpec
from trainables.timm_cnn.task import Task, open_task
from tune.core.errors import FailTrial
from tune.core.ports import Decision, Outcome, Reporter


@dataclass(frozen=True)
class _Lesson:
    """One phase as its epochs see it. `spec`: of this phase alone. `epoch` arguments below are global, over all phases."""

    spec: TimmCnnSpec
    phase: Phase
    rows: NDArray[np.int64]
    images: Images


def train(spec: TimmCnnSpec, reporter: Reporter) -> Outcome:
    """Train to the last epoch, early stopping or the reporter's stop. Test metrics are those of the kept epoch; none if stopped."""
    with memory_named(f"batch {spec.batch} at {spec.image_size} px", "lower batch or image_size, or raise engine.accumulation"):
        return _train(spec, reporter)


def refit(spec: TimmCnnSpec, reporter: Reporter) -> Outcome:
    """Train the winner's `spec` again with the refit's own patience, keeping the epoch of the lowest validation loss.

    Without a `refit` in the spec nothing is done and the outcome is empty: the winner's kept epoch is the model.
    """
    if spec.refit is None:
        return Outcome()
    patient = EarlyStopSpec(patience=spec.refit.patience, metric="val/loss")
    return train(spec.model_copy(update={"early_stop": patient, "objective": "best"}), reporter)


def _train(spec: TimmCnnSpec, reporter: Reporter) -> Outcome:
    task = open_task(spec)
    course = Course()
    checkpoint = reporter.resume_from()
    if checkpoint is not None:
        course = Course.from_json(json.loads((checkpoint / "course.json").read_text()))
    while not course.is_over(spec):
        within = checkpoint if course.within.epochs_done else None
        course, stopped = _phase(spec, task, course, within, reporter)
        if stopped:
            return Outcome(files={"phases": PHASES_FILE} if spec.phases is not None and course.done else {})
        checkpoint = None
    barrier(reporter)  # rank 0 has written the weights that all ranks read now
    return finish(spec, task, course, reporter)


def _phase(spec: TimmCnnSpec, task: Task, course: Course, checkpoint: Path | None, reporter: Reporter) -> tuple[Course, bool]:
    """Train the phase that is next, from its start or from `checkpoint` within it. The second value: told to stop before the end."""
    phase = course.phase(spec)
    before = course.done[-1].kept_epoch if course.done and phase.start == "previous" else None
    own = phase_spec(spec, phase)
    module, scale = build(own, len(task.classes), derived_seed(reporter.seed, "head"), with_weights=before is None)
    if before is not None:
        barrier(reporter)
        module.load_state_dict(weights_of(before, reporter.workdir))
    lesson = _Lesson(own, phase, task.rows_by_phase[len(course.done)], task.images(phase.resolution_px, scale, reporter))
    if spec.engine.zero is None:
        module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    engine = open_engine(
        module,
        parameter_groups(module, spec.optim),
        optimizer=optimizer_spec(spec.optim),
        engine=spec.engine,
        batch=spec.batch,
        clip_grad_norm=spec.clip_grad_norm,
        reporter=reporter,
    )
    try:
        if checkpoint is not None:
            engine.load(checkpoint)
        return _epochs(spec, task, lesson, course, engine, reporter)
    finally:
        engine.close()


def _epochs(spec: TimmCnnSpec, task: Task, lesson: _Lesson, course: Course, engine: Engine, reporter: Reporter) -> tuple[Course, bool]:
    """Train until the phase is over or is told to stop before that; the second value says which."""
    own, n_done = lesson.spec, len(course.done)
    while True:
        epoch = lesson.phase.first_epoch + course.within.epochs_done
        factor = lr_factor(course.within, own)
        engine.set_lr_factor(factor)
        started = time.perf_counter()
        train_loss, n_images = _train_epoch(lesson, engine, reporter, epoch)
        train_seconds = time.perf_counter() - started
        engine.sync_buffers()
        engine.module.eval()
        judged = time.perf_counter()
        values = evaluate(engine.forward, lesson.images, task.split["val"], reporter).metrics("val")
        each_s = (time.perf_counter() - judged) / max(1, len(task.split["val"]))
        _finite(values["val/loss"], "val/loss", epoch)
        progress = after_epoch(course.within, values, own)
        if progress.best_epoch == course.within.epochs_done:
            about = {"model": spec.model.name, "image_size": str(own.image_size), "classes": json.dumps(task.classes)}
            keep(engine.weights(), epoch, about, reporter)
        seconds = time.perf_counter() - started
        course = replace(course, within=progress, seconds=course.seconds + seconds)
        measured = {
            "train/loss": train_loss,
            **values,
            "learning_rate": spec.optim.lr * factor,
            "seconds": seconds,
            "images_per_second": n_images / train_seconds,
            "val/seconds_per_prediction": each_s,
            "peak_memory_bytes": float(engine.peak_memory_bytes()),
        }
        ends = is_over(progress, own)
        if ends:
            course = course.ended(_result(spec, task, lesson, course, train_loss, reporter))
        decision: Decision = "continue"
        if ends or spec.report == "epoch":
            decision = reporter.report(
                *_step(spec, lesson, course, measured, epoch, ends), _checkpoint(spec, engine, course, ends, reporter)
            )
        drop_all_but(course.needed_weights(spec), reporter)  # after the report: the checkpoint before it may name older ones
        if decision == "stop" and not course.is_over(spec):
            return course, True
        if len(course.done) > n_done:
            return course, False


def _result(spec: TimmCnnSpec, task: Task, lesson: _Lesson, course: Course, train_loss: float, reporter: Reporter) -> PhaseResult:
    """What came of a phase whose last epoch is in `course.within`. In a trial of several phases its model is tested here."""
    progress, phase = course.within, lesson.phase
    assert progress.best_epoch is not None
    kept_epoch = phase.first_epoch + progress.best_epoch
    metrics = {"train/loss": train_loss, **(progress.last if spec.objective == "last" else progress.best)}
    started = time.perf_counter()
    if spec.phases is not None:
        barrier(reporter)
        metrics |= kept_on_test(spec, task, kept_epoch, phase.resolution_px, reporter).metrics("test")
    seconds = course.seconds + time.perf_counter() - started
    return PhaseResult(phase.number, phase.resolution_px, len(lesson.rows), phase.start, progress.epochs_done, kept_epoch, metrics, seconds)


def _step(
    spec: TimmCnnSpec, lesson: _Lesson, course: Course, measured: dict[str, float], epoch: int, ends: bool
) -> tuple[int, dict[str, float]]:
    """The step and the metrics of a report after `epoch`."""
    if spec.phases is None:
        return epoch, measured
    metrics = measured | {"phase": float(lesson.phase.number), "resolution": float(lesson.phase.resolution_px)}
    if not ends:
        return epoch, metrics
    result = course.done[-1]
    metrics |= result.end_metrics()
    if spec.report == "epoch":
        return epoch, metrics
    own = {name: value for name, value in result.metrics.items() if name.startswith(("train/", "val/"))}
    return len(course.done) - 1, metrics | own | {"seconds": result.seconds}


def _train_epoch(lesson: _Lesson, engine: Engine, reporter: Reporter, epoch: int) -> tuple[float, int]:
    """Mean training loss over all ranks, and the number of images of all ranks."""
    spec, images = lesson.spec, lesson.images
    torch.manual_seed(derived_seed(reporter.seed, "dropout", epoch, reporter.rank))
    draws = torch.Generator().manual_seed(derived_seed(reporter.seed, "augment", epoch, reporter.rank))
    n_pieces = reporter.world_size * spec.engine.accumulation
    order_seed = derived_seed(reporter.seed, "order", epoch)
    engine.module.train()
    loss_sum = torch.zeros((), dtype=torch.float64, device=images.device)
    n_rows = 0
    pieces = epoch_pieces(lesson.rows, spec.batch, spec.engine.accumulation, reporter, order_seed)
    for i, piece in enumerate(pieces):
        pixels_B3HW, labels_B = images.load(piece.rows)
        images_B3HW = images.scale.apply(augment(pixels_B3HW, spec.augment, draws))
        logits_BC = engine.forward(images_B3HW)
        loss = functional.cross_entropy(logits_BC, labels_B, label_smoothing=spec.loss.label_smoothing)
        # the engine averages over pieces; a smaller piece counts by its rows
        engine.backward(loss * (len(piece.rows) * n_pieces / piece.n_batch))
        engine.step()
        loss_sum += loss.detach().double() * len(piece.rows)
        n_rows += len(piece.rows)
        _finite(looked_at(loss_sum, i, reporter), "train/loss", epoch)
    totals = summed(torch.stack([loss_sum.cpu(), torch.tensor(float(n_rows), dtype=torch.float64)]), reporter)
    if not totals[1]:
        raise FailTrial("no_batches", f"{len(lesson.rows)} training images do not fill {n_pieces} micro-batches; lower engine.accumulation")
    mean = float(totals[0]) / float(totals[1])
    _finite(mean, "train/loss", epoch)
    return mean, int(totals[1])


def _checkpoint(spec: TimmCnnSpec, engine: Engine, course: Course, ends: bool, reporter: Reporter) -> Any:
    """Of a phase that is over the kept weights alone are needed, which are beside the checkpoint."""

    def save(folder: Path) -> None:
        if not ends:
            engine.save(folder)
        if reporter.rank == 0:
            (folder / "course.json").write_text(json.dumps(course.to_json(), allow_nan=False))
            if ends and spec.phases is not None:
                write_table(course.done, reporter.workdir)

    return save


def _finite(value: float | None, name: str, epoch: int) -> None:
    if value is not None and not np.isfinite(value):
        raise FailTrial("not_finite", f"{name} is {value} in epoch {epoch}; lower optim.lr or check the data")
