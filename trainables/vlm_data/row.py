"""The one row that every reader gives, its picture (read only when asked for) and where it stands in its file.

Values only: nothing here decodes pictures or words prompts.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class At:
    """A place in a file: `line` where it is known, else the keys that lead to it in a JSON file, whose line is found when asked."""

    file: Path
    line: int | None = None
    keys: tuple[str | int, ...] = ()

    def __str__(self) -> str:
        line = self.line if self.line is not None or not self.keys else _line_of(self.file, self.keys)
        return str(self.file) if line is None else f"{self.file}:{line}"


@dataclass(frozen=True, slots=True)
class Picture:
    """`name` tells pictures of one source apart; two rows on one picture share it. `load()` gives the bytes and may raise OSError."""

    name: str
    load: Callable[[], bytes] = field(repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Turn:
    """A question and its answer in a conversation."""

    said: str
    answered: str


@dataclass(frozen=True, slots=True)
class Row:
    """One question, caption or post on at most one picture.

    `text`: the question or the post's words, "" where there are none (captions). `context`: what a reader gives beside it (a hint, OCR
    tokens). `answers`: all references; for a choice the words of the right one. `label`: the class, None where the task has none.
    `choices`: the options in order, empty where there are none. `turns`: a whole conversation, of which `text` and `answers` are the
    first turn; empty elsewhere.
    """

    id: str
    image: Picture | None
    text: str
    answers: tuple[str, ...]
    at: At
    label: str | None = None
    choices: tuple[str, ...] = ()
    context: str = ""
    turns: tuple[Turn, ...] = ()


def _line_of(file: Path, keys: tuple[str | int, ...]) -> int | None:
    """The 1-based line on which the value under `keys` begins, or None if it is not to be found."""
    try:
        text = file.read_text(encoding="utf-8-sig", errors="replace")
        place = _find(text, keys)
    except (OSError, ValueError, IndexError):
        return None
    return text.count("\n", 0, place) + 1


def _find(text: str, keys: tuple[str | int, ...]) -> int:
    """Walks over the values before the one asked for, each in one call of the JSON scanner."""
    decode = json.JSONDecoder(strict=False).raw_decode
    place = _past_space(text, 0)
    for key in keys:
        place = _past_space(text, place + 1)
        k = 0
        while True:
            if isinstance(key, str):
                name, place = decode(text, place)
                place = _past_space(text, _past_space(text, place) + 1)  # over the colon
                if name == key:
                    break
            elif k == key:
                break
            _, place = decode(text, place)
            place = _past_space(text, _past_space(text, place) + 1)  # over the comma
            k += 1
    return place


def _past_space(text: str, place: int) -> int:
    while text[place] in " \t\r\n":
        place += 1
    return place
