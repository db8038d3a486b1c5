"""The pixels of a trial, and evaluation with the ranks' counts added up.

Promises: every rank does equally many forwards.

Legend: N rows, B images of a batch, H W pixels, C classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from trainables.metrics import Counts, confusion_matrix, summary
from trainables.pieces import summed
from trainables.timm_cnn.model import PixelScale
from tune.core.ports import Reporter

EVAL_BATCH = 64  # rows a rank evaluates at once: on two cores 64 was as fast as 256, with a quarter of the memory


@dataclass(frozen=True)
class Images:
    """Pixels (uint8, memory-mapped), labels, and how they come to the device. `rows` below are indices into both."""

    pixels_NHW3: NDArray[np.uint8]
    labels_N: NDArray[np.int64]
    n_classes: int
    scale: PixelScale
    device: torch.device

    def load(self, rows: NDArray[np.int64]) -> tuple[torch.Tensor, torch.Tensor]:
        """pixels_B3HW uint8 (channels last in memory) and labels_B int64, on the device."""
        pixels = torch.from_numpy(np.ascontiguousarray(self.pixels_NHW3[rows]))
        labels = torch.from_numpy(self.labels_N[rows].astype(np.int64))
        return pixels.to(self.device).permute(0, 3, 1, 2), labels.to(self.device)


@dataclass(frozen=True)
class Evaluation:
    """`loss` is the mean cross-entropy; `confusion_CC` counts true class by predicted class; `predicted_N` in the order of the rows."""

    loss: float
    confusion_CC: Counts
    predicted_N: NDArray[np.int64]

    def metrics(self, split: str) -> dict[str, float]:
        return {f"{split}/loss": self.loss} | {f"{split}/{name}": value for name, value in summary(self.confusion_CC).items()}


def evaluate(forward: Callable[[torch.Tensor], torch.Tensor], images: Images, rows: NDArray[np.int64], reporter: Reporter) -> Evaluation:
    """Loss and counts over `rows`, each rank its share. `forward` is of a module in eval mode."""
    predicted_N = torch.zeros(len(rows), dtype=torch.float64)  # each rank fills in its own
    loss_sum = torch.zeros((), dtype=torch.float64)
    step = EVAL_BATCH * reporter.world_size
    for start in range(0, len(rows), step):
        first = start + reporter.rank * EVAL_BATCH
        mine = rows[first : first + EVAL_BATCH]
        idle = rows[:1] if len(mine) == 0 else mine  # a rank without rows computes along: the forward may be collective
        with torch.no_grad():
            pixels, labels = images.load(idle)
            logits_BC = forward(images.scale.apply(pixels.float()))
            if len(mine) == 0:
                continue
            loss_sum += functional.cross_entropy(logits_BC.float(), labels, reduction="sum").double().cpu()
            predicted_N[first : first + len(mine)] = logits_BC.argmax(dim=1).double().cpu()
    total = summed(torch.cat([predicted_N, loss_sum.view(1)]), reporter)
    predicted = total[:-1].round().long().numpy()
    confusion_CC = confusion_matrix(images.labels_N[rows], predicted, images.n_classes)
    return Evaluation(float(total[-1]) / max(1, len(rows)), confusion_CC, predicted)
