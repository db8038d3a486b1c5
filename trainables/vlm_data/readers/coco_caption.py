"""COCO Caption: pictures with five captions or more, in Karpathy's splits or the official ones.

Layout: Karpathy's dataset_coco.json {images: [{filepath, filename, split, cocoid, sentences: [{raw}]}]}, where `restval` is train too
(113,287 / 5,000 / 5,000), and pictures train2014/ and val2014/. Without that file the official annotations/captions_{train,val}2014.json
(or 2017) {images: [{id, file_name}], annotations: [{image_id, caption}]} (cocodataset.org, format-data), which have no test split.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trainables.vlm_data.folder import Folder
from trainables.vlm_data.row import At, Row
from trainables.vlm_data.spec import VlmDataSpec

_KARPATHY = ("dataset_coco.json", "karpathy/dataset_coco.json", "annotations/dataset_coco.json")


def read(folder: Folder, split: str, spec: VlmDataSpec) -> Iterator[Row]:
    path = folder.has(*_KARPATHY)
    if path is not None:
        return _karpathy(folder, path, split)
    names = [f"annotations/captions_{split}{year}.json" for year in (2014, 2017)]
    official = folder.has(*names, *(Path(name).name for name in names))
    if official is None:
        got = f"there is no {_KARPATHY[0]} and no {names[0]}"
        folder.problems.add("missing file", folder.root, got, f"get {folder.download}")
        return iter(())
    return _official(folder, official)


def _karpathy(folder: Folder, path: Path, split: str) -> Iterator[Row]:
    for at, entry in folder.entries(path, "images"):
        part = "train" if entry.get("split") == "restval" else entry.get("split")
        if part != split:
            continue
        name, number = folder.field(entry, "filename", str, at), folder.field(entry, "cocoid", int, at)
        sentences = folder.field(entry, "sentences", list, at)
        if name is None or number is None or sentences is None:
            continue
        captions = tuple(str(s["raw"]).strip() for s in sentences if isinstance(s, dict) and str(s.get("raw") or "").strip())
        yield from _row(folder, str(number), str(entry.get("filepath") or ""), name, captions, at)


def _official(folder: Folder, path: Path) -> Iterator[Row]:
    part = path.stem.removeprefix("captions_")
    captions: dict[Any, list[str]] = defaultdict(list)
    for at, entry in folder.entries(path, "annotations"):
        caption = folder.field(entry, "caption", str, at)
        if caption is not None:
            captions[entry.get("image_id")].append(caption.strip())
    for at, entry in folder.entries(path, "images"):
        name, number = folder.field(entry, "file_name", str, at), folder.field(entry, "id", int, at)
        if name is not None and number is not None:
            yield from _row(folder, str(number), part, name, tuple(captions[number]), at)


def _row(folder: Folder, number: str, part: str, name: str, captions: tuple[str, ...], at: At) -> Iterator[Row]:
    if not captions:
        folder.problems.add("no captions", at, f"picture {number} has no caption", "give it one or leave it out")
        return
    picture = folder.picture(at, f"{part}/{name}", f"images/{part}/{name}", f"coco/{part}/{name}")
    if picture is not None:
        yield Row(number, picture, "", captions, at)
