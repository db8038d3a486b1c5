"""A stand-in for data that are not at hand, so that `plan` prices a published study by the same code as any other.

It has the expected numbers of rows and classes, labels and a question of the expected length, and pictures of the expected shape.
Its text is filler: count it with `tokens.bounds`, which goes by length. It is for counting only and is never sent or trained on.
"""

from __future__ import annotations

import io

import numpy as np

from trainables.data.sources import ImageTable
from trainables.openai_phases.prompt import question_text
from trainables.openai_phases.spec import ExpectedSpec, OpenaiPhasesSpec
from trainables.openai_phases.tokens import Count, TextCounter, bounds

WHY = "the data are not at hand and text is known by its length alone"
REMEDY = "get the data and remove trainable.expected for closer figures"


def stand_in(expected: ExpectedSpec) -> ImageTable:
    """Rows of filler. Labels are the words `c`, padded with their number to the expected length."""
    n_each = {"train": expected.train_rows, "val": expected.val_rows, "test": expected.test_rows}
    total, first = sum(n_each.values()), 0
    split: dict[str, np.ndarray] = {}
    for name, n in n_each.items():
        split[name] = np.arange(first, first + n, dtype=np.int64)
        first += n
    picture = _picture(expected.height_per_width)
    return ImageTable(
        classes=tuple(f"{c:d}".rjust(expected.label_chars, "c") for c in range(expected.n_classes)),
        labels_N=np.concatenate([np.arange(n, dtype=np.int64) % expected.n_classes for n in n_each.values()]),
        ids=tuple(f"expected {i}" for i in range(total)),
        split=split,
        digest="",
        warnings=(),
        max_pixels=10**9,
        read=lambda _: picture,
    )


def length_counter(spec: OpenaiPhasesSpec, table: ImageTable) -> TextCounter:
    """Bounds by length, in which the question of the stand-in counts as long as the expected one."""
    assert spec.expected is not None
    filler, counter = question_text(spec.prompt, table.classes), bounds(WHY, REMEDY)
    wanted = "x" * spec.expected.question_chars

    def count(text: str) -> Count:
        return counter.count(wanted if text == filler else text)

    return TextCounter(count, counter.how, exact=False)


def _picture(height_per_width: float) -> bytes:
    """A picture of that shape, as wide as any that is sent, in a few kilobytes."""
    from PIL import Image

    file = io.BytesIO()
    width_px = 4096
    Image.new("1", (width_px, min(60_000, max(1, round(width_px * height_per_width))))).save(file, "PNG")
    return file.getvalue()
