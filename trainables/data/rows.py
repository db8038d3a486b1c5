"""What every sort of source is read into: rows of id, label, split, words, bytes; and the checks all sources share."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainables.data.spec import DataSpec
from tune.core.errors import Problem, UserError, did_you_mean

SPLIT_WORDS = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
_IMAGE_NAMES = ("image", "path", "file", "filename", "image_path", "img")
_LABEL_NAMES = ("label", "class", "category", "target", "labels")
_TEXT_NAMES = ("title", "keywords", "text", "caption")


@dataclass(frozen=True)
class Rows:
    """`splits` is None where the source has none. `read(i)` gives the bytes of a picture and may raise OSError.

    `stamp(i)` changes whenever the bytes do and costs little (OSError as `read`); None where the source knows no such thing.
    """

    ids: Sequence[str]
    labels: Sequence[str]
    splits: Sequence[str] | None
    texts: Sequence[str] | None
    read: Callable[[int], bytes] = field(repr=False)
    stamp: Callable[[int], Hashable] | None = field(default=None, repr=False)
    warnings: tuple[str, ...] = ()


def wrong(spec: DataSpec, got: str, fix: str, key: str = "source") -> UserError:
    value = getattr(spec, key)
    return UserError(Problem(f"trainable.data.{key}" + ("" if value is None else f" = {value}"), got, fix))


def printable(name: str) -> str:
    """A file's name that can be written as UTF-8, whatever bytes it is made of."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def read_file(path: Path) -> bytes:
    """The bytes of a plain file; a pipe or a device, which could block for ever, is an OSError."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError("it is not a plain file")
    return path.read_bytes()


def stamp_file(path: Path) -> Hashable:
    seen = os.stat(path)
    return str(path), seen.st_ino, seen.st_size, seen.st_mtime_ns


class Columns:
    """Which column is what, by the spec or by usual names, with every problem said at once."""

    def __init__(self, spec: DataSpec, names: Sequence[str], n: int):
        self.spec, self.names = spec, names
        problems: list[Problem] = []
        where = f"trainable.data.source = {spec.source}"
        self.image = self._find("image_column", _IMAGE_NAMES, problems)
        self.label = self._find("label_column", _LABEL_NAMES, problems)
        self.split = self._find("split_column", ("split",), problems, needed=False)
        if not n:
            problems.append(Problem(where, "no rows", "give at least 3 pictures of each of 2 classes"))
        twice = sorted({name for name in (self.image, self.label, self.split) if name and names.count(name) > 1})
        problems += [Problem(where, f"two columns named {name}", "rename one") for name in twice]
        if problems:
            raise UserError(problems)

    def _find(self, key: str, usual: Sequence[str], problems: list[Problem], needed: bool = True) -> str:
        asked: str | None = getattr(self.spec, key)
        if asked is not None and asked in self.names:
            return asked
        found = next((name for name in usual if name in self.names), None)
        if asked is None and (found is not None or not needed):
            return found or ""
        got = f"no column {asked}{did_you_mean(asked, self.names)}" if asked else f"none of the columns {', '.join(usual)}"
        fix = f"name one of {', '.join(self.names[:20]) or '(no columns)'}; the first row is the header"
        problems.append(Problem(f"trainable.data.{key}", f"{got} in {self.spec.source}", fix))
        return ""

    def rows(
        self,
        ids: Sequence[str],
        column: Callable[[str], list[Any]],
        read: Callable[[int], bytes],
        stamp: Callable[[int], Hashable] | None,
    ) -> Rows:
        labels = _labels(self.spec, column(self.label))
        splits = None if not self.split else to_splits(self.spec, column(self.split))
        words = [column(name) for name in _TEXT_NAMES if name in self.names and name not in (self.image, self.label)]
        texts = [". ".join(str(w) for w in row if w) for row in zip(*words, strict=True)] if words else None
        return Rows(ids, labels, splits, texts, read, stamp)


def _labels(spec: DataSpec, values: list[Any]) -> list[str]:
    many = next((value for value in values if isinstance(value, (list, tuple, dict, bytes))), None)
    if many is not None:
        raise wrong(spec, f"labels such as {str(many)[:40]}", "name a column of one word or number a row", "label_column")
    labels = ["" if value is None or value != value else str(value).strip() for value in values]  # NaN is not itself
    empty = [i for i, label in enumerate(labels) if not label]
    if empty:
        got = f"{len(empty)} row(s) without a label, the first is row {empty[0] + 1}"
        raise wrong(spec, got, "give each row a label", "label_column")
    return labels


def to_splits(spec: DataSpec, values: Iterable[Any]) -> list[str]:
    """train, val or test of each of the source's own words."""
    words = ["" if value is None else str(value).strip() for value in values]
    strange = sorted({word or "(empty)" for word in words if word.lower() not in SPLIT_WORDS})
    if strange:
        fix = "use train, val and test, or rename the column so that trainable.data.split applies"
        raise wrong(spec, f"splits named {', '.join(strange[:5])}", fix, "split_column")
    return [SPLIT_WORDS[word.lower()] for word in words]
