"""GQA: compositional questions with one answer; balanced files of questions1.2.

Layout (gqadataset.org/download.html): {train,val,testdev}_balanced_questions.json {id: {question, answer, fullAnswer, imageId, isBalanced,
...}}, beside or in questions/ or questions1.2/; pictures images/<imageId>.jpg. The answers of `test` are not public; papers report testdev.
"""

from __future__ import annotations

from collections.abc import Iterator

from trainables.vlm_data.folder import Folder
from trainables.vlm_data.row import At, Row
from trainables.vlm_data.spec import VlmDataSpec


def read(folder: Folder, split: str, spec: VlmDataSpec) -> Iterator[Row]:
    name = f"{split}_balanced_questions.json"
    path = folder.file(name, f"questions/{name}", f"questions1.2/{name}")
    asked = None if path is None else folder.json(path)
    if path is None or asked is None:
        return
    if not isinstance(asked, dict):
        folder.problems.add("layout", path, "no JSON object of questions", f"get {folder.download}")
        return
    for number, entry in asked.items():
        at = At(path, keys=(number,))
        if not isinstance(entry, dict):
            folder.problems.add("layout", at, "no JSON object", f"get {folder.download}")
            continue
        question, answer = folder.field(entry, "question", str, at), folder.field(entry, "answer", str, at)
        image = folder.field(entry, "imageId", str, at)
        if question is None or answer is None or image is None:
            continue
        picture = folder.picture(at, f"images/{image}.jpg", f"allImages/images/{image}.jpg")
        if picture is not None:
            yield Row(number, picture, question.strip(), (answer,), at)
