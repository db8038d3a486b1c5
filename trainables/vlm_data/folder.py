"""A source's folder as readers see it: files found under their published names, JSON with places, pictures that exist.

Nothing here raises for what is wrong with the data: it is noted under its file and line, the row is left out, and `Problems` raises
all of it at once at the end.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from trainables.data.rows import printable, read_file
from trainables.vlm_data.row import At, Picture
from tune.core.errors import Problem, UserError

T = TypeVar("T")
_HALF = re.compile(r"\\ud[89a-f]", re.IGNORECASE)  # most files have none, and are not written out again to see
_SHOWN = 10  # problems of one sort that are listed in full


class Problems:
    """What was found wrong, by sort; `warnings` are said and passed over."""

    def __init__(self) -> None:
        self._found: list[Problem] = []
        self._known: set[tuple[object, str]] = set()
        self._more: Counter[tuple[str, str]] = Counter()  # (sort, fix) -> how many
        self.warnings: list[str] = []

    def add(self, sort: str, at: object, got: str, fix: str) -> None:
        """`at` is turned into text only if it is shown: finding a line in a large file takes a moment. A problem is told once, though
        a file is read for each split."""
        if (at, got) in self._known:
            return
        self._known.add((at, got))
        self._more[sort, fix] += 1
        if self._more[sort, fix] <= _SHOWN:
            self._found.append(Problem(printable(str(at)), printable(got), fix))

    def raise_if_any(self, where: str) -> None:
        if not self._found:
            return
        hidden = [Problem(where, f"{n - _SHOWN} more of this sort: {sort}", fix) for (sort, fix), n in self._more.items() if n > _SHOWN]
        raise UserError([*self._found, *hidden])


class Folder:
    """`root`: the source's folder. `download`: what to get, for the words of a missing file. `encoding`: of text that is not UTF-8."""

    def __init__(self, root: Path, download: str, undecodable: str, problems: Problems):
        self.root, self.download, self.undecodable, self.problems = root, download, undecodable, problems
        self._listings: dict[Path, frozenset[str]] = {}
        self._parsed: dict[Path, Any] = {}
        self._pictures: dict[tuple[str, ...], Picture | None] = {}

    def has(self, *names: str) -> Path | None:
        """The first of these relative paths that is there."""
        return next((self.root / name for name in names if self._exists(self.root / name)), None)

    def file(self, *names: str) -> Path | None:
        """As `has`, and a file that is not there is a problem."""
        found = self.has(*names)
        if found is None:
            self.problems.add("missing file", self.root, f"there is no {' or '.join(names)}", f"get {self.download}")
        return found

    def text(self, path: Path) -> str | None:
        """The whole file. Lines that are not UTF-8 are problems, or read as latin-1 where that is allowed."""
        try:
            data = read_file(path)
        except OSError as error:
            self.problems.add("unreadable file", path, f"it cannot be read: {error.strerror or error}", "make it readable")
            return None
        return self.decoded(data, path)

    def decoded(self, data: bytes, path: Path) -> str | None:
        try:
            return data.decode("utf-8-sig")
        except UnicodeDecodeError:
            pass
        lines, sound = data.split(b"\n"), True
        out: list[str] = []
        for number, line in enumerate(lines, 1):
            try:
                out.append(line.decode("utf-8"))
            except UnicodeDecodeError as error:
                out.append(line.decode("latin-1"))
                if self.undecodable == "fail":
                    sound = False
                    got = f"byte 0x{line[error.start]:02x} at column {error.start + 1} is not UTF-8"
                    self.problems.add("not UTF-8", At(path, number), got, "save it as UTF-8, or set trainable.data.undecodable: latin-1")
        return "\n".join(out).removeprefix("\ufeff") if sound else None

    def json(self, path: Path) -> Any:
        """The value in a JSON file, read once; None after a problem."""
        if path not in self._parsed:
            self._parsed[path] = self._parse(path)
        return self._parsed[path]

    def json_lines(self, path: Path) -> Iterator[tuple[At, Any]]:
        for number, line in enumerate((self.text(path) or "").splitlines(), 1):
            if line.strip():
                try:
                    entry = json.loads(line)
                except (ValueError, RecursionError) as error:
                    self.problems.add("not JSON", At(path, number), f"not JSON: {error}", "put one JSON object on each line")
                    continue
                if self._is_text(line, entry, path, number):
                    yield At(path, number), entry

    def entries(self, path: Path | None, *keys: str) -> Iterator[tuple[At, dict[str, Any]]]:
        """The objects of the list under `keys` of a JSON file, each with its place."""
        value = None if path is None else self.json(path)
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        if path is None or self._parsed[path] is None:
            return
        if not isinstance(value, list):
            self.problems.add("layout", path, f"no list {'.'.join(keys)} in it", f"get {self.download}")
            return
        for i, entry in enumerate(value):
            at = At(path, keys=(*keys, i))
            if isinstance(entry, dict):
                yield at, entry
            else:
                self.problems.add("layout", at, f"{str(entry)[:40]} where an object belongs", f"get {self.download}")

    def field(self, entry: dict[str, Any], name: str, kind: type[T] | tuple[type[T], ...], at: At) -> T | None:
        """A value of an entry, or None after a problem."""
        value = entry.get(name)
        if isinstance(value, kind) and not isinstance(value, bool) and value != "":
            return value
        got = f"no {name}" if value is None or value == "" else f"{name} is {str(value)[:60]!r}"
        self.problems.add(f"no {name}", at, got, f"give each row a {name}, or leave the row out")
        return None

    def picture(self, at: At, *names: str) -> Picture | None:
        """The first of these relative paths that is there; none is a problem."""
        if names not in self._pictures:  # many questions ask about one picture
            found = next((name for name in names if self._exists(self.root / name)), None)
            self._pictures[names] = None if found is None else Picture(printable(found), partial(read_file, self.root / found))
        picture = self._pictures[names]
        if picture is not None:
            return picture
        fix = "put it there or leave the row out"
        self.problems.add("missing picture", at, f"there is no {' or '.join(map(str, names))} in {self.root}", fix)
        return None

    def _exists(self, path: Path) -> bool:
        """From one listing of each folder: asking for each of half a million files by itself takes minutes on a network disk."""
        if path.parent not in self._listings:
            try:
                self._listings[path.parent] = frozenset(os.listdir(path.parent))
            except OSError:
                self._listings[path.parent] = frozenset()
        return path.name in self._listings[path.parent]

    def _parse(self, path: Path) -> Any:
        text = self.text(path)
        if text is None:
            return None
        try:
            value = json.loads(text, strict=False)
        except json.JSONDecodeError as error:
            self.problems.add("not JSON", At(path, error.lineno), f"not JSON: {error.msg}", f"get it whole again: {self.download}")
            return None
        except RecursionError:
            self.problems.add("not JSON", path, "lists within lists without end", f"get it whole again: {self.download}")
            return None
        return value if self._is_text(text, value, path) else None

    def _is_text(self, text: str, value: Any, path: Path, line: int = 1) -> bool:
        """Whether every escape is a character: JSON can name half of one (\\ud800), which no tokenizer takes."""
        if _HALF.search(text) is None:
            return True
        try:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError as error:
            half = f"\\u{ord(error.object[error.start]):04x}"
            line += text[: max(0, text.lower().find(half))].count("\n")
            self.problems.add("half a character", At(path, line), f"{half}, half a character", "write the whole character, or take it out")
            return False
        return True
