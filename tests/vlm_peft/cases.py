"""A small data set in MVSA's layout whose label is the colour of the picture, and specs of tiny models on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from trainables.vlm_peft.spec import VlmPeftSpec

COLOURS = {"positive": (220, 40, 40), "neutral": (40, 200, 40), "negative": (40, 40, 220)}
PEFT: dict[str, dict[str, Any]] = {
    "lora": {"method": "lora", "lora": {"r": 4}, "connector": "tuned"},
    "ia3": {"method": "ia3"},
    "bottleneck": {"method": "bottleneck", "bottleneck": {"size": 4}},
    "prefix": {"method": "prefix", "prefix": {"tokens": 3, "projection": True}, "connector": "tuned"},
    "prompt": {"method": "prompt", "prompt": {"tokens": 3}},
    "adalora": {"method": "adalora", "adalora": {"init_r": 4, "target_r": 2, "interval": 1, "warmup_share": 0.0}},
    "full": {"method": "full", "full": {"last_layers": 1}, "connector": "tuned"},
    "vision": {"method": "lora", "lora": {"r": 4}, "vision": "tuned"},
}
KEEP = ("l2", "magnitude", "dare", "tailor", "spider")


def write_rows(folder: Path, n: int = 30) -> Path:
    """MVSA-Single's layout: labelResultAll.txt, data/<id>.jpg and data/<id>.txt."""
    (folder / "data").mkdir(parents=True)
    lines = ["ID\ttext,image"]
    noise = np.random.default_rng(0)
    for i in range(1, n + 1):
        label = list(COLOURS)[i % 3]
        pixels = np.clip(np.array(COLOURS[label]) + noise.integers(-30, 30, (40, 48, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "data" / f"{i}.jpg")
        (folder / "data" / f"{i}.txt").write_text(f"post {i}")
        lines.append(f"{i}\t{label},{label}")
    (folder / "labelResultAll.txt").write_text("\n".join(lines) + "\n")
    return folder


def spec_of(rows: Path, **fields: Any) -> VlmPeftSpec:
    settings: dict[str, Any] = {
        "model": {"name": "tiny:llava"},
        "data": {"reader": "mvsa", "source": str(rows), "prompt": "post_as_is"},
        "batch": 6,
        "epochs": 2,
        "optim": {"lr": 5e-3},
        "evaluation": {"by": "likelihood", "batch": 8},
    }
    return VlmPeftSpec.model_validate({**settings, **fields})
