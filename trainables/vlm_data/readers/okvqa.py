"""OK-VQA: questions on COCO pictures that need outside knowledge, ten answers each (okvqa.allenai.org, files as VQA v1 names them)."""

from __future__ import annotations

from collections.abc import Iterator

from trainables.vlm_data.folder import Folder
from trainables.vlm_data.readers import coco_questions
from trainables.vlm_data.row import Row
from trainables.vlm_data.spec import VlmDataSpec


def read(folder: Folder, split: str, spec: VlmDataSpec) -> Iterator[Row]:
    stem = f"mscoco_{split}2014"
    return coco_questions.read(folder, split, f"OpenEnded_{stem}_questions.json", f"{stem}_annotations.json")
