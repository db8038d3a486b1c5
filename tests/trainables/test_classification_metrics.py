"""The scores against scikit-learn's, from counts alone."""

from __future__ import annotations

import numpy as np
import pytest

from trainables.metrics import confusion_matrix, majority_accuracy, per_class, standard_error, summary


@pytest.mark.slow
@pytest.mark.parametrize("n_classes", [2, 3, 7])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_score_equals_scikit_learns(n_classes: int, seed: int) -> None:
    from sklearn.metrics import accuracy_score, precision_recall_fscore_support

    rng = np.random.default_rng(seed)
    true, predicted = rng.integers(0, n_classes, 25), rng.integers(0, max(1, n_classes - 1), 25)
    counts = confusion_matrix(true, predicted, n_classes)
    expected = {"accuracy": accuracy_score(true, predicted)}
    for mean in ("weighted", "macro"):
        scores = precision_recall_fscore_support(true, predicted, average=mean, zero_division=0)[:3]
        expected |= {f"{name}_{mean}": value for name, value in zip(("precision", "recall", "f1"), scores, strict=True)}
    assert summary(counts) == pytest.approx(expected, abs=1e-12)
    by_class = precision_recall_fscore_support(true, predicted, labels=range(n_classes), zero_division=0)[:3]
    ours = per_class(counts, [str(i) for i in range(n_classes)])
    for name, values in zip(("precision", "recall", "f1"), by_class, strict=True):
        assert [ours[f"{name}/{i}"] for i in range(n_classes)] == pytest.approx(list(values))


def test_counts_of_two_halves_add_up_to_the_whole() -> None:
    true, predicted = np.array([0, 1, 2, 1, 0]), np.array([0, 2, 2, 1, 1])
    halves = confusion_matrix(true[:2], predicted[:2], 3) + confusion_matrix(true[2:], predicted[2:], 3)
    assert (halves == confusion_matrix(true, predicted, 3)).all()


def test_weighted_recall_is_the_accuracy() -> None:
    scores = summary(np.array([[5, 1], [2, 9]]))
    assert scores["recall_weighted"] == pytest.approx(scores["accuracy"])


def test_the_majority_is_taken_from_training_and_scored_on_test() -> None:
    assert majority_accuracy(np.array([0, 0, 1]), np.array([1, 1, 1, 0])) == 0.25


def test_the_standard_error_is_that_of_a_share() -> None:
    assert standard_error(0.6, 250) == pytest.approx(0.030984, abs=1e-6)
