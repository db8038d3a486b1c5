"""IconQA, two of its three tasks: choose an option by its text, and fill in a blank.

Layout of iconqa_data.zip (iconqa.github.io): iconqa/<split>/<task>/<id>/data.json and image.png, perhaps under iconqa_data/. data.json
holds question, answer, ques_type, grade, label; choose_txt also choices, and its answer is the place of the right one, from 0 (as in
mmpretrain/datasets/iconqa.py); in fill_in_blank it is the words. choose_img has pictures as options and is not read.
"""

from __future__ import annotations

from collections.abc import Iterator

from trainables.vlm_data.folder import Folder
from trainables.vlm_data.row import At, Row
from trainables.vlm_data.spec import VlmDataSpec


def read_choose_txt(folder: Folder, split: str, spec: VlmDataSpec) -> Iterator[Row]:
    return _read(folder, split, "choose_txt")


def read_fill_in_blank(folder: Folder, split: str, spec: VlmDataSpec) -> Iterator[Row]:
    return _read(folder, split, "fill_in_blank")


def _read(folder: Folder, split: str, task: str) -> Iterator[Row]:
    below = f"{split}/{task}"
    top = folder.file(f"iconqa/{below}", f"iconqa_data/iconqa/{below}", below)
    if top is None:
        return
    for path in sorted(top.glob("*/data.json"), key=lambda p: (len(p.parent.name), p.parent.name)):  # ids are numbers
        entry, at = folder.json(path), At(path, line=1)
        if not isinstance(entry, dict):
            if entry is not None:
                folder.problems.add("layout", at, "no JSON object", f"get {folder.download}")
            continue
        question = folder.field(entry, "question", str, at)
        picture = folder.picture(at, f"{path.parent.relative_to(folder.root)}/image.png")
        answer = folder.field(entry, "answer", (str, int), at)
        if question is None or picture is None or answer is None:
            continue
        choices: tuple[str, ...] = ()
        if task == "choose_txt":
            choices = tuple(str(choice) for choice in folder.field(entry, "choices", list, at) or [])
            if (isinstance(answer, int) and not 0 <= answer < len(choices)) or (isinstance(answer, str) and answer not in choices):
                fix = "give the place of one of the choices, from 0"
                folder.problems.add("unknown label", At(path, keys=("answer",)), f"answer {answer} of {len(choices)} choices", fix)
                continue
            answer = choices[answer] if isinstance(answer, int) else answer
        yield Row(path.parent.name, picture, question.strip(), (str(answer),), at, choices=choices)
