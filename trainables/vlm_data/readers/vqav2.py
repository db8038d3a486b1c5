"""VQA v2: balanced questions on COCO pictures, ten answers each (visualqa.org/download.html); test answers are not public."""

from __future__ import annotations

from collections.abc import Iterator

from trainables.vlm_data.folder import Folder
from trainables.vlm_data.readers import coco_questions
from trainables.vlm_data.row import Row
from trainables.vlm_data.spec import VlmDataSpec


def read(folder: Folder, split: str, spec: VlmDataSpec) -> Iterator[Row]:
    stem = f"mscoco_{split}2014"
    return coco_questions.read(folder, split, f"v2_OpenEnded_{stem}_questions.json", f"v2_{stem}_annotations.json")
