"""The reference a search must beat: logistic regression on frozen features of the same network, on the same split.

Its one knob, C, is chosen by validation accuracy, so that the reference is not a weak one. In a study with phases it learns from
the rows of all of them at once, at the last phase's image size. Runs on one worker; others idle.
"""

from __future__ import annotations

import warnings

import numpy as np
import torch
from numpy.typing import NDArray

from trainables.metrics import confusion_matrix, majority_accuracy, per_class, standard_error, summary
from trainables.timm_cnn.model import pretrained
from trainables.timm_cnn.spec import TimmCnnSpec
from trainables.timm_cnn.task import PREDICTIONS, Task, open_task
from tune.core.ports import Outcome, Reporter

_CS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)  # inverse strength of the L2 penalty, on standardised features
_BATCH = 64


def linear_probe(spec: TimmCnnSpec, reporter: Reporter) -> Outcome:
    """Test and validation metrics of the probe, and the share of the commonest class."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    if reporter.rank != 0:
        return Outcome()
    task = open_task(spec)
    classes, labels_N = task.classes, np.asarray(task.table.labels_N, dtype=np.int64)
    split = {**task.split, "train": np.unique(np.concatenate(task.rows_by_phase))}
    features_NF = _features(spec, task, reporter)
    scaled_NF = StandardScaler().fit(features_NF[split["train"]]).transform(features_NF)

    def fitted(strength: float) -> LogisticRegression:
        return LogisticRegression(C=strength, max_iter=200).fit(scaled_NF[split["train"]], labels_N[split["train"]])

    def scores(model: LogisticRegression, name: str) -> tuple[dict[str, float], NDArray[np.int64]]:
        counts = confusion_matrix(labels_N[split[name]], model.predict(scaled_NF[split[name]]), len(classes))
        return {f"{name}/{metric}": value for metric, value in summary(counts).items()}, counts

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # 200 steps are plenty for a ranking
        models = [fitted(strength) for strength in _CS]
    best = max(models, key=lambda model: scores(model, "val")[0]["val/accuracy"])
    test_metrics, counts = scores(best, "test")
    metrics = {**scores(best, "val")[0], **test_metrics}
    metrics |= {f"test/{name}": value for name, value in per_class(counts, classes).items()}
    metrics["test/accuracy_standard_error"] = standard_error(metrics["test/accuracy"], len(split["test"]))
    metrics["majority/accuracy"] = majority_accuracy(labels_N[split["train"]], labels_N[split["test"]])
    task.write_predictions(best.predict(scaled_NF[split["test"]]), reporter.workdir / PREDICTIONS)
    return Outcome(metrics=metrics, files={"predictions": PREDICTIONS})


def _features(spec: TimmCnnSpec, task: Task, reporter: Reporter) -> NDArray[np.float32]:
    """Pooled features of every row by the pretrained body, no augmentation."""
    torch.manual_seed(reporter.seed)  # bodies without pretrained weights
    body, scale = pretrained(spec)
    device = torch.device(reporter.device)
    body = body.to(device=device, memory_format=torch.channels_last).eval()
    images = task.images(spec.phase_list[-1].resolution_px, scale, reporter)
    rows = np.arange(len(images.labels_N))
    features = []
    with torch.no_grad():
        for start in range(0, len(rows), _BATCH):
            pixels_B3HW, _ = images.load(rows[start : start + _BATCH])
            features.append(body(scale.apply(pixels_B3HW.float())).cpu().numpy())
    return np.concatenate(features)
