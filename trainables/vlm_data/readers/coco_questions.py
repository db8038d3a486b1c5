"""What OK-VQA and VQA v2 share: a file of questions, a file of annotations, and pictures of COCO 2014. No reader by itself.

Questions {questions: [{image_id, question, question_id}]}, annotations {annotations: [{question_id, image_id, answers: [{answer,
answer_confidence, answer_id}] x 10, ...}]} (visualqa.org/download.html); pictures <split>2014/COCO_<split>2014_<12 digits>.jpg.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from trainables.vlm_data.folder import Folder
from trainables.vlm_data.row import At, Picture, Row


def read(folder: Folder, split: str, questions: str, annotations: str) -> Iterator[Row]:
    """`questions`, `annotations`: file names, looked for in the folder itself and in the usual sub-folders."""
    asked = folder.file(questions, f"questions/{questions}", f"annotations/{questions}")
    known = folder.file(annotations, f"annotations/{annotations}")
    if asked is None or known is None:
        return
    answered = {entry.get("question_id"): (at, entry) for at, entry in folder.entries(known, "annotations")}
    for at, entry in folder.entries(asked, "questions"):
        question = folder.field(entry, "question", str, at)
        number = folder.field(entry, "question_id", int, at)
        image = folder.field(entry, "image_id", int, at)
        if question is None or number is None or image is None:
            continue
        if number not in answered:
            folder.problems.add("no answers", at, f"question {number} is not in {known.name}", f"get {folder.download}")
            continue
        answers = answers_of(folder, answered[number][1], answered[number][0])
        picture = coco_picture(folder, f"{split}2014", image, at)
        if answers and picture is not None:
            yield Row(str(number), picture, question.strip(), answers, at)


def coco_picture(folder: Folder, part: str, image: int, at: At) -> Picture | None:
    """A picture of COCO 2014, in its folder or under images/ or coco/; 2017 files have the number alone."""
    name = f"{part}/COCO_{part}_{image:012}.jpg"
    return folder.picture(at, name, f"images/{name}", f"coco/{name}", f"{part.replace('2014', '2017')}/{image:012}.jpg")


def answers_of(folder: Folder, entry: dict[str, Any], at: At) -> tuple[str, ...]:
    """All answers of an annotation, in order and with repeats, which the VQA score counts; empty after a problem."""
    answers = folder.field(entry, "answers", list, at) or []
    words = [answer.get("answer") if isinstance(answer, dict) else answer for answer in answers]
    if not words or not all(isinstance(word, str) for word in words):
        folder.problems.add("no answers", at, "no answers" if not words else "an answer that is no text", "give each question its answers")
        return ()
    return tuple(sys.intern(str(word)) for word in words)  # half a million rows share a few thousand answers
