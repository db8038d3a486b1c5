"""What a trial learns: its classes, its split, the rows of each phase, and the pixels of a size, decoded once a node.

Legend: N rows.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from trainables.data.cache import pixels
from trainables.data.sources import ImageTable, open_table
from trainables.phases.blocks import draw_blocks, rows_of
from trainables.timm_cnn.images import Images
from trainables.timm_cnn.model import PixelScale
from trainables.timm_cnn.spec import TimmCnnSpec
from tune.core.ports import Reporter

PREDICTIONS = "predictions.csv"  # what a comparison of two trainings on the same test items needs


@dataclass(frozen=True)
class Task:
    """`split`: "train", "val", "test" -> rows. `rows_by_phase`: training rows of each phase, in the order of the spec's phases."""

    table: ImageTable
    split: Mapping[str, NDArray[np.int64]]
    rows_by_phase: tuple[NDArray[np.int64], ...]

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self.table.classes)

    def images(self, size_px: int, scale: PixelScale, reporter: Reporter) -> Images:
        """All pictures at a size. The pixels are decoded where this node has no cache of them, else mapped from it."""
        return Images(
            pixels_NHW3=pixels(self.table, size_px, reporter.cache_dir),
            labels_N=np.asarray(self.table.labels_N),
            n_classes=len(self.classes),
            scale=scale,
            device=torch.device(reporter.device),
        )

    def write_predictions(self, predicted_N: NDArray[np.int64], path: Path) -> None:
        """item,label,predicted of each test row; `item` is the row's id in the data, the same in every trial."""
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(("item", "label", "predicted"))
            for row, predicted in zip(self.split["test"], predicted_N, strict=True):
                writer.writerow((self.table.ids[row], self.classes[self.table.labels_N[row]], self.classes[predicted]))


def open_task(spec: TimmCnnSpec) -> Task:
    """The task of a spec. Raises UserError for wrong data, and for classes too small for the phases."""
    table = open_table(spec.data)
    split = {name: np.asarray(rows, dtype=np.int64) for name, rows in table.split.items()}
    blocks = [] if spec.phases is None else draw_blocks(spec.phases, split["train"], table.labels_N, table.ids, table.classes)
    return Task(table, split, tuple(rows_of(phase, blocks, split["train"]) for phase in spec.phase_list))
