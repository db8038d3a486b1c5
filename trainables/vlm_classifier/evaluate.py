"""Scores of a classifier over rows, each rank its share, with the ranks' counts added up.

Legend: N rows, B rows of a batch, C classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from trainables.frozen_prefix.features import Kept
from trainables.metrics import Counts, confusion_matrix, summary
from trainables.pieces import summed
from trainables.vlm_classifier.task import Batches, Task
from tune.core.ports import Reporter

EVAL_BATCH = 64
_KEPT_BATCH = 1024  # where only the head is computed


@dataclass(frozen=True)
class Evaluation:
    """`loss`: mean plain cross-entropy. `confusion_CC`: true by predicted. `predicted_N`: in the order of the rows."""

    loss: float
    confusion_CC: Counts
    predicted_N: NDArray[np.int64]

    def metrics(self, split: str) -> dict[str, float]:
        return {f"{split}/loss": self.loss} | {f"{split}/{name}": value for name, value in summary(self.confusion_CC).items()}


def load_rows(rows: NDArray[np.int64], kept: Kept | None, batches: Batches | None, streams: tuple[str, ...]) -> dict[str, Tensor]:
    """What a classifier needs of some rows: kept outputs, and raw inputs as they are."""
    found = {} if kept is None else kept.load(rows)
    return found if batches is None or not streams else found | batches.load(rows, streams)


def evaluate(
    forward: Callable[..., Tensor],
    load: Callable[[NDArray[np.int64]], dict[str, Tensor]],
    task: Task,
    split: str,
    reporter: Reporter,
    *,
    head_only: bool,
) -> Evaluation:
    """Loss and counts over a split. `forward` is of a module in eval mode."""
    rows, batch = task.split[split], _KEPT_BATCH if head_only else EVAL_BATCH
    predicted_N = torch.zeros(len(rows), dtype=torch.float64)  # each rank fills in its own
    loss_sum = torch.zeros((), dtype=torch.float64)
    for start in range(0, len(rows), batch * reporter.world_size):
        first = start + reporter.rank * batch
        mine = rows[first : first + batch]
        idle = rows[:1] if len(mine) == 0 else mine  # a rank without rows computes along: the forward may be collective
        with torch.no_grad():
            logits_BC = forward(**load(idle)).float()
            if len(mine) == 0:
                continue
            labels_B = torch.from_numpy(task.labels_N[mine]).to(logits_BC.device)
            loss_sum += functional.cross_entropy(logits_BC, labels_B, reduction="sum").double().cpu()
            predicted_N[first : first + len(mine)] = logits_BC.argmax(dim=1).double().cpu()
    total = summed(torch.cat([predicted_N, loss_sum.view(1)]), reporter)
    predicted = total[:-1].round().long().numpy()
    confusion_CC = confusion_matrix(task.labels_N[rows], predicted, len(task.classes))
    return Evaluation(float(total[-1]) / max(1, len(rows)), confusion_CC, predicted)
