"""LLaVA-style conversations: a JSON list (or JSON lines) of {id, image, conversations: [{from: human|gpt, value}, ...]}.

Layout as in docs/Finetune_Custom_Data.md of haotian-liu/LLaVA: `image` is a path below the picture folder, `<image>` in the first human
turn marks its place and is taken off here (where it goes back is the chat template's business). Also Qwen-VL's names: from user/assistant,
and a picture inside the text as `Picture 1: <img>path</img>` (finetune.md of QwenLM/Qwen-VL). Rows without `image` are text alone.
The format has no splits.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trainables.data.rows import read_file
from trainables.vlm_data.folder import Folder
from trainables.vlm_data.row import At, Picture, Row, Turn
from trainables.vlm_data.spec import VlmDataSpec

_USER, _MODEL = ("human", "user"), ("gpt", "assistant")
_QWEN_PICTURE = re.compile(r"(?:Picture \d+: ?)?<img>(.*?)</img>\n?")


def read(folder: Folder, split: str, spec: VlmDataSpec) -> Iterator[Row]:
    path = _file(folder)
    if path is None:
        return
    elsewhere = None
    if spec.image_folder:
        elsewhere = Folder(Path(spec.image_folder).expanduser(), folder.download, folder.undecodable, folder.problems)
    rows = folder.json_lines(path) if path.suffix == ".jsonl" else folder.entries(path)
    for i, (at, entry) in enumerate(rows):
        turns = _turns(folder, entry, at)
        if not turns:
            continue
        name = entry.get("image")
        found = _QWEN_PICTURE.search(turns[0].said)
        if name is None and found:
            name = found[1]
        picture = None
        if isinstance(name, str) and name:
            picture = _picture(folder, elsewhere, name, at)
            if picture is None:
                continue
        elif name is not None:
            folder.problems.add("image", at, f"image is {str(name)[:60]!r}", "give one path; several pictures a row are not supported")
            continue
        plain = tuple(Turn(_QWEN_PICTURE.sub("", turn.said).replace("<image>", "").strip(), turn.answered) for turn in turns)
        yield Row(str(entry.get("id", i)), picture, plain[0].said, (plain[0].answered,), at, turns=plain)


def _file(folder: Folder) -> Path | None:
    """The source itself if it is a file, else the one .json or .jsonl in it."""
    if folder.root.is_file():
        folder.root, path = folder.root.parent, folder.root
        return path
    files = sorted([*folder.root.glob("*.json"), *folder.root.glob("*.jsonl")])
    if len(files) == 1:
        return files[0]
    got = f"{len(files)} .json files" if files else "no .json or .jsonl file"
    folder.problems.add("layout", folder.root, got, "name the file itself as trainable.data.source")
    return None


def _picture(folder: Folder, elsewhere: Folder | None, name: str, at: At) -> Picture | None:
    if Path(name).is_absolute():  # Qwen-VL's own files have such
        path = Path(name)
        if path.is_file():
            return Picture(name, lambda: read_file(path))
        folder.problems.add("missing picture", at, f"there is no {name}", "put it there or leave the row out")
        return None
    return (elsewhere or folder).picture(at, name, *([] if elsewhere else [f"images/{name}"]))


def _turns(folder: Folder, entry: Any, at: At) -> list[Turn]:
    """Pairs of question and answer; empty after a problem."""
    conversation = entry.get("conversations") if isinstance(entry, dict) else None
    if not isinstance(conversation, list) or not conversation or not all(isinstance(turn, dict) for turn in conversation):
        folder.problems.add("no conversations", at, "no conversations", "give each row a list of turns {from, value}")
        return []
    said = [(str(turn.get("from")), turn.get("value")) for turn in conversation]
    for k, (who, value) in enumerate(said):
        expected = _USER if k % 2 == 0 else _MODEL
        if who not in expected:
            folder.problems.add(
                "turns", at, f"turn {k + 1} is from {who}", f"let human and gpt take turns, human first ({expected[0]} here)"
            )
            return []
        if not isinstance(value, str):
            folder.problems.add("turns", at, f"turn {k + 1} has no words", "give each turn a value of text")
            return []
    if len(said) % 2:
        folder.problems.add("turns", at, "the last turn has no answer", "end with a turn of gpt")
        return []
    return [Turn(str(said[k][1]), str(said[k + 1][1]).strip()) for k in range(0, len(said), 2)]
