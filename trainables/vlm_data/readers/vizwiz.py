"""VizWiz-VQA: questions that blind people asked about their own photographs; many cannot be answered.

Layout (vizwiz.org): Annotations/{train,val}.json (or beside the pictures), a list of {image, question, answers: [{answer,
answer_confidence}] x 10, answer_type, answerable}; pictures in train/ and val/. The test split's answers are not public, so `val` is the
default test part, as in Zhou et al. (2024). All ten answers are kept, "unanswerable" among them: that is what the VQA score counts.
"""

from __future__ import annotations

from collections.abc import Iterator

from trainables.vlm_data.folder import Folder
from trainables.vlm_data.readers.coco_questions import answers_of
from trainables.vlm_data.row import Row
from trainables.vlm_data.spec import VlmDataSpec


def read(folder: Folder, split: str, spec: VlmDataSpec) -> Iterator[Row]:
    path = folder.file(f"Annotations/{split}.json", f"annotations/{split}.json", f"{split}.json")
    for at, entry in folder.entries(path):
        question, name = folder.field(entry, "question", str, at), folder.field(entry, "image", str, at)
        answers = answers_of(folder, entry, at)
        if question is None or name is None or not answers:
            continue
        picture = folder.picture(at, f"{split}/{name}", f"images/{split}/{name}", f"images/{name}")
        if picture is not None:
            yield Row(name.rpartition(".")[0], picture, question.strip(), answers, at)
