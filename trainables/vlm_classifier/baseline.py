"""The references a search must beat: the majority class, and logistic regression on frozen features of picture, words and both.

Its one knob, C, is chosen by validation accuracy, so that the reference is not a weak one. Runs on one worker; others idle.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from trainables.metrics import confusion_matrix, majority_accuracy, per_class, standard_error, summary
from trainables.peft_methods.spec import PeftSpec
from trainables.vlm_classifier.build import build, last_sections
from trainables.vlm_classifier.evaluate import EVAL_BATCH, load_rows
from trainables.vlm_classifier.spec import CacheSpec, VlmClassifierSpec
from trainables.vlm_classifier.task import PREDICTIONS, Task, open_task
from tune.core.ports import Outcome, Reporter

_CS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)  # inverse strength of the L2 penalty, on standardised features


@dataclass(frozen=True)
class _Probe:
    """Predictions of a split by the probe that was best on validation."""

    metrics: dict[str, dict[str, float]]
    predicted_N: NDArray[np.int64]


def linear_probe(spec: VlmClassifierSpec, reporter: Reporter) -> Outcome:
    """Scores of the probe on all that the spec looks at, of picture and words alone, and the share of the commonest class."""
    if reporter.rank != 0:
        return Outcome()
    task = open_task(spec)
    features = frozen_features(spec, task, reporter)
    probe = _fitted(np.concatenate(list(features.values()), axis=1), task)
    metrics = {f"{split}/{name}": value for split, scores in probe.metrics.items() for name, value in scores.items()}
    metrics["test/accuracy_standard_error"] = standard_error(metrics["test/accuracy"], len(task.split["test"]))
    test = task.split["test"]
    counts = confusion_matrix(task.labels_N[test], probe.predicted_N, len(task.classes))
    metrics |= {f"test/{name}": value for name, value in per_class(counts, task.classes).items()}
    metrics["majority/accuracy"] = majority_accuracy(task.labels_N[task.split["train"]], task.labels_N[test])
    for name, alone in features.items():
        if len(features) > 1:
            scores = _fitted(alone, task).metrics["test"]
            metrics |= {f"{name}_only/{score}": scores[score] for score in ("accuracy", "f1_weighted", "f1_macro")}
    task.write_predictions(probe.predicted_N, reporter.workdir / PREDICTIONS)
    return Outcome(metrics=metrics, files={"predictions": PREDICTIONS})


def frozen_features(spec: VlmClassifierSpec, task: Task, reporter: Reporter) -> dict[str, NDArray[np.float32]]:
    """Outputs of the encoder without adapters, of all rows: name -> features_NF."""
    cache = CacheSpec(use="off" if spec.cache.use == "off" else "auto", max_gb=spec.cache.max_gb)
    lone = {"peft": PeftSpec(method="frozen"), "augment": None, "cache": cache}
    frozen = spec.model_copy(update={**lone, "encoder": spec.encoder.model_copy(update={"frozen_dropout": False})})
    built = build(frozen, task, reporter)
    built.module.eval()
    rows = np.arange(len(task.table.rows))
    found: dict[str, list[NDArray[np.float32]]] = {}
    for start in range(0, len(rows), EVAL_BATCH):
        with torch.no_grad():
            outputs = built.module.outputs(load_rows(rows[start : start + EVAL_BATCH], built.kept, built.batches, built.streams))
        for name in last_sections(frozen):
            found.setdefault(name, []).append(outputs[name].float().cpu().numpy())
    return {name: np.concatenate(parts) for name, parts in found.items()}


def _fitted(features_NF: NDArray[np.float32], task: Task) -> _Probe:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    split, labels_N = task.split, task.labels_N
    scaled_NF = StandardScaler().fit(features_NF[split["train"]]).transform(features_NF)

    def scores(model: LogisticRegression, name: str) -> dict[str, float]:
        return summary(confusion_matrix(labels_N[split[name]], model.predict(scaled_NF[split[name]]), len(task.classes)))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # 200 steps are plenty for a ranking
        models = [LogisticRegression(C=c, max_iter=200).fit(scaled_NF[split["train"]], labels_N[split["train"]]) for c in _CS]
    best = max(models, key=lambda model: scores(model, "val")["accuracy"])
    return _Probe({name: scores(best, name) for name in ("val", "test")}, best.predict(scaled_NF[split["test"]]))
