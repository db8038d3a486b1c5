"""Losses, weights and draws against their definitions."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.slow

from torch.nn import functional  # noqa: E402

from trainables.vlm_classifier.losses import class_weights, loss_of, rows_of_epoch  # noqa: E402
from trainables.vlm_classifier.spec import LossSpec  # noqa: E402
from tune.core.errors import UserError  # noqa: E402

CLASSES = ("a", "b", "c")
LABELS = np.array([0] * 6 + [1] * 3 + [2])
LOGITS = torch.randn(10, 3, generator=torch.Generator().manual_seed(0))


def test_balanced_weights_are_scikit_learns_and_their_mean_over_the_rows_is_one() -> None:
    from sklearn.utils.class_weight import compute_class_weight

    weights = class_weights(LossSpec(class_weights="balanced"), CLASSES, LABELS)
    assert weights is not None and weights.numpy() == pytest.approx(compute_class_weight("balanced", classes=np.arange(3), y=LABELS))
    given = class_weights(LossSpec(class_weights={"c": 5.0}), CLASSES, LABELS)
    assert given is not None and float(given[LABELS].mean()) == pytest.approx(1.0) and float(given[2] / given[0]) == pytest.approx(5.0)
    assert class_weights(LossSpec(), CLASSES, LABELS) is None


def test_a_weight_for_a_class_that_is_not_there_is_refused() -> None:
    with pytest.raises(UserError, match="class 'd'"):
        class_weights(LossSpec(class_weights={"d": 2.0}), CLASSES, LABELS)


def test_focal_loss_is_its_formula_and_tends_to_cross_entropy() -> None:
    labels = torch.from_numpy(LABELS)
    p = functional.softmax(LOGITS, dim=1)[torch.arange(10), labels]
    focal = loss_of(LOGITS, labels, LossSpec.model_validate({"kind": "focal", "focal": {"gamma": 2.0}}), None)
    assert float(focal) == pytest.approx(float((-((1 - p) ** 2) * p.log()).mean()))
    nearly = loss_of(LOGITS, labels, LossSpec.model_validate({"kind": "focal", "focal": {"gamma": 1e-9}}), None)
    assert float(nearly) == pytest.approx(float(functional.cross_entropy(LOGITS, labels)))


def test_a_weighted_loss_does_not_depend_on_how_a_batch_is_cut() -> None:
    labels, spec = torch.from_numpy(LABELS), LossSpec(class_weights="balanced", label_smoothing=0.1)
    weights = class_weights(spec, CLASSES, LABELS)
    whole = loss_of(LOGITS, labels, spec, weights)
    pieces = [(loss_of(LOGITS[part], labels[part], spec, weights), len(LOGITS[part])) for part in (slice(0, 4), slice(4, 10))]
    assert float(sum(loss * n for loss, n in pieces) / 10) == pytest.approx(float(whole))


def test_balanced_sampling_draws_every_class_equally_often() -> None:
    rows = np.arange(100, 110)
    drawn = np.concatenate([rows_of_epoch(rows, LABELS, "balanced", seed) for seed in range(300)])
    shares = np.bincount(LABELS[drawn - 100]) / len(drawn)
    assert shares == pytest.approx([1 / 3] * 3, abs=0.03)
    assert np.array_equal(rows_of_epoch(rows, LABELS, "natural", 0), rows)
