"""A folder of small pictures whose classes differ in colour, with noise: learnable by a tiny network in a few steps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

_COLOURS = {"red": (200, 60, 60), "green": (60, 200, 60), "blue": (60, 60, 200)}


def write_pictures(folder: Path, n_classes: int = 3, n_each: int = 20, side_px: int = 40) -> Path:
    rng = np.random.default_rng(0)
    for name, colour in list(_COLOURS.items())[:n_classes]:
        (folder / name).mkdir(parents=True)
        for i in range(n_each):
            noise = rng.normal(0, 60, (side_px, side_px, 3))
            picture = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
            Image.fromarray(picture).save(folder / name / f"{i:03d}.png")
    return folder
