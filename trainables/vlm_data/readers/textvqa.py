"""TextVQA v0.5.1: questions whose answer is written in the picture, ten answers each.

Layout (textvqa.org, also read in google-research/big_vision): TextVQA_0.5.1_{train,val}.json {data: [{question_id, image_id, question,
answers}]}; pictures of both in train_images/<image_id>.jpg. OCR tokens, given to the model as `Reference OCR token`, are those of
TextVQA_Rosetta_OCR_v0.2_{train,val}.json {data: [{image_id, ocr_tokens}]}; text_field: question does without that file.
"""

from __future__ import annotations

from collections.abc import Iterator

from trainables.vlm_data.folder import Folder
from trainables.vlm_data.readers.coco_questions import answers_of
from trainables.vlm_data.row import Row
from trainables.vlm_data.spec import VlmDataSpec


def read(folder: Folder, split: str, spec: VlmDataSpec) -> Iterator[Row]:
    path = folder.file(f"TextVQA_0.5.1_{split}.json")
    tokens: dict[str, str] = {}
    if spec.words == "question_ocr":
        ocr = folder.file(f"TextVQA_Rosetta_OCR_v0.2_{split}.json")
        tokens = {
            str(entry.get("image_id")): ", ".join(map(str, entry.get("ocr_tokens") or [])) for _, entry in folder.entries(ocr, "data")
        }
    for at, entry in folder.entries(path, "data"):
        question, image = folder.field(entry, "question", str, at), folder.field(entry, "image_id", str, at)
        number = folder.field(entry, "question_id", int, at)
        answers = answers_of(folder, entry, at)
        if question is None or image is None or number is None or not answers:
            continue
        picture = folder.picture(at, f"train_images/{image}.jpg", f"train_val_images/train_images/{image}.jpg")
        if picture is not None:
            yield Row(str(number), picture, question.strip(), answers, at, context=tokens.get(image, ""))
