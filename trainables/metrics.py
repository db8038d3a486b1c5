"""Classification metrics from a confusion matrix, so that ranks can be reduced by adding their counts.

Promises the same numbers as scikit-learn with `zero_division=0` (a test compares them). Knows nothing about torch or trials.

Legend: C classes; `confusion_CC[i, j]` counts the rows of true class i that were predicted as class j, int64.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]


def confusion_matrix(true_N: NDArray[np.integer], predicted_N: NDArray[np.integer], n_classes: int) -> Counts:
    flat = np.asarray(true_N, dtype=np.int64) * n_classes + np.asarray(predicted_N, dtype=np.int64)
    return np.bincount(flat, minlength=n_classes * n_classes).reshape(n_classes, n_classes)


def summary(confusion_CC: Counts) -> dict[str, float]:
    """accuracy and {precision,recall,f1}_{weighted,macro}.

    As in scikit-learn, the macro mean runs over the classes that occur among the true or the predicted labels, and the
    weighted mean is weighted by the true counts. Empty counts give zeros.
    """
    support_C = confusion_CC.sum(axis=1)
    present_C = (support_C + confusion_CC.sum(axis=0)) > 0
    total = int(support_C.sum())
    values = {"accuracy": float(np.trace(confusion_CC)) / total if total else 0.0}
    for name, per_class_C in zip(("precision", "recall", "f1"), _precision_recall_f1(confusion_CC), strict=True):
        values[f"{name}_weighted"] = float((per_class_C * support_C).sum() / total) if total else 0.0
        values[f"{name}_macro"] = float(per_class_C[present_C].mean()) if present_C.any() else 0.0
    return values


def per_class(confusion_CC: Counts, classes: Sequence[str]) -> dict[str, float]:
    """`precision/<class>`, `recall/<class>`, `f1/<class>` for each class."""
    named = zip(("precision", "recall", "f1"), _precision_recall_f1(confusion_CC), strict=True)
    return {f"{name}/{label}": float(value) for name, values_C in named for label, value in zip(classes, values_C, strict=True)}


def majority_accuracy(train_labels_N: NDArray[np.integer], test_labels_N: NDArray[np.integer]) -> float:
    """Accuracy on the test rows of always answering the commonest training class."""
    commonest = int(np.bincount(train_labels_N).argmax())
    return float(np.mean(np.asarray(test_labels_N) == commonest))


def standard_error(accuracy: float, n_rows: int) -> float:
    """Standard error of an accuracy measured on `n_rows` independent rows: sqrt(p (1 - p) / n)."""
    return math.sqrt(accuracy * (1.0 - accuracy) / n_rows)


def _precision_recall_f1(confusion_CC: Counts) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    hits_C = np.diag(confusion_CC).astype(np.float64)
    predicted_C, support_C = confusion_CC.sum(axis=0), confusion_CC.sum(axis=1)
    return _ratio(hits_C, predicted_C), _ratio(hits_C, support_C), _ratio(2 * hits_C, predicted_C + support_C)


def _ratio(top_C: NDArray[np.float64], bottom_C: NDArray[np.integer]) -> NDArray[np.float64]:
    return np.divide(top_C, bottom_C, out=np.zeros_like(top_C), where=bottom_C > 0)
