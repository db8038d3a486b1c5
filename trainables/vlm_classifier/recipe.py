"""Train a classifier on a pretrained image and text model: one trial, read top to bottom.

Promises: everything needed to go on is in the checkpoint and in the kept weights beside it, and each epoch draws from seeds of its own,
so on a CPU a resumed trial ends bit for bit where an uninterrupted one does; the epoch of the lowest validation loss is tested, and its
trained tensors (head, adapters, tuned modules) are kept as safetensors. It runs on any reporter, without Ray.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainables.adapters.engine import Engine, open_engine
from trainables.kept import BEST, drop_all_but, give_last_name, keep, weights_of
from trainables.metrics import summary
from trainables.out_of_memory import memory_named
from trainables.pieces import Piece, barrier, derived_seed, epoch_pieces, looked_at, summed
from trainables.progress import Progress
from trainables.timm_cnn.schedule import after_epoch, is_over, lr_factor
from trainables.timm_cnn.spec import EarlyStopSpec
from trainables.vlm_classifier.build import Built, build, optimizer_spec
from trainables.vlm_classifier.evaluate import Evaluation, evaluate, load_rows
from trainables.vlm_classifier.finish import finish
from trainables.vlm_classifier.losses import class_weights, loss_of, rows_of_epoch
from trainables.vlm_classifier.spec import VlmClassifierSpec
from trainables.vlm_classifier.task import Task, open_task
from tune.core.errors import FailTrial
from tune.core.ports import Outcome, Reporter


def train(spec: VlmClassifierSpec, reporter: Reporter) -> Outcome:
    """Train to the last epoch, early stopping or the reporter's stop. Test metrics are those of the kept epoch; none if stopped."""
    with memory_named(f"batch {spec.batch}", "lower batch, or raise engine.accumulation"):
        if spec.mode == "zero_shot":
            from trainables.vlm_classifier.zero_shot import judge

            return judge(spec, reporter)
        return _train(spec, reporter)


def refit(spec: VlmClassifierSpec, reporter: Reporter) -> Outcome:
    """Train the winner's `spec` again with the refit's own patience; nothing without a `refit` in the spec."""
    if spec.refit is None:
        return Outcome()
    patient = EarlyStopSpec(patience=spec.refit.patience, metric="val/loss")
    return train(spec.model_copy(update={"early_stop": patient, "objective": "best"}), reporter)


def _train(spec: VlmClassifierSpec, reporter: Reporter) -> Outcome:
    task = open_task(spec)
    built = build(spec, task, reporter)
    trained = built.module.trained_names()
    n_trained = sum(parameter.numel() for parameter in built.module.parameters() if parameter.requires_grad)
    progress = Progress()
    checkpoint = reporter.resume_from()
    if checkpoint is not None:
        progress = Progress.from_json(json.loads((checkpoint / "progress.json").read_text()))
    engine = open_engine(
        built.module,
        built.groups,
        optimizer=optimizer_spec(spec.optim),
        engine=spec.engine,
        batch=spec.batch,
        clip_grad_norm=spec.clip_grad_norm,
        reporter=reporter,
    )
    try:
        if checkpoint is not None:
            engine.load(checkpoint)
        weights_C = class_weights(spec.loss, task.classes, task.labels_N[task.split["train"]])
        while not _is_over(progress, spec):
            progress, stopped = _epoch(spec, task, built, engine, progress, weights_C, trained, reporter)
            if stopped:
                return Outcome()
    finally:
        engine.close()
    return _finish(spec, task, progress, n_trained, reporter)


def _epoch(
    spec: VlmClassifierSpec,
    task: Task,
    built: Built,
    engine: Engine,
    progress: Progress,
    weights_C: Tensor | None,
    trained: set[str],
    reporter: Reporter,
) -> tuple[Progress, bool]:
    """One epoch with its validation and report. The second value: told to stop before the end."""
    epoch, started = progress.epochs_done, time.perf_counter()
    factor = lr_factor(progress, _scheduled(spec))
    engine.set_lr_factor(factor)
    measured, n_rows = _train_epoch(spec, task, built, engine, epoch, weights_C, reporter)
    train_seconds = time.perf_counter() - started
    engine.sync_buffers()
    engine.module.eval()
    values = _evaluated(engine.forward, built, task, "val", reporter).metrics("val")
    _finite(values["val/loss"], "val/loss", epoch)
    following = after_epoch(progress, values, _scheduled(spec))
    if following.best_epoch == epoch:
        kept = {name: value for name, value in engine.weights().items() if name in trained}
        keep(kept, epoch, {"family": spec.encoder.family, "classes": json.dumps(task.classes)}, reporter)
    measured |= values | {
        "learning_rate": spec.optim.lr * factor,
        "seconds": time.perf_counter() - started,
        "rows_per_second": n_rows / train_seconds,
        "peak_memory_bytes": float(engine.peak_memory_bytes()),
    }

    def save(folder: Path) -> None:
        engine.save(folder)
        if reporter.rank == 0:
            (folder / "progress.json").write_text(json.dumps(following.to_json(), allow_nan=False))

    decision = reporter.report(epoch, measured, save)
    drop_all_but({following.best_epoch} - {None}, reporter)  # type: ignore[arg-type]  # after the report: the checkpoint before it may name older ones
    return following, decision == "stop" and not _is_over(following, spec)


def _train_epoch(
    spec: VlmClassifierSpec, task: Task, built: Built, engine: Engine, epoch: int, weights_C: Tensor | None, reporter: Reporter
) -> tuple[dict[str, float], int]:
    """train/* over all ranks, and the number of rows of all ranks."""
    torch.manual_seed(derived_seed(reporter.seed, "dropout", epoch, reporter.rank))
    draws = torch.Generator().manual_seed(derived_seed(reporter.seed, "augment", epoch, reporter.rank))
    n_pieces, n_classes = reporter.world_size * spec.engine.accumulation, len(task.classes)
    device = torch.device(reporter.device)
    weights_C = None if weights_C is None else weights_C.to(device)
    engine.module.train()
    split = task.split["train"]
    rows = rows_of_epoch(split, task.labels_N[split], spec.sampling, derived_seed(reporter.seed, "sampling", epoch))
    totals = torch.zeros(1 + n_classes * n_classes, dtype=torch.float64, device=device)  # loss, then true by predicted
    pieces = epoch_pieces(rows, spec.batch, spec.engine.accumulation, reporter, derived_seed(reporter.seed, "order", epoch))
    for i, piece in enumerate(pieces):
        labels_B = torch.from_numpy(task.labels_N[piece.rows]).to(device)
        logits_BC = engine.forward(**_training_batch(spec, built, piece, draws))
        loss = loss_of(logits_BC.float(), labels_B, spec.loss, weights_C)
        # the engine averages over pieces; a smaller piece counts by its rows
        engine.backward(loss * (len(piece.rows) * n_pieces / piece.n_batch))
        engine.step()
        totals[0] += loss.detach().double() * len(piece.rows)
        cells = 1 + labels_B * n_classes + logits_BC.detach().argmax(dim=1)
        totals.index_add_(0, cells, torch.ones(len(cells), dtype=torch.float64, device=device))
        _finite(looked_at(totals[0], i, reporter), "train/loss", epoch)
    counted = summed(totals.cpu(), reporter)
    confusion_CC = counted[1:].round().long().numpy().reshape(n_classes, n_classes)
    n_rows = int(confusion_CC.sum())
    if not n_rows:
        raise FailTrial("no_batches", f"{len(rows)} training rows do not fill {n_pieces} micro-batches; lower engine.accumulation")
    mean = float(counted[0]) / n_rows
    _finite(mean, "train/loss", epoch)
    scores = summary(confusion_CC)
    return {"train/loss": mean} | {f"train/{name}": scores[name] for name in ("accuracy", "f1_weighted", "f1_macro")}, n_rows


def _training_batch(spec: VlmClassifierSpec, built: Built, piece: Piece, draws: torch.Generator) -> dict[str, Tensor]:
    if spec.augment is None or "image" not in built.streams:
        return load_rows(piece.rows, built.kept, built.batches, built.streams)
    assert built.batches is not None
    found = {} if built.kept is None else built.kept.load(piece.rows)
    return found | built.batches.load_augmented(piece.rows, built.streams, spec.augment, draws)


def _evaluated(forward: Any, built: Built, task: Task, split: str, reporter: Reporter) -> Evaluation:
    def load(rows: np.ndarray) -> dict[str, Tensor]:
        return load_rows(rows, built.kept, built.batches, built.streams)

    return evaluate(forward, load, task, split, reporter, head_only=not built.streams)


def _finish(spec: VlmClassifierSpec, task: Task, progress: Progress, n_trained: int, reporter: Reporter) -> Outcome:
    """The kept epoch on the test split, by a module made anew: that of the engine is gone with it."""
    assert progress.best_epoch is not None, "a trial that trained keeps an epoch"
    barrier(reporter)  # rank 0 has written the weights that all ranks read now
    built = build(spec, task, reporter)
    module = built.module
    kept = weights_of(progress.best_epoch, reporter.workdir)
    strange = module.load_state_dict(kept, strict=False).unexpected_keys
    assert not strange and kept.keys() >= module.trained_names(), "kept weights are those of this module"
    module.eval()
    with _inference(spec, reporter):
        tested = _evaluated(module, built, task, "test", reporter)
    metrics = dict(progress.last if spec.objective == "last" else progress.best)
    metrics |= {"best_epoch": float(progress.best_epoch), "trainable_parameters": float(n_trained)}
    metrics["kept_bytes"] = float(0 if built.kept is None else built.kept.size_bytes)
    outcome = finish(task, tested, metrics, {"best weights": BEST}, reporter)
    give_last_name(progress.best_epoch, reporter)
    return outcome


def _inference(spec: VlmClassifierSpec, reporter: Reporter) -> Any:
    from trainables.adapters.torch_engine import AUTOCAST_DTYPE

    dtype = AUTOCAST_DTYPE[spec.engine.precision]
    return torch.autocast(torch.device(reporter.device).type, dtype=dtype or torch.bfloat16, enabled=dtype is not None)


def _scheduled(spec: VlmClassifierSpec) -> Any:
    """timm_cnn's schedules read `schedule`, `early_stop` and `total_epochs` of a spec, which this one has as well."""
    return spec


def _is_over(progress: Progress, spec: VlmClassifierSpec) -> bool:
    return is_over(progress, _scheduled(spec))


def _finite(value: float | None, name: str, epoch: int) -> None:
    if value is not None and not np.isfinite(value):
        raise FailTrial("not_finite", f"{name} is {value} in epoch {epoch}; lower optim.lr or check the data")
