"""Flickr30k: photographs with five captions each, in Karpathy's splits.

Layout of hf nlphuji/flickr30k (its flickr30k.py): flickr_annotations_30k.csv with columns raw and sentids (JSON lists), split, filename,
img_id; pictures flickr30k-images/<filename>. Karpathy's own dataset_flickr30k.json is not read: the table holds the same.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator

from trainables.vlm_data.folder import Folder
from trainables.vlm_data.row import At, Row
from trainables.vlm_data.spec import VlmDataSpec

_NEEDED = ("raw", "split", "filename")


def read(folder: Folder, split: str, spec: VlmDataSpec) -> Iterator[Row]:
    path = folder.file("flickr_annotations_30k.csv")
    text = None if path is None else folder.text(path)
    if path is None or text is None:
        return
    table = csv.DictReader(io.StringIO(text, newline=""))
    lacking = [name for name in _NEEDED if name not in (table.fieldnames or [])]
    if lacking:
        folder.problems.add("layout", At(path, 1), f"no column {', '.join(lacking)}", f"get {folder.download}")
        return
    first = 2
    for cells in table:
        at, first = At(path, first), table.line_num + 1  # a caption may hold a line break
        if cells["split"] != split:
            continue
        captions = _captions(cells["raw"])
        if not captions:
            folder.problems.add("no captions", at, f"raw is {str(cells['raw'])[:40]!r}", "give a JSON list of captions")
            continue
        picture = folder.picture(at, f"flickr30k-images/{cells['filename']}", f"flickr30k_images/{cells['filename']}")
        if picture is not None:
            yield Row(cells.get("img_id") or cells["filename"], picture, "", captions, at)


def _captions(raw: str | None) -> tuple[str, ...]:
    try:
        found = json.loads(raw or "")
    except ValueError:
        return ()
    return tuple(found) if isinstance(found, list) and all(isinstance(caption, str) and caption.strip() for caption in found) else ()
