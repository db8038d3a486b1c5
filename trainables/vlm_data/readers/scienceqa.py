"""ScienceQA: school questions with lettered options, about half of them with a picture.

Layout of lupantech/ScienceQA: problems.json {pid: {question, choices, answer (index), hint, image (file name or null), split, ...}},
pid_splits.json {split: [pid]} with train, val, test, minival, minitest, trainval; pictures <split>/<pid>/image.png, as downloaded or
under images/ (LLaVA's docs put them there). The mini and trainval splits draw on the pictures of the split in problems.json.
Rows without a picture are the data's own: `imageless: drop` gives the published "IMG" subset, `keep` the whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from trainables.vlm_data.folder import Folder
from trainables.vlm_data.row import At, Row
from trainables.vlm_data.spec import VlmDataSpec


def read(folder: Folder, split: str, spec: VlmDataSpec) -> Iterator[Row]:
    path = folder.file("problems.json", "data/problems.json", "data/scienceqa/problems.json")
    splits = folder.file("pid_splits.json", "data/pid_splits.json", "data/scienceqa/pid_splits.json")
    if path is None or splits is None:
        return
    problems, ids = folder.json(path), (folder.json(splits) or {}).get(split)
    if problems is None:
        return
    if not isinstance(ids, list) or not isinstance(problems, dict):
        folder.problems.add("layout", At(splits), f"no split {split} in it", f"get {folder.download}")
        return
    for i, pid in enumerate(ids):
        entry = problems.get(str(pid))
        if not isinstance(entry, dict):
            folder.problems.add("layout", At(splits, keys=(split, i)), f"problem {pid} is not in {path.name}", f"get {folder.download}")
            continue
        row = _row(folder, str(pid), entry, At(path, keys=(str(pid),)), spec)
        if row is not None:
            yield row


def _row(folder: Folder, pid: str, entry: dict[str, Any], at: At, spec: VlmDataSpec) -> Row | None:
    question = folder.field(entry, "question", str, at)
    choices = folder.field(entry, "choices", list, at)
    answer = folder.field(entry, "answer", int, at)
    if question is None or choices is None or answer is None:
        return None
    if not 0 <= answer < len(choices):
        folder.problems.add(
            "unknown label", at, f"answer {answer} of {len(choices)} choices", "give the place of one of the choices, from 0"
        )
        return None
    picture = None
    if entry.get("image"):
        below = f"{entry.get('split')}/{pid}/{entry['image']}"
        picture = folder.picture(at, below, f"images/{below}", f"data/scienceqa/images/{below}")
        if picture is None:
            return None
    words = tuple(str(choice) for choice in choices)
    hint = str(entry.get("hint") or "").strip() if spec.words == "question_hint" else ""
    return Row(pid, picture, question.strip(), (words[answer],), at, choices=words, context=hint)
