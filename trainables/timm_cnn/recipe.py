"""Fine-tune a timm image model on labelled images: one trial, read top to bottom.

Promises: everything needed to go on is in the checkpoint, and each epoch draws from a seed of its own, so on a CPU a resumed
trial ends bit for bit where an uninterrupted one does; the weights of the epoch with the lowest validation loss are kept in
`best.safetensors` and tested; it runs on any reporter, without Ray. It does not choose hyperparameters.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from trainables.adapters.engine import Engine, open_engine
from trainables.data.cache import pixels
from trainables.data.sources import open_table
from trainables.metrics import per_class, standard_error
from trainables.timm_cnn.augment import augment
from trainables.timm_cnn.images import Images, derived_seed, epoch_pieces, evaluate, summed
from trainables.timm_cnn.model import build, optimizer_spec, parameter_groups
from trainables.timm_cnn.pictures import draw_confusion
from trainables.timm_cnn.schedule import Progress, after_epoch, is_over, lr_factor
from trainables.timm_cnn.spec import EarlyStopSpec, TimmCnnSpec
from tune.core.errors import FailTrial, RetryTrial
from tune.core.ports import Outcome, Reporter

_BEST = "best.safetensors"
_LOOK_EVERY_STEPS = 16  # reading the loss waits for a GPU, so it is looked at only now and then


@dataclass(frozen=True)
class Task:
    """What is learnt. `split`: "train", "val", "test" -> rows."""

    classes: tuple[str, ...]
    split: Mapping[str, NDArray[np.int64]]
    images: Images


def train(spec: TimmCnnSpec, reporter: Reporter) -> Outcome:
    """Train to the last epoch, early stopping or the reporter's stop. Test metrics are those of the kept epoch; none if stopped."""
    with _named_failures(spec):
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
    table = open_table(spec.data)
    classes = tuple(table.classes)
    module, scale = build(spec, len(classes), derived_seed(reporter.seed, "head"))
    images = Images(
        pixels_NHW3=pixels(table, spec.image_size, reporter.cache_dir),
        labels_N=np.asarray(table.labels_N),
        n_classes=len(classes),
        scale=scale,
        device=torch.device(reporter.device),
    )
    task = Task(classes, {name: np.asarray(rows, dtype=np.int64) for name, rows in table.split.items()}, images)
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
        progress, stopped = _epochs(spec, task, engine, reporter)
    finally:
        engine.close()
    if stopped:
        return Outcome()
    _barrier(reporter)  # rank 0 has written the weights that all ranks read now
    return _test(spec, task, progress, reporter)


def _epochs(spec: TimmCnnSpec, task: Task, engine: Engine, reporter: Reporter) -> tuple[Progress, bool]:
    """Train until the trial is over or is told to stop before that; the second value says which."""
    progress = Progress()
    checkpoint = reporter.resume_from()
    if checkpoint is not None:
        engine.load(checkpoint)
        progress = Progress.from_json(json.loads((checkpoint / "progress.json").read_text()))
    while not is_over(progress, spec):
        epoch = progress.epochs_done
        factor = lr_factor(progress, spec)
        engine.set_lr_factor(factor)
        started = time.perf_counter()
        train_loss, n_images = _train_epoch(spec, task, engine, reporter, epoch)
        train_seconds = time.perf_counter() - started
        engine.sync_buffers()
        engine.module.eval()
        values = evaluate(engine.forward, task.images, task.split["val"], reporter).metrics("val")
        _finite(values["val/loss"], "val/loss", epoch)
        progress = after_epoch(progress, values, spec)
        if progress.best_epoch == epoch:
            _keep(engine.weights(), spec, task.classes, epoch, reporter)
        seconds, peak = time.perf_counter() - started, float(engine.peak_memory_bytes())
        measured = {
            "train/loss": train_loss,
            **values,
            "learning_rate": spec.optim.lr * factor,
            "seconds": seconds,
            "images_per_second": n_images / train_seconds,
            "peak_memory_bytes": peak,
        }
        decision = reporter.report(epoch, measured, _checkpoint(engine, progress, reporter))
        _drop_older(progress, reporter)
        if decision == "stop" and not is_over(progress, spec):
            return progress, True
    return progress, False


def _train_epoch(spec: TimmCnnSpec, task: Task, engine: Engine, reporter: Reporter, epoch: int) -> tuple[float, int]:
    """Mean training loss over all ranks, and the number of images of all ranks."""
    torch.manual_seed(derived_seed(reporter.seed, "dropout", epoch, reporter.rank))
    draws = torch.Generator().manual_seed(derived_seed(reporter.seed, "augment", epoch, reporter.rank))
    n_pieces = reporter.world_size * spec.engine.accumulation
    order_seed = derived_seed(reporter.seed, "order", epoch)
    engine.module.train()
    loss_sum = torch.zeros((), dtype=torch.float64, device=task.images.device)
    n_rows = 0
    pieces = epoch_pieces(task.split["train"], spec.batch, spec.engine.accumulation, reporter, order_seed)
    for i, piece in enumerate(pieces):
        pixels_B3HW, labels_B = task.images.load(piece.rows)
        images_B3HW = task.images.scale.apply(augment(pixels_B3HW, spec.augment, draws))
        logits_BC = engine.forward(images_B3HW)
        loss = functional.cross_entropy(logits_BC, labels_B, label_smoothing=spec.loss.label_smoothing)
        # the engine averages over pieces; a smaller piece counts by its rows
        engine.backward(loss * (len(piece.rows) * n_pieces / piece.n_batch))
        engine.step()
        loss_sum += loss.detach().double() * len(piece.rows)
        n_rows += len(piece.rows)
        if reporter.world_size == 1 and i % _LOOK_EVERY_STEPS == 0:
            _finite(float(loss_sum), "train/loss", epoch)
    totals = summed(torch.stack([loss_sum.cpu(), torch.tensor(float(n_rows), dtype=torch.float64)]), reporter)
    if not totals[1]:
        raise FailTrial(
            "no_batches", f"{len(task.split['train'])} training images do not fill {n_pieces} micro-batches; lower engine.accumulation"
        )
    mean = float(totals[0]) / float(totals[1])
    _finite(mean, "train/loss", epoch)
    return mean, int(totals[1])


def _test(spec: TimmCnnSpec, task: Task, progress: Progress, reporter: Reporter) -> Outcome:
    """Test the kept epoch's weights; write them, the counts and their picture."""
    from safetensors.torch import load_file

    assert progress.best_epoch is not None
    kept = reporter.workdir / _kept_name(progress.best_epoch)
    if not kept.exists():  # killed after the test, before its result was known: the file has its last name already
        kept = reporter.workdir / _BEST
    module, _ = build(spec, len(task.classes), seed=0, with_weights=False)
    module.load_state_dict(load_file(kept))
    module.to(device=task.images.device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    tested = evaluate(module, task.images, task.split["test"], reporter)
    metrics = {**(progress.last if spec.objective == "last" else progress.best), **tested.metrics("test")}
    metrics |= {f"test/{name}": value for name, value in per_class(tested.confusion_CC, task.classes).items()}
    metrics["test/accuracy_standard_error"] = standard_error(metrics["test/accuracy"], len(task.split["test"]))
    metrics["best_epoch"] = float(progress.best_epoch)
    files = {"best weights": _BEST, "confusion matrix": "confusion_matrix.json", "confusion picture": "confusion_matrix.png"}
    _barrier(reporter)
    if reporter.rank == 0:
        kept.replace(reporter.workdir / files["best weights"])
        record = {"classes": list(task.classes), "true_by_predicted": tested.confusion_CC.tolist()}
        (reporter.workdir / files["confusion matrix"]).write_text(json.dumps(record))
        draw_confusion(tested.confusion_CC, task.classes, reporter.workdir / files["confusion picture"])
    return Outcome(metrics=metrics, files=files)


def _checkpoint(engine: Engine, progress: Progress, reporter: Reporter) -> Any:
    def save(folder: Path) -> None:
        engine.save(folder)
        if reporter.rank == 0:
            (folder / "progress.json").write_text(json.dumps(progress.to_json(), allow_nan=False))

    return save


def _kept_name(epoch: int) -> str:
    return f"best-{epoch:05d}.safetensors"


def _keep(weights: dict[str, torch.Tensor], spec: TimmCnnSpec, classes: tuple[str, ...], epoch: int, reporter: Reporter) -> None:
    """Write this epoch's weights beside the older ones, which the last whole checkpoint may still name."""
    from safetensors.torch import save_file

    if reporter.rank != 0:
        return
    about = {"model": spec.model.name, "image_size": str(spec.image_size), "classes": json.dumps(classes), "epoch": str(epoch)}
    unfinished = reporter.workdir / f"{_kept_name(epoch)}.part"
    save_file(weights, unfinished, metadata=about)
    unfinished.replace(reporter.workdir / _kept_name(epoch))


def _drop_older(progress: Progress, reporter: Reporter) -> None:
    if reporter.rank == 0 and progress.best_epoch is not None:
        for file in reporter.workdir.glob("best-*.safetensors"):
            if file.name != _kept_name(progress.best_epoch):
                file.unlink()


def _finite(value: float, name: str, epoch: int) -> None:
    if not np.isfinite(value):
        raise FailTrial("not_finite", f"{name} is {value} in epoch {epoch}; lower optim.lr or check the data")


def _barrier(reporter: Reporter) -> None:
    if reporter.world_size > 1:
        torch.distributed.barrier()


@contextmanager
def _named_failures(spec: TimmCnnSpec) -> Iterator[None]:
    """Out of memory as RetryTrial, since it may come from a neighbour on the device."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise RetryTrial("out_of_memory", _memory_advice(spec, error)) from error
    except RuntimeError as error:
        if "can't allocate memory" not in str(error):
            raise
        raise RetryTrial("out_of_memory", _memory_advice(spec, error)) from error


def _memory_advice(spec: TimmCnnSpec, error: BaseException) -> str:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return f"batch {spec.batch} at {spec.image_size} px: {reason}; lower batch or image_size, or raise engine.accumulation"
