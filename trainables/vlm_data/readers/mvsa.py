"""MVSA-Single: posts with a picture and two labels, one of the words and one of the picture.

Layout: labelResultAll.txt (some copies spell it labelResultsAll), header `ID<tab>text,image`, rows `id<tab>textlabel,imagelabel` where tab
and comma are mixed, so lines are split on both; data/<id>.jpg and data/<id>.txt, in a folder that may be called MVSA_Single. The posts
are not clean UTF-8; public loaders read them as latin-1 or with errors replaced (seen in a dozen loaders on GitHub, which agree on the
rest: file names, both separators, agreement as the filter). Here a post that is not UTF-8 is read as latin-1 and counted.

Agreement `all`: rows whose two labels are equal (2,592 of 4,869, Cheema et al. 2021). `lenient`: a neutral label yields to the other and
only positive against negative is dropped (4,511).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from trainables.data.rows import read_file
from trainables.vlm_data.folder import Folder
from trainables.vlm_data.row import At, Row
from trainables.vlm_data.spec import VlmDataSpec
from tune.core.errors import did_you_mean

_LABELS = ("positive", "neutral", "negative")
_NAMES = ("labelResultAll.txt", "labelResultsAll.txt")


def read(folder: Folder, split: str, spec: VlmDataSpec) -> Iterator[Row]:
    path = folder.file(*_NAMES, *(f"MVSA_Single/{name}" for name in _NAMES))
    if path is None:
        return
    data = path.parent.relative_to(folder.root) / "data"
    lines = (folder.text(path) or "").splitlines()
    seen: set[str] = set()
    for number, line in enumerate(lines, 1):
        at = At(path, number)
        cells = [cell.strip() for cell in re.split(r"[\t,]", line.strip())]
        if not line.strip() or (number == 1 and cells[0].lower() == "id"):
            continue
        label = _label(folder, cells, at, spec.agreement or "all")
        if label is None:
            continue
        if cells[0] in seen:
            folder.problems.add("repeated id", at, f"id {cells[0]} a second time", "keep one line for each id")
            continue
        seen.add(cells[0])
        picture = folder.picture(at, f"{data}/{cells[0]}.jpg")
        post = _post(folder, f"{data}/{cells[0]}.txt", at)
        if picture is not None and post is not None:
            yield Row(cells[0], picture, post if spec.words == "post" else "", (label,), at, label)


def _label(folder: Folder, cells: list[str], at: At, agreement: str) -> str | None:
    """The one label of a row, or None if it has none (which is no problem) or is written wrongly (which is)."""
    if len(cells) != 3:
        folder.problems.add("label line", at, f"{len(cells)} fields", "write id, text label and image label")
        return None
    for word in cells[1:]:
        if word not in _LABELS:
            got = f"label '{word}'{did_you_mean(word, _LABELS)}"
            folder.problems.add("unknown label", at, got, f"use {', '.join(_LABELS)}")
            return None
    words, picture = cells[1:]
    if words == picture:
        return words
    if agreement == "lenient" and "neutral" in (words, picture):
        return picture if words == "neutral" else words
    return None


def _post(folder: Folder, name: str, at: At) -> str | None:
    path = folder.has(name)
    if path is None:
        folder.problems.add("missing file", at, f"there is no {name} in {folder.root}", "put it there or leave the row out")
        return None
    try:
        data = read_file(path)
    except OSError as error:
        folder.problems.add("unreadable file", path, f"it cannot be read: {error.strerror or error}", "make it readable")
        return None
    text = folder.decoded(data, path)
    if text is not None and "\ufffd" not in text and not _is_utf8(data):
        folder.problems.warnings.append(f"{path.name} is not UTF-8 and was read as latin-1")
    return None if text is None else " ".join(text.split())


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
