"""easy-VQA: questions on drawn shapes, 13 answers; the small real data set that installs from PyPI.

Layout of package easy-vqa 1.0 (MIT): data/{train,test}/questions.json, a list of [question, answer, image number]; data/<split>/images/
<number>.png, 64 x 64; data/answers.txt, one answer a line. 38,575 + 9,673 questions on 4,000 + 1,000 pictures.
"""

from __future__ import annotations

from collections.abc import Iterator

from trainables.vlm_data.folder import Folder
from trainables.vlm_data.row import At, Row
from trainables.vlm_data.spec import VlmDataSpec
from tune.core.errors import did_you_mean


def read(folder: Folder, split: str, spec: VlmDataSpec) -> Iterator[Row]:
    known, path = folder.file("data/answers.txt"), folder.file(f"data/{split}/questions.json")
    if known is None or path is None:
        return
    answers = frozenset((folder.text(known) or "").split())
    for i, entry in enumerate(folder.json(path) or []):
        at = At(path, keys=(i,))
        if not (isinstance(entry, list) and len(entry) == 3):
            folder.problems.add("layout", at, f"{str(entry)[:60]}", "give question, answer and picture number")
            continue
        question, answer, number = entry
        if answer not in answers:
            got = f"answer '{answer}'{did_you_mean(str(answer), answers)}"
            folder.problems.add("unknown label", at, got, f"use one of {known.name}: {', '.join(sorted(answers))}")
            continue
        picture = folder.picture(at, f"data/{split}/images/{number}.png")
        if picture is not None:
            yield Row(f"{split}_{i}", picture, str(question), (answer,), at, label=answer)
