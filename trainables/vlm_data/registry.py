"""reader -> where its code is, what it promises and what to download. Light: names only, code is imported when a source is read.

A new data set is one file under `readers/` and one entry here; the contract tests run over every entry.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Task = Literal["question", "choice", "caption", "class", "chat"]
_OWN = {"train": "train", "val": "val", "test": "test"}
_NO_TEST = {"train": "train", "test": "val"}  # the answers of the published test split are not public
_ALL = {"train": "all"}


@dataclass(frozen=True)
class Reader:
    """One published data set.

    `read`: "module:function", `(folder, split, spec) -> iterator of rows`. `splits`: the source's own names; ("all",) where it has
    none. `parts`: which of them are train, val and test unless a study says otherwise; val and test that are absent are cut out of
    train. `metric`: name in `text_metrics.registry` of the score its paper reports. `text_fields`: words that `text` may be, the first
    by default. `options`: fields of the spec that mean something to this reader alone. `download`: what to get from where, and the
    layout to put it into. `label_names`: the classes that are known beforehand.
    """

    read: str
    task: Task
    splits: tuple[str, ...]
    prompt: str
    metric: str
    download: str
    parts: Mapping[str, str] = field(default_factory=lambda: _OWN)
    text_fields: tuple[str, ...] = ("question",)
    options: tuple[str, ...] = ()
    label_names: tuple[str, ...] = ()
    packaged: bool = False

    @property
    def has_choices(self) -> bool:
        return self.task == "choice"

    @property
    def has_labels(self) -> bool:
        return self.task == "class"


_AT = "trainables.vlm_data.readers."
_COCO = "images of COCO train2014 and val2014 (cocodataset.org) as train2014/ and val2014/"
READERS: dict[str, Reader] = {
    "mvsa": Reader(
        _AT + "mvsa:read", "class", ("all",), "post_sentiment", "accuracy",
        "MVSA-Single (mcrlab.net, or Kaggle vincemarcs/mvsasingle): labelResultAll.txt and data/<id>.jpg, data/<id>.txt",
        _ALL, ("post", "none"), ("agreement",), ("positive", "neutral", "negative"),
    ),
    "llava_json": Reader(
        _AT + "llava_json:read", "chat", ("all",), "as_is", "exact_match",
        "a LLaVA-style .json or .jsonl of conversations, its pictures beside it or in image_folder", _ALL, options=("image_folder",),
    ),
    "scienceqa": Reader(
        _AT + "scienceqa:read", "choice", ("train", "val", "test", "minival", "minitest", "trainval"), "option_letter", "option_accuracy",
        "ScienceQA (github.com/lupantech/ScienceQA): problems.json, pid_splits.json and <split>/<id>/image.png",
        text_fields=("question_hint", "question"),
    ),
    "iconqa_txt": Reader(
        _AT + "iconqa:read_choose_txt", "choice", ("train", "val", "test"), "iconqa_choices", "exact_match",
        "IconQA (iconqa.github.io): iconqa_data.zip, unpacked to iconqa/<split>/choose_txt/<id>/data.json and image.png",
    ),
    "iconqa_blank": Reader(
        _AT + "iconqa:read_fill_in_blank", "question", ("train", "val", "test"), "iconqa_blank", "exact_match",
        "IconQA (iconqa.github.io): iconqa_data.zip, unpacked to iconqa/<split>/fill_in_blank/<id>/data.json and image.png",
    ),
    "vizwiz": Reader(
        _AT + "vizwiz:read", "question", ("train", "val"), "vizwiz_short", "vqa_score",
        "VizWiz-VQA (vizwiz.org): Annotations/train.json and val.json, images in train/ and val/", _NO_TEST,
    ),
    "flickr30k": Reader(
        _AT + "flickr30k:read", "caption", ("train", "val", "test"), "caption", "cider",
        "Flickr30k (hf nlphuji/flickr30k): flickr_annotations_30k.csv and flickr30k-images/", text_fields=("none",),
    ),
    "coco_caption": Reader(
        _AT + "coco_caption:read", "caption", ("train", "val", "test"), "caption", "cider",
        f"Karpathy's dataset_coco.json, or annotations/captions_<split>2014.json (then parts: train, val only); {_COCO}",
        text_fields=("none",),
    ),
    "okvqa": Reader(
        _AT + "okvqa:read", "question", ("train", "val"), "short_answer", "vqa_score",
        f"OK-VQA (okvqa.allenai.org): OpenEnded_mscoco_<split>2014_questions.json, mscoco_<split>2014_annotations.json; {_COCO}", _NO_TEST,
    ),
    "vqav2": Reader(
        _AT + "vqav2:read", "question", ("train", "val"), "short_answer", "vqa_score",
        f"VQA v2 (visualqa.org): v2_OpenEnded_mscoco_<split>2014_questions.json, v2_mscoco_<split>2014_annotations.json; {_COCO}", _NO_TEST,
    ),
    "ocrvqa": Reader(
        _AT + "ocrvqa:read", "question", ("train", "val", "test"), "short_answer", "exact_match",
        "OCR-VQA (ocr-vqa.github.io): dataset.json, and what its loadDataset.py fetches into images/<id>.jpg",
    ),
    "textvqa": Reader(
        _AT + "textvqa:read", "question", ("train", "val"), "short_answer_context", "vqa_score",
        "TextVQA (textvqa.org): TextVQA_0.5.1_<split>.json, train_images/ and, for OCR tokens, TextVQA_Rosetta_OCR_v0.2_<split>.json",
        _NO_TEST, ("question_ocr", "question"),
    ),
    "gqa": Reader(
        _AT + "gqa:read", "question", ("train", "val", "testdev"), "short_answer", "exact_match",
        "GQA (gqadataset.org): <split>_balanced_questions.json (of questions1.2.zip) and images/",
        {"train": "train", "val": "val", "test": "testdev"},
    ),
    "easy_vqa": Reader(
        _AT + "easy_vqa:read", "question", ("train", "test"), "short_answer", "exact_match",
        "pip install easy-vqa==1.0", {"train": "train", "test": "test"}, packaged=True,
    ),
    "clipart": Reader(
        _AT + "clipart:read_classes", "class", ("train", "val", "test"), "clipart_class", "accuracy",
        "bundled", text_fields=("title", "keywords", "title_keywords", "none"), packaged=True,
    ),
    "clipart_caption": Reader(
        _AT + "clipart:read_captions", "caption", ("train", "val", "test"), "caption", "cider",
        "bundled", text_fields=("none",), packaged=True,
    ),
}  # fmt: skip
