"""Any reader's data set as a Hugging Face one: hf:owner/name, or a folder saved by datasets.save_to_disk.

Hub copies of one data set differ in their columns, so these are found by usual names, not by reader. No remote code is run: a data
set that is a loading script has to be read in its published layout instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from trainables.data.rows import SPLIT_WORDS, read_file
from trainables.vlm_data.folder import Problems
from trainables.vlm_data.row import At, Picture, Row
from trainables.vlm_data.spec import VlmDataSpec
from tune.core.errors import Problem, UserError

_IMAGE = ("image", "img", "jpg", "picture")
_TEXT = ("question", "text", "post", "problem")
_ANSWERS = ("answers", "answer", "captions", "caption", "sentences", "raw", "label")
_CHOICES = ("choices", "options")
_CONTEXT = ("hint", "context", "ocr_tokens")
_ID = ("question_id", "id", "image_id", "img_id", "pid")


def is_saved(source: str) -> bool:
    path = Path(source).expanduser()
    return source.startswith("hf:") or any((path / name).exists() for name in ("dataset_info.json", "dataset_dict.json"))


def read(spec: VlmDataSpec, wanted: list[str], where: str, problems: Problems) -> dict[str, Iterator[Row]]:
    """split -> rows. Raises UserError if the data set cannot be had or has no such split or column."""
    loaded = _loaded(spec, where)
    parts = dict(loaded) if isinstance(loaded, dict) else {"all": loaded}
    found: dict[str, Iterator[Row]] = {}
    if wanted == ["all"]:  # a reader that knows no splits: all that there is, to be divided here
        return {"all": chain.from_iterable(_rows(spec, part, data, where, problems) for part, data in parts.items())}
    for name in wanted:
        same = [part for part in parts if part == name or SPLIT_WORDS.get(part, part) == SPLIT_WORDS.get(name, name)]
        if not same:
            raise UserError(Problem("trainable.data.parts", f"there is no split {name} in {spec.source}", f"use one of {', '.join(parts)}"))
        found[name] = _rows(spec, same[0], parts[same[0]], where, problems)
    return found


def _loaded(spec: VlmDataSpec, where: str) -> Any:
    import datasets

    assert spec.source is not None, "the spec refuses a reader without a source"
    name = spec.source.removeprefix("hf:")
    try:
        if spec.source.startswith("hf:"):
            return datasets.load_dataset(name)
        return datasets.load_from_disk(str(Path(name).expanduser()))
    except Exception as error:  # noqa: BLE001 - the library raises many kinds; all mean that the data set is not to be had
        first = (str(error).splitlines() or [""])[0] or type(error).__name__
        save = f"datasets.load_dataset('{name}').save_to_disk('DIR')"
        fix = f"on a machine that reaches the hub: {save}, then bring DIR and name it here; or get {spec.entry.download}"
        raise UserError(Problem(where, f"{name} cannot be had: {first}", fix)) from None


def _rows(spec: VlmDataSpec, part: str, data: Any, where: str, problems: Problems) -> Iterator[Row]:
    import datasets

    names: list[str] = data.column_names
    pick: Callable[[tuple[str, ...]], str | None] = lambda usual: next((name for name in usual if name in names), None)  # noqa: E731
    image, answers = pick(_IMAGE), pick(_ANSWERS)
    if image is None or answers is None:
        lacking = " and ".join(word for word, name in (("picture", image), ("answer", answers)) if name is None)
        raise UserError(Problem(where, f"no column of {lacking} among {', '.join(names)}", f"rename one to {_IMAGE[0]} or {_ANSWERS[0]}"))
    text, choices, context, number = pick(_TEXT), pick(_CHOICES), pick(_CONTEXT), pick(_ID)
    classes = getattr(data.features[answers], "names", None)
    pictures = data.select_columns([image]).cast_column(image, datasets.Image(decode=False))
    for i, cells in enumerate(data.remove_columns([image])):
        at = At(Path(f"{spec.source}/{part}"), line=i)
        options = tuple(map(str, cells[choices] or [])) if choices else ()
        words = _words(cells[answers], options, classes)
        if not words:
            problems.add("no answers", at, f"{answers} is {str(cells[answers])[:40]!r}", "give each row an answer")
            continue
        beside = cells[context] if context and spec.words in ("question_hint", "question_ocr") else ""
        yield Row(
            id=f"{part}_{cells[number] if number else i}_{i}",
            image=_picture(pictures, i, image, part),
            text=str(cells[text] or "").strip() if text and spec.words != "none" else "",
            answers=words,
            at=at,
            label=words[0] if spec.entry.task == "class" else None,
            choices=options,
            context=", ".join(map(str, beside)) if isinstance(beside, list) else str(beside or "").strip(),
        )


def _words(value: Any, options: tuple[str, ...], classes: list[str] | None) -> tuple[str, ...]:
    """Answers, however they are stored: text, a list of texts or of {answer}, the place of an option, a class number."""
    if isinstance(value, dict):  # a list of structs, as older versions give it
        value = value.get("answer") or value.get("raw") or []
    many = value if isinstance(value, list) else [value]
    out = []
    for item in many:
        item = (item.get("answer") or item.get("raw")) if isinstance(item, dict) else item
        if isinstance(item, int) and not isinstance(item, bool):
            named = options or tuple(classes or ())
            item = named[item] if 0 <= item < len(named) else (None if named else str(item))
        if isinstance(item, str) and item.strip():
            out.append(item.strip())
    return tuple(out)


def _picture(pictures: Any, i: int, column: str, part: str) -> Picture | None:
    cell = pictures[i][column]
    if not cell or (cell.get("bytes") is None and not cell.get("path")):
        return None

    def load() -> bytes:
        again = pictures[i][column]
        return bytes(again["bytes"]) if again.get("bytes") is not None else read_file(Path(again["path"]))

    return Picture(f"{part}[{i}]", load)
