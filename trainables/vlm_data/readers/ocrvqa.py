"""OCR-VQA: questions on book covers.

Layout (ocr-vqa.github.io, read in mmpretrain/datasets/ocr_vqa.py): dataset.json {id: {imageURL, questions, answers, title, authorName,
genre, split}} with split 1, 2, 3 for train, val, test; pictures images/<id><ending of imageURL>, as its loadDataset.py fetches them.
LLaVA's docs save all of them as .jpg, so that name is tried as well. One row a question, id <id>_<place>.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath

from trainables.vlm_data.folder import Folder
from trainables.vlm_data.row import At, Row
from trainables.vlm_data.spec import VlmDataSpec

_NUMBER = {"train": 1, "val": 2, "test": 3}


def read(folder: Folder, split: str, spec: VlmDataSpec) -> Iterator[Row]:
    path = folder.file("dataset.json")
    books = None if path is None else folder.json(path)
    if path is None or books is None:
        return
    if not isinstance(books, dict):
        folder.problems.add("layout", path, "no JSON object of books", f"get {folder.download}")
        return
    for book, entry in books.items():
        at = At(path, keys=(book,))
        if not isinstance(entry, dict) or entry.get("split") not in _NUMBER.values():
            folder.problems.add("layout", at, "no split 1, 2 or 3", f"get {folder.download}")
            continue
        if entry["split"] != _NUMBER[split]:
            continue
        questions, answers = folder.field(entry, "questions", list, at), folder.field(entry, "answers", list, at)
        if questions is None or answers is None:
            continue
        if len(questions) != len(answers):
            got = f"{len(questions)} questions, {len(answers)} answers"
            folder.problems.add("no answers", at, got, "give one answer to each question")
            continue
        ending = PurePosixPath(str(entry.get("imageURL", ""))).suffix or ".jpg"
        picture = folder.picture(at, *dict.fromkeys((f"images/{book}{ending}", f"images/{book}.jpg")))
        if picture is not None:
            for k, (question, answer) in enumerate(zip(questions, answers, strict=True)):
                yield Row(f"{book}_{k}", picture, str(question).strip(), (str(answer),), at)
