"""Pictures and folders for the tests of the data layer."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from trainables.data.spec import DataSpec
from tune.core.errors import UserError


def image(seed: int, width: int = 8, height: int = 6) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(noise)


def encoded(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def png(seed: int) -> bytes:
    return encoded(image(seed))


def class_folders(root: Path, counts: dict[str, int], first_seed: int = 0) -> Path:
    """`counts`: folder -> pictures, each picture another."""
    seed = first_seed
    for name, n in counts.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for k in range(n):
            (root / name / f"{k}.png").write_bytes(png(seed))
            seed += 1
    return root


def refusal(source: Path | str, **spec: Any) -> str:
    """What open_table says when it refuses `source`."""
    from trainables.data.sources import open_table

    try:
        open_table(DataSpec(source=str(source), **spec))
    except UserError as error:
        return str(error)
    raise AssertionError(f"{source} was not refused")
