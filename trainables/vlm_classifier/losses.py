"""The training loss of a classifier: cross-entropy or focal, with class weights and label smoothing.

Promises: the mean over rows of weighted losses, the weights scaled to a mean of 1 over the training rows, so that a loss does not
depend on how a batch is cut into pieces (torch's own weighted mean does). Rows are drawn for balanced sampling here too.

Legend: B rows, C classes, N rows of the training split.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from trainables.vlm_classifier.spec import FocalSpec, LossSpec
from tune.core.errors import Problem, UserError, did_you_mean


def class_weights(spec: LossSpec, classes: tuple[str, ...], labels_N: NDArray[np.int64]) -> Tensor | None:
    """weights_C float32 of mean 1 over `labels_N`, or None for equal ones. Raises UserError for a class that is not there."""
    if spec.class_weights == "none":
        return None
    counts_C = np.bincount(labels_N, minlength=len(classes)).astype(np.float64)
    if isinstance(spec.class_weights, dict):
        strange = [name for name in spec.class_weights if name not in classes]
        if strange:
            near = did_you_mean(strange[0], classes)
            raise UserError(Problem("trainable.loss.class_weights", f"class '{strange[0]}'{near}", f"use {', '.join(classes)}"))
        weights_C = np.array([spec.class_weights.get(name, 1.0) for name in classes])
    else:
        weights_C = len(labels_N) / (len(classes) * np.maximum(counts_C, 1.0))
    return torch.tensor(weights_C * len(labels_N) / (weights_C * counts_C).sum(), dtype=torch.float32)


def loss_of(logits_BC: Tensor, labels_B: Tensor, spec: LossSpec, weights_C: Tensor | None) -> Tensor:
    """Mean training loss.

    Focal is -(1 - p_t)^gamma log p_t (Lin et al. 2017, eq. 4); label smoothing spreads the target of its logarithm.
    """
    losses_B = functional.cross_entropy(logits_BC, labels_B, label_smoothing=spec.label_smoothing, reduction="none")
    if spec.kind == "focal":
        gamma = (FocalSpec() if spec.focal is None else spec.focal).gamma
        true_B = functional.softmax(logits_BC, dim=-1).gather(1, labels_B.unsqueeze(1)).squeeze(1)
        losses_B = losses_B * (1.0 - true_B).clamp(min=0.0) ** gamma
    if weights_C is not None:
        losses_B = losses_B * weights_C[labels_B]
    return losses_B.mean()


def rows_of_epoch(rows_N: NDArray[np.int64], labels_N: NDArray[np.int64], sampling: str, seed: int) -> NDArray[np.int64]:
    """The rows of an epoch. balanced: as many as there are, drawn with replacement, each class as likely as any other."""
    if sampling == "natural":
        return rows_N
    counts_C = np.bincount(labels_N)
    chances_N = 1.0 / counts_C[labels_N]
    return np.random.default_rng(seed).choice(rows_N, size=len(rows_N), p=chances_N / chances_N.sum())
