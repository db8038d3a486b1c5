"""What is measured and written of a model that is trained: at the end of each phase, and at the end of the trial.

The test set decides nothing: which epoch and which phase are kept is settled by validation before they are tested.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import torch

from trainables.kept import BEST, give_last_name, weights_of
from trainables.metrics import per_class, standard_error
from trainables.phases.results import FILE as PHASES_FILE
from trainables.pieces import barrier
from trainables.timm_cnn.course import Course, picked_phase
from trainables.timm_cnn.images import Evaluation, evaluate
from trainables.timm_cnn.model import FineTuned, PixelScale, build
from trainables.timm_cnn.pictures import draw_confusion
from trainables.timm_cnn.spec import TimmCnnSpec
from trainables.timm_cnn.task import PREDICTIONS, Task
from tune.core.ports import Outcome, Reporter

_STRESSED = ("accuracy", "precision_weighted", "recall_weighted", "f1_weighted")


def kept_on_test(spec: TimmCnnSpec, task: Task, epoch: int, size_px: int, reporter: Reporter) -> Evaluation:
    """The test set at a size, by the weights kept of a global epoch."""
    module, scale = _kept_model(spec, task, epoch, reporter)
    return _tested(module, scale, task, size_px, reporter)


def finish(spec: TimmCnnSpec, task: Task, course: Course, reporter: Reporter) -> Outcome:
    """Test the picked phase's model at its own size and under stress; write it, its counts and their picture."""
    best = picked_phase(course, spec)
    assert best.kept_epoch is not None, "a phase that trained keeps an epoch"
    module, scale = _kept_model(spec, task, best.kept_epoch, reporter)
    tested = _tested(module, scale, task, best.resolution, reporter)
    metrics = {name: value for name, value in best.metrics.items() if name.startswith("val/")} | tested.metrics("test")
    metrics |= {f"test/{name}": value for name, value in per_class(tested.confusion_CC, task.classes).items()}
    metrics["test/accuracy_standard_error"] = standard_error(metrics["test/accuracy"], len(task.split["test"]))
    metrics["best_epoch"] = float(best.kept_epoch)
    files = {"best weights": BEST, "confusion matrix": "confusion_matrix.json", "confusion picture": "confusion_matrix.png"}
    files["predictions"] = PREDICTIONS
    stress = {size_px: _tested(module, scale, task, size_px, reporter).metrics("test") for size_px in spec.stress}
    for size_px, scores in stress.items():
        metrics |= {f"stress/{size_px}/{name}": scores[f"test/{name}"] for name in _STRESSED}
    if stress:
        files["stress tests"] = "stress.json"
    if spec.phases is not None:
        metrics["phase_picked"] = float(best.phase)
        files["phases"] = PHASES_FILE
    barrier(reporter)
    if reporter.rank == 0:
        record = {"classes": list(task.classes), "true_by_predicted": tested.confusion_CC.tolist()}
        (reporter.workdir / files["confusion matrix"]).write_text(json.dumps(record))
        task.write_predictions(tested.predicted_N, reporter.workdir / files["predictions"])
        draw_confusion(tested.confusion_CC, task.classes, reporter.workdir / files["confusion picture"])
        if stress:
            (reporter.workdir / files["stress tests"]).write_text(json.dumps(_stress_rows(best.phase, best.resolution, stress), indent=1))
    give_last_name(best.kept_epoch, reporter)
    return Outcome(metrics=metrics, files=files)


def _kept_model(spec: TimmCnnSpec, task: Task, epoch: int, reporter: Reporter) -> tuple[FineTuned, PixelScale]:
    module, scale = build(spec, len(task.classes), seed=0, with_weights=False)
    module.load_state_dict(weights_of(epoch, reporter.workdir))
    module.to(device=torch.device(reporter.device), memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    return module, scale


def _tested(module: FineTuned, scale: PixelScale, task: Task, size_px: int, reporter: Reporter) -> Evaluation:
    return evaluate(module, task.images(size_px, scale, reporter), task.split["test"], reporter)


def _stress_rows(phase: int, trained_at: int, stress: Mapping[int, Mapping[str, float]]) -> list[dict[str, object]]:
    return [{"phase": phase, "trained_at": trained_at, "tested_at": size_px, "metrics": dict(scores)} for size_px, scores in stress.items()]
