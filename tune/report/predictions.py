"""A trial's answers for each test item: the file that makes a test between two trainings possible without repeating them.

`predictions.csv` has a header and the columns `item`, `label`, `predicted` (others may stand beside them); one row a test item,
`item` the same from trial to trial. Pure: it is given text.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn import metrics as sklearn_metrics

from tune.report import intervals

COLUMNS = ("item", "label", "predicted")
_SCORES = {
    "precision": sklearn_metrics.precision_score,
    "recall": sklearn_metrics.recall_score,
    "f1": sklearn_metrics.f1_score,
}


@dataclass(frozen=True)
class Predictions:
    """Sorted by item, so that two of the same items can be laid side by side. `label_N`, `predicted_N`: int64 into `classes`."""

    items: tuple[str, ...]
    classes: tuple[str, ...]
    label_N: np.ndarray
    predicted_N: np.ndarray

    @property
    def right_N(self) -> np.ndarray:
        found: np.ndarray = self.label_N == self.predicted_N
        return found

    def metric(self, name: str, rows: np.ndarray | None = None) -> float | None:
        """`accuracy`, `f1_weighted`, ... over these rows (default all), or None for a metric that is not of this family."""
        label_N, predicted_N = self.label_N, self.predicted_N
        if rows is not None:
            label_N, predicted_N = label_N[rows], predicted_N[rows]
        if not len(label_N):
            return None
        if name == "accuracy":
            return float(np.mean(label_N == predicted_N))
        kind, _, average = name.partition("_")
        if kind not in _SCORES or average not in ("weighted", "macro"):
            return None
        return float(_SCORES[kind](label_N, predicted_N, average=average, zero_division=0))

    def interval(self, name: str, seed: int) -> intervals.Interval | None:
        """Bootstrap interval of a metric of this family."""
        if self.metric(name) is None:
            return None
        return intervals.of_items(lambda rows: self.metric(name, np.asarray(rows, dtype=int)) or 0.0, len(self.items), seed)


def parse(text: str) -> Predictions:
    """Raises ValueError that says what is wrong with the file."""
    reader = csv.DictReader(io.StringIO(text))
    missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
    if missing:
        raise ValueError(f"it lacks the column {', '.join(missing)}; it needs item,label,predicted")
    rows = sorted((row["item"], row["label"], row["predicted"]) for row in reader)
    if not rows or any(None in row for row in rows):
        raise ValueError("it has no rows" if not rows else "a row is too short")
    items = tuple(row[0] for row in rows)
    if len(set(items)) != len(items):
        raise ValueError("an item stands there twice")
    classes = tuple(sorted({name for row in rows for name in row[1:]}))
    index = {name: i for i, name in enumerate(classes)}
    label_N = np.array([index[row[1]] for row in rows], dtype=np.int64)
    predicted_N = np.array([index[row[2]] for row in rows], dtype=np.int64)
    return Predictions(items, classes, label_N, predicted_N)


def of_counts(classes: Sequence[str], counts: Sequence[Sequence[int]]) -> Predictions:
    """The answers behind a confusion matrix (`counts[i][j]`: of class i, predicted as j), their items numbered anew."""
    pairs = np.array([(i, j) for i, row in enumerate(counts) for j, n in enumerate(row) for _ in range(n)], dtype=np.int64).reshape(-1, 2)
    return Predictions(tuple(map(str, range(len(pairs)))), tuple(classes), pairs[:, 0], pairs[:, 1])
