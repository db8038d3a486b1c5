"""The bundled clip art: drawings with a class, a title and keywords, as classification of picture and words or as captioning.

`trainables/data/bundled/README.md` says where it is from. A title is one reference, so caption scores on it are low and only comparable
with each other. Titles name the drawing, not the class.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from trainables.data.readers import BUNDLED
from trainables.vlm_data.folder import Folder
from trainables.vlm_data.row import At, Picture, Row
from trainables.vlm_data.spec import VlmDataSpec


def read_classes(folder: Folder, split: str, spec: VlmDataSpec) -> Iterator[Row]:
    for i, cells, picture in _cells(split):
        title, keywords = str(cells["title"] or "").strip(), str(cells["keywords"] or "").strip()
        words = {"title": title, "keywords": keywords, "title_keywords": f"{title}. {keywords}".strip(". "), "none": ""}
        yield Row(cells["source"], picture, words[spec.words], (cells["label"],), At(BUNDLED, line=i), label=cells["label"])


def read_captions(folder: Folder, split: str, spec: VlmDataSpec) -> Iterator[Row]:
    for i, cells, picture in _cells(split):
        yield Row(cells["source"], picture, "", (str(cells["title"]).strip(),), At(BUNDLED, line=i), label=None)


def _cells(split: str) -> Iterator[tuple[int, dict[str, Any], Picture]]:
    import pyarrow.parquet as pq

    table = pq.read_table(BUNDLED)
    images = table.column("image")
    for i, cells in enumerate(table.drop_columns(["image"]).to_pylist()):
        if cells["split"] == split:
            yield i + 1, cells, Picture(cells["source"], lambda i=i: images[i].as_py())  # type: ignore[misc]
