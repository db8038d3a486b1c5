"""Answers about pictures from an export, without the study it came from.

A picture that cannot be read is named, and the others are answered. Neither Ray nor the search is imported.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from trainables.catalog import CATALOG, load
from tune.core.errors import Problem, UserError
from tune.core.exports import Answer, Predictor, Query
from tune.exporting import manifest
from tune.exporting.manifest import Manifest

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".jp2", ".ppm")
BATCH = 8  # pictures decoded at once: they may be large
SHOWN_LABELS = 3
_GLOB_SIGNS = "*?["


class Unreadable(Exception):
    """This picture cannot be used; the text says why."""


Decode = Callable[[Path, int], Any]  # (file, most pixels) -> PIL picture in RGB; raises Unreadable


@dataclass(frozen=True)
class Line:
    """One picture's answer, or why there is none."""

    image: str
    answer: Answer | None
    error: str = ""

    def to_json(self, top: int) -> dict[str, Any]:
        if self.answer is None:
            return {"image": self.image, "error": self.error}
        shares = {"shares": {label: round(share, 6) for label, share in self.answer.shares[:top]}} if self.answer.shares else {}
        return {"image": self.image, "answer": self.answer.text, **shares}

    def to_text(self, top: int, name_width: int) -> str:
        name = self.image.ljust(name_width)
        if self.answer is None:
            return f"{name}  not answered: {self.error}"
        if not self.answer.shares:
            return f"{name}  {' '.join(self.answer.text.split())}"
        return f"{name}  " + "  ".join(f"{label} {share:.3f}" for label, share in self.answer.shares[:top])


class Export:
    """An export, opened when it is first asked."""

    def __init__(self, folder: Path):
        """Reads the manifest alone. Raises UserError if this is no sound export of a kind that is known here."""
        self.folder, self.manifest = folder, manifest.read(folder)
        entry = CATALOG.get(self.manifest.kind)
        if entry is None or entry.predict is None:
            got = f"an export of kind '{self.manifest.kind}', which this Phasetune cannot open"
            raise UserError(Problem(str(folder / manifest.NAME), got, f"use the Phasetune that wrote it ({self.manifest.phasetune})"))
        self._open: Callable[..., Predictor] = load(entry.predict)
        self._predictor: Predictor | None = None

    def answer(self, queries: Sequence[Query]) -> list[Answer]:
        if self._predictor is None:
            self._predictor = self._open(self.folder, self.manifest.about)
        return self._predictor.answer(queries)


def answer_all(
    answer: Callable[[Sequence[Query]], list[Answer]], pictures: Sequence[Path], text: str | None, max_pixels: int, decode: Decode
) -> Iterator[Line]:
    """A line a picture, in order. `answer` is asked about a few at a time, and only about those that could be read."""
    waiting = iter(pictures)
    while batch := list(islice(waiting, BATCH)):
        read: list[tuple[Path, Query | str]] = []
        for path in batch:
            try:
                read.append((path, Query(decode(path, max_pixels), text)))
            except Unreadable as error:
                read.append((path, str(error)))
        queries = [query for _, query in read if isinstance(query, Query)]
        answered = iter(answer(queries) if queries else [])
        for path, query in read:
            yield Line(_printable(path), next(answered)) if isinstance(query, Query) else Line(_printable(path), None, query)


def check_question(asked: Manifest, text: str | None, top: int | None) -> list[Problem]:
    """What of a question does not fit the model: an option that would have no effect, or one that is missing."""
    problems = []
    if text is not None and asked.text == "none":
        problems.append(Problem("--text", f"words, but a {asked.kind} model looks at the picture alone", "leave --text out"))
    if asked.text == "required" and not (text or "").strip():
        problems.append(Problem("--text", f"nothing, but this {asked.kind} model needs words beside the picture", "add --text WORDS"))
    if top is not None and asked.task == "text":
        problems.append(Problem("--top", f"{top}, but this {asked.kind} model writes one answer", "leave --top out"))
    return problems


def find_pictures(words: Sequence[str]) -> tuple[list[Path], list[Problem]]:
    """The files that the words name: a file, every picture below a folder, or a pattern; each file once. And what names nothing."""
    found: dict[Path, None] = {}
    problems = []
    for word in words:
        path = Path(word)
        if path.is_dir():
            below = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
            if not below:
                problems.append(Problem(word, "a folder without pictures", f"name one with {', '.join(SUFFIXES)} files in it"))
            found |= dict.fromkeys(below)
        elif path.exists():
            found[path] = None
        elif any(sign in word for sign in _GLOB_SIGNS):
            matched = sorted(Path(name) for name in glob.glob(word, recursive=True) if os.path.isfile(name))
            if not matched:
                problems.append(Problem(word, "a pattern that matches no file", "check the folder and the quotes"))
            found |= dict.fromkeys(matched)
        else:
            problems.append(Problem(word, "no such file or folder", "name pictures, folders of pictures, or a pattern in quotes"))
    return list(found), problems


def _printable(path: Path) -> str:
    """A file's name that can be written as UTF-8, whatever bytes it is made of."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
