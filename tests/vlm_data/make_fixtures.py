"""Small folders in the true layouts of the published data sets, with their quirks, for the tests of the readers.

    python -m tests.vlm_data.make_fixtures DIR

writes all of them below DIR. Every picture is another one unless a quirk wants a copy.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

MORE_POSTS = {10: "positive", 11: "positive", 12: "neutral", 13: "neutral", 14: "negative"}
TEN = ["net", "net", "net", "netting", "net", "mesh", "net", "net", "Net.", "a net"]


def picture(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path, "PNG" if path.suffix == ".png" else "JPEG")


def dump(path: Path, value: Any, indent: int | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=indent))


def mvsa(root: Path) -> None:
    """Mixed separators, a gap in the ids, dirty encodings, disagreement of three sorts, a copied picture, CR LF line ends."""
    rows = [
        "ID\ttext,image",
        "1\tpositive,positive",
        "2\tneutral,positive",
        "3\tnegative\tnegative",  # tab where a comma belongs
        "5,neutral,neutral",  # comma where a tab belongs
        "6\tpositive,negative",
        "7\tnegative,negative",
        "8\tpositive,positive",
        "9\tpositive,neutral",
        *(f"{number}\t{label},{label}" for number, label in MORE_POSTS.items()),
        "",
    ]
    posts = {
        1: b"RT @someone: caf\xc3\xa9 time! #happy http://t.co/x\n",
        2: b"nothing much\r\n",
        3: b"so sad \xe9t\xe9 is over\n",  # latin-1
        5: b"train at\n10:30",
        6: b"mixed",
        7: b"\x93quoted\x94",  # Windows quotes
        8: b"again",
        9: b"fine",
    } | {number: b"post %d" % number for number in MORE_POSTS}
    (root / "data").mkdir(parents=True)
    (root / "labelResultAll.txt").write_bytes("\r\n".join(rows).encode())
    for number, post in posts.items():
        (root / "data" / f"{number}.txt").write_bytes(post)
        picture(root / "data" / f"{number}.jpg", 1 if number == 8 else number)  # 8 is a copy of 1


def llava_json(root: Path) -> None:
    """Several turns, `<image>` before and after the words, Qwen-VL's names, a number as id."""
    dump(
        root / "train.json",
        [
            {
                "id": "000000033471",
                "image": "coco/000000033471.jpg",
                "conversations": [
                    {"from": "human", "value": "<image>\nWhat are the colors of the bus?"},
                    {"from": "gpt", "value": "White and red."},
                    {"from": "human", "value": "Who drives it?"},
                    {"from": "gpt", "value": "A man."},
                ],
            },
            {
                "id": 7,
                "image": "b.png",
                "conversations": [{"from": "human", "value": "Describe it.\n<image>"}, {"from": "gpt", "value": " A wall. "}],
            },
            {
                "id": "identity_0",
                "conversations": [
                    {"from": "user", "value": "Picture 1: <img>coco/c.jpg</img>\nWhat is it?"},
                    {"from": "assistant", "value": "A dog."},
                ],
            },
        ],
        indent=2,
    )
    picture(root / "coco/000000033471.jpg", 1)
    picture(root / "images/b.png", 2)
    picture(root / "coco/c.jpg", 3)


def scienceqa(root: Path) -> None:
    """Rows with and without picture, an empty hint, pictures under images/ or not, mini splits of another split's pictures."""
    problem = lambda split, answer, image, hint="": {  # noqa: E731
        "question": "Which of these states is farthest north?",
        "choices": ["West Virginia", "Louisiana", "Arizona", "Oklahoma"],
        "answer": answer,
        "hint": hint,
        "image": image,
        "task": "closed choice",
        "grade": "grade2",
        "subject": "social science",
        "split": split,
    }
    dump(
        root / "problems.json",
        {
            "1": problem("train", 0, "image.png", "Look at the map."),
            "2": problem("train", 3, None),
            "3": problem("val", 1, "image.png"),
            "11": problem("test", 2, "image.png"),
        },
    )
    dump(
        root / "pid_splits.json",
        {"train": ["1", "2"], "val": ["3"], "test": ["11"], "minival": ["3"], "minitest": ["11"], "trainval": ["1", "2", "3"]},
    )
    picture(root / "train/1/image.png", 1)
    picture(root / "val/3/image.png", 2)
    picture(root / "images/test/11/image.png", 3)


def iconqa(root: Path) -> None:
    """Both tasks in one folder: the answer is a place in the one and words in the other."""
    seed = 0
    for part, split in enumerate(("train", "val", "test")):
        for k, number in enumerate((9 + 10 * part, 10 + 10 * part)):
            seed += 1
            below = root / "iconqa_data/iconqa" / split / "choose_txt" / str(number)
            question = {"question": "How likely is it that you will pick a black one?", "choices": ["certain", "unlikely", "impossible"]}
            dump(below / "data.json", question | {"answer": k + 1, "ques_type": "choose_txt", "grade": "grade1", "label": "S2"})
            picture(below / "image.png", seed)
        seed += 1
        below = root / "iconqa_data/iconqa" / split / "fill_in_blank" / str(4 + part)
        dump(below / "data.json", {"question": "The clock shows (_):00.", "answer": "5", "ques_type": "fill_in_blank", "label": "S2"})
        picture(below / "image.png", seed)


def vizwiz(root: Path) -> None:
    """Ten answers with confidence, an unanswerable question."""
    for split, seed in (("train", 1), ("val", 2)):
        answers = [{"answer_confidence": "yes", "answer": "unanswerable"}] * 7 + [{"answer_confidence": "no", "answer": "basil"}] * 3
        entries = [
            {
                "image": f"VizWiz_{split}_0000000{k}.jpg",
                "question": "Ok. There is another picture I hope it is a better one.",
                "answers": answers,
                "answer_type": "unanswerable",
                "answerable": 0,
            }
            for k in range(4)
        ]
        dump(root / "Annotations" / f"{split}.json", entries)
        for k in range(4):
            picture(root / split / f"VizWiz_{split}_0000000{k}.jpg", 10 * seed + k)


def flickr30k(root: Path) -> None:
    """A caption with a quote, a comma and a line break; five captions a picture; three splits in one table."""
    root.mkdir(parents=True, exist_ok=True)
    with open(root / "flickr_annotations_30k.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["raw", "sentids", "split", "filename", "img_id"])
        for i, split in enumerate(("train", "train", "val", "test", "train")):
            raw = [f'Two young guys, "shaggy" hair {i}.', "A café.", "Three .", "Four .", "Five ."]
            # as the published table: JSON, whose text may run over lines
            table.writerow([json.dumps(raw, ensure_ascii=False, indent=0 if i == 1 else None), "[0, 1, 2, 3, 4]", split, f"10{i}.jpg", i])
            picture(root / "flickr30k-images" / f"10{i}.jpg", i)


def coco_caption(root: Path) -> None:
    """Karpathy's file: restval counts as train, pictures of train lie in val2014 too, one picture has six captions."""
    images = []
    for k, (split, part) in enumerate([("train", "train2014"), ("restval", "val2014"), ("val", "val2014"), ("test", "val2014")]):
        name = f"COCO_{part}_{k + 9:012}.jpg"
        sentences = [{"raw": f"A dog number {k}. ", "tokens": ["a"], "imgid": k, "sentid": k}] * (6 if k == 0 else 5)
        rest = {"cocoid": k + 9, "imgid": k, "sentids": [0], "sentences": sentences}
        images.append({"filepath": part, "filename": name, "split": split} | rest)
        picture(root / part / name, k)
    dump(root / "dataset_coco.json", {"images": images, "dataset": "coco"})


def _coco_questions(root: Path, questions: str, annotations: str) -> None:
    for split, seed in (("train", 1), ("val", 2)):
        part = f"{split}2014"
        asked = [{"image_id": seed * 100 + k // 2, "question": f"What is this {k}?", "question_id": seed * 1000 + k} for k in range(8)]
        answers = [{"answer": word, "answer_confidence": "yes", "answer_id": i + 1} for i, word in enumerate(TEN)]
        known = [
            {
                "question_type": "what is this",
                "multiple_choice_answer": "net",
                "answers": answers,
                "image_id": q["image_id"],
                "answer_type": "other",
                "question_id": q["question_id"],
            }
            for q in reversed(asked)  # the two files are not in one order
        ]
        dump(root / questions.format(part), {"info": {}, "task_type": "Open-Ended", "data_subtype": part, "questions": asked})
        dump(root / annotations.format(part), {"info": {}, "data_subtype": part, "annotations": known})
        for image in {int(q["image_id"]) for q in asked}:  # type: ignore[call-overload]
            picture(root / part / f"COCO_{part}_{image:012}.jpg", image)


def okvqa(root: Path) -> None:
    """Names as VQA v1 has them; two questions on each picture."""
    _coco_questions(root, "OpenEnded_mscoco_{}_questions.json", "mscoco_{}_annotations.json")


def vqav2(root: Path) -> None:
    """As OK-VQA with v2_ before the names."""
    _coco_questions(root, "v2_OpenEnded_mscoco_{}_questions.json", "v2_mscoco_{}_annotations.json")


def ocrvqa(root: Path) -> None:
    """Five questions a book, splits as numbers, one picture a GIF by its address and a JPEG on disk."""
    books = {}
    for number, (key, ending) in enumerate([("761183272", ".jpg"), ("1421270315", ".gif"), ("0739050303", ".jpg")], 1):
        books[key] = {
            "imageURL": f"http://ecx.images-amazon.com/images/I/61Y5cOdHJbL{ending}",
            "questions": ["Who wrote this book?", "What is the year printed on this calendar?"],
            "answers": ["Sandra Boynton", "2016"],
            "title": "Mom's Family Wall Calendar 2016",
            "authorName": "Sandra Boynton",
            "genre": "Calendars",
            "split": number,
        }
        picture(root / "images" / f"{key}.jpg", number)
    dump(root / "dataset.json", books)


def textvqa(root: Path) -> None:
    """Pictures of train and val in one folder; OCR tokens in a file of their own, none for one picture."""
    for split, seed in (("train", 1), ("val", 2)):
        data, tokens = [], []
        for k in range(3):
            image = f"00{seed}a{k}"
            data.append(
                {
                    "question_id": seed * 10 + k,
                    "image_id": image,
                    "question": "what brand is it?",
                    "answers": ["nokia"] * 10,
                    "set_name": split,
                }
            )
            if k:
                tokens.append({"image_id": image, "ocr_tokens": ["NOKIA", "9:00"], "ocr_info": []})
            picture(root / "train_images" / f"{image}.jpg", seed * 10 + k)
        dump(
            root / f"TextVQA_0.5.1_{split}.json",
            {"dataset_type": split, "dataset_version": "0.5.1", "data": data},
        )
        dump(root / f"TextVQA_Rosetta_OCR_v0.2_{split}.json", {"data": tokens})


def gqa(root: Path) -> None:
    """Question ids as keys; testdev stands for test."""
    for k, split in enumerate(("train", "val", "testdev")):
        entry = {
            "question": "Is the sky dark?",
            "answer": "yes",
            "fullAnswer": "Yes, the sky is dark.",
            "imageId": f"n{k}",
            "isBalanced": True,
        }
        dump(root / "questions1.2" / f"{split}_balanced_questions.json", {f"0{k}930152": entry})
        picture(root / "images" / f"n{k}.jpg", k)


MAKERS: dict[str, Callable[[Path], None]] = {
    "mvsa": mvsa,
    "llava_json": llava_json,
    "scienceqa": scienceqa,
    "iconqa_txt": iconqa,
    "iconqa_blank": iconqa,
    "vizwiz": vizwiz,
    "flickr30k": flickr30k,
    "coco_caption": coco_caption,
    "okvqa": okvqa,
    "vqav2": vqav2,
    "ocrvqa": ocrvqa,
    "textvqa": textvqa,
    "gqa": gqa,
}

if __name__ == "__main__":
    for name, maker in MAKERS.items():
        maker(Path(sys.argv[1]) / name)
