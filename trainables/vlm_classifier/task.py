"""What a trial learns: rows with their classes, their pixels (decoded once a node) and their tokens; batches of any of these.

Legend: N rows, B rows of a batch, H W pixels, T tokens.
"""

from __future__ import annotations

import csv
import hashlib
import os
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainables.data import decode
from trainables.frozen_prefix.features import key_of
from trainables.frozen_prefix.store import Block, Store
from trainables.timm_cnn.augment import augment
from trainables.timm_cnn.spec import AugmentSpec
from trainables.vlm_classifier.encoder import Encoder, PictureInput
from trainables.vlm_classifier.spec import VlmClassifierSpec
from trainables.vlm_classifier.tokens import Tokens
from trainables.vlm_data.open import VlmTable, open_rows
from tune.core.errors import Problem, StopStudy, UserError

PREDICTIONS = "predictions.csv"
_DECODED_AT_ONCE = 64


@dataclass(frozen=True)
class Task:
    """`labels_N`: places in `classes` of all rows of the table. `texts_N`: their words."""

    table: VlmTable
    labels_N: NDArray[np.int64]
    texts_N: tuple[str, ...]

    @property
    def classes(self) -> tuple[str, ...]:
        return self.table.classes

    @property
    def split(self) -> Mapping[str, NDArray[np.int64]]:
        return self.table.split

    @property
    def words_digest(self) -> str:
        return hashlib.sha256("\0".join(self.texts_N).encode("utf-8", "surrogatepass")).hexdigest()[:32]

    def write_predictions(self, predicted_N: NDArray[np.int64], path: Path) -> None:
        """item,label,predicted of each test row."""
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(("item", "label", "predicted"))
            for row, predicted in zip(self.split["test"], predicted_N, strict=True):
                writer.writerow((self.table.rows[row].id, self.classes[self.labels_N[row]], self.classes[predicted]))


def open_task(spec: VlmClassifierSpec) -> Task:
    """The rows of a spec. Raises UserError for wrong data, and for data without at least two classes."""
    table = open_rows(spec.data)
    if len(table.classes) < 2:
        raise UserError(Problem("trainable.data", f"one class only, {', '.join(table.classes)}", "give rows of two classes or more"))
    places = {name: i for i, name in enumerate(table.classes)}
    labels = np.array([places[row.label or ""] for row in table.rows], dtype=np.int64)
    return Task(table, labels, tuple(row.text if "text" in spec.streams else "" for row in table.rows))


class Batches:
    """Raw inputs of rows for an encoder, on a device. Pixels and tokens are made when they are first asked for."""

    def __init__(self, task: Task, encoder: Encoder, store: Store, device: torch.device):
        self._task, self._encoder, self._store, self._device = task, encoder, store, device
        self._pixels: NDArray[np.uint8] | None = None
        self._tokens: Tokens | None = None

    def load(self, rows: NDArray[np.int64], streams: Collection[str]) -> dict[str, Tensor]:
        """pixels_B3HW, scaled, for "image"; ids_BT and mask_BT for "text"."""
        found: dict[str, Tensor] = {}
        if "image" in streams:
            found["pixels"] = self._encoder.picture.scale.apply(self._raw(rows).float())
        return found | (self._words(rows) if "text" in streams else {})

    def load_augmented(
        self, rows: NDArray[np.int64], streams: Collection[str], spec: AugmentSpec, draws: torch.Generator
    ) -> dict[str, Tensor]:
        """As `load`, the pictures changed at random."""
        found: dict[str, Tensor] = {}
        if "image" in streams:
            found["pixels"] = self._encoder.picture.scale.apply(augment(self._raw(rows), spec, draws))
        return found | (self._words(rows) if "text" in streams else {})

    def _raw(self, rows: NDArray[np.int64]) -> Tensor:
        if self._pixels is None:
            self._pixels = pixels(self._task, self._encoder.picture, self._store)
        return torch.from_numpy(np.ascontiguousarray(self._pixels[rows])).to(self._device).permute(0, 3, 1, 2)

    def _words(self, rows: NDArray[np.int64]) -> dict[str, Tensor]:
        if self._tokens is None:
            self._tokens = self._encoder.tokens(self._task.texts_N)
        found = {"ids": self._tokens.ids_NT[rows], "mask": self._tokens.mask_NT[rows]}
        return {name: torch.from_numpy(values).to(self._device) for name, values in found.items()}


def pixels(task: Task, picture: PictureInput, store: Store) -> NDArray[np.uint8]:
    """pixels_NHW3 of all rows, decoded where this node has not done so. Raises StopStudy `picture_unreadable`."""
    key = key_of(what="pixels", data=task.table.digest, size_px=picture.size_px, resize=picture.resize, decoder=decode.VERSION)

    def blocks() -> Iterator[Block]:
        with decode.quiet(), ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            for start in range(0, len(task.table.rows), _DECODED_AT_ONCE):
                some = range(start, min(start + _DECODED_AT_ONCE, len(task.table.rows)))
                yield {"pixels": np.stack(list(pool.map(lambda i: _decoded(task, i, picture), some)))}

    return store.get(key, len(task.table.rows), blocks, {}).arrays["pixels"]


def _decoded(task: Task, i: int, picture: PictureInput) -> NDArray[np.uint8]:
    """A square of `picture.size_px`. A row without a picture is white."""
    from PIL import Image, ImageOps

    side, row = picture.size_px, task.table.rows[i]
    if row.image is None:
        return np.full((side, side, 3), 255, dtype=np.uint8)
    try:
        image = decode.decode_rgb(row.image.load(), task.table.max_pixels)
    except (OSError, decode.BadImage) as error:
        why = (isinstance(error, OSError) and error.strerror) or str(error)
        raise StopStudy("picture_unreadable", f"{row.image.name}: {why}", "put a sound picture there and start a new study") from None
    if picture.resize == "crop":  # the shorter side to size and the middle of it, as CLIP's processor does
        return np.asarray(ImageOps.fit(image, (side, side), Image.Resampling.BICUBIC))
    return np.asarray(image.resize((side, side), Image.Resampling.BICUBIC))
