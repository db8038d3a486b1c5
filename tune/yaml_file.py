"""YAML as people mean it, with the line of every key.

The core schema of YAML 1.2 and nothing more: `1e-4` is a number, `no`, `on`, `12:30` are text, true and false are the booleans.
What could be read in two ways is a named mistake: a repeated key, `007`, `.nan`, a tag, a tab, two documents. Anchors and `<<`
merges work. ruamel.yaml splits the text into events; what they mean is decided here. All mistakes are collected.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)

from tune.core.errors import Problem, UserError

MOST_BYTES = 2_000_000
MOST_VALUES = 200_000  # after aliases are written out: a few nested aliases can stand for billions
MOST_NESTING = 40
_INT = re.compile(r"[-+]?[0-9]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_WORDS = {"": None, "~": None, "null": None, "Null": None, "NULL": None}
_WORDS |= {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}  # type: ignore[dict-item]
_TEXT_TAGS = (None, "!", "tag:yaml.org,2002:str")
_PLAIN_TAGS = (None, "!", "tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")
_MERGE = "<<"

Place = tuple[str | int, ...]


@dataclass
class Document:
    """A YAML text as plain values. `lines`: 1-based line of every key and item; `problems`: what cannot be meant."""

    name: str
    value: Any = None
    lines: dict[Place, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def where(self, place: Place) -> str:
        """`file:line: dotted.key` of the nearest line that is known."""
        for end in range(len(place), -1, -1):
            if place[:end] in self.lines:
                return f"{self.name}:{self.lines[place[:end]]}: {dotted(place)}".rstrip(": ")
        return f"{self.name}: {dotted(place)}".rstrip(": ")


def read(path: Path, name: str | None = None) -> Document:
    """The document of a file; a file that cannot be read is a problem of the document too."""
    document = Document(name or str(path))
    try:
        with path.open("rb") as file:
            raw = file.read(MOST_BYTES + 1)
    except IsADirectoryError:
        return _with(document, document.name, "a folder", "name a YAML file")
    except FileNotFoundError:
        near = sorted(p.name for p in path.parent.glob("*.y*ml"))[:8] if path.parent.is_dir() else []
        hint = f"; {path.parent} has {', '.join(near)}" if near else ""
        return _with(document, document.name, "no such file", f"check the path{hint}")
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        return _with(document, document.name, f"a file that cannot be read ({error})", "check the path and its permissions")
    if len(raw) > MOST_BYTES:
        return _with(document, document.name, f"more than {MOST_BYTES:,} bytes", "name a study file: this one is too long for one")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        return _with(
            document,
            f"{document.name}:{line}",
            f"byte 0x{raw[error.start]:02x}, which is not UTF-8",
            "save the file as UTF-8 text",
        )
    return parse(text, document.name)


def parse(text: str, name: str) -> Document:
    """The document of a text."""
    document = Document(name)
    _Reader(document).read(text)
    return document


def parse_value(text: str, name: str) -> Any:
    """One value, as it would stand after `key:`. Raises UserError."""
    document = parse(text, name)
    if document.problems:
        raise UserError([Problem(name, problem.got, problem.fix) for problem in document.problems])
    return document.value


def dotted(place: Iterable[str | int]) -> str:
    return ".".join(str(part) for part in place)


def _with(document: Document, where: str, got: str, fix: str) -> Document:
    document.problems.append(Problem(where, got, fix))
    return document


@dataclass
class _Node:
    """A mapping or list that is being filled, and how many values it stands for."""

    value: Any
    place: Place
    anchor: str | None
    line: int
    size: int = 1
    key: Any = None
    key_line: int = 0
    has_key: bool = False
    own: dict[str, int] = field(default_factory=dict)  # keys written here -> line; merged ones may be overridden
    merges: list[Any] = field(default_factory=list)


class _Stop(Exception):
    """The rest of the text makes no sense."""


class _Reader:
    def __init__(self, document: Document):
        self.document = document
        self.anchors: dict[str, tuple[Any, int]] = {}
        self.open_anchors: set[str] = set()
        self.stack: list[_Node] = []
        self.n_documents = 0
        self.total = 0

    def read(self, text: str) -> None:
        try:
            for event in YAML(typ="safe", pure=True).parse(text):
                self._on(event)
        except _Stop:
            pass
        except MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            self._syntax(mark.line + 1 if mark is not None else 1, text, str(error.problem or error.context))
        except YAMLError as error:  # a character that YAML does not have
            message = str(error).splitlines()[0]
            self._problem(f"{self.document.name}", message, "remove the control character, or save the file as plain UTF-8 text")
        except (ValueError, RecursionError) as error:  # ruamel's scanner on broken escapes and directives
            self._problem(self.document.name, f"a text that is not YAML ({error})", "check quotes, escapes and directives")

    def _syntax(self, line: int, text: str, message: str) -> None:
        rows = text.splitlines()
        row = rows[line - 1] if 0 < line <= len(rows) else ""
        where = f"{self.document.name}:{line}"
        indent = row[: len(row) - len(row.lstrip())]
        if "\t" in indent or "'\\t'" in message:
            self._problem(where, "a tab", "indent with spaces: YAML does not allow tabs there")
        elif "mapping values are not allowed" in message:
            self._problem(where, f"{row.strip()[:60]!r}: {message}", "put text with ': ' in it between quotes, and check the indentation")
        else:
            self._problem(where, f"{row.strip()[:60]!r}: {message}", "check indentation, brackets and quotes at and above this line")

    def _problem(self, where: str, got: str, fix: str) -> None:
        self.document.problems.append(Problem(where, got, fix))

    def _at(self, line: int, place: Place = ()) -> str:
        return f"{self.document.name}:{line}: {dotted(place)}".rstrip(": ")

    # -- events ------------------------------------------------------------------------------------------------------------------

    def _on(self, event: Event) -> None:
        line = event.start_mark.line + 1
        if isinstance(event, DocumentStartEvent):
            self.n_documents += 1
            if self.n_documents == 2:
                self._problem(self._at(line), "a second document", "keep one study in a file: remove what follows `---`")
                raise _Stop
        elif isinstance(event, ScalarEvent):
            self._add(self._scalar(event, line), line, 1, event.anchor, is_text=event.style is not None)
        elif isinstance(event, AliasEvent):
            self._alias(event.anchor, line)
        elif isinstance(event, (MappingStartEvent, SequenceStartEvent)):
            self._open(event, line)
        elif isinstance(event, (MappingEndEvent, SequenceEndEvent)):
            self._close()

    def _open(self, event: MappingStartEvent | SequenceStartEvent, line: int) -> None:
        place = self._next_place()
        if len(self.stack) >= MOST_NESTING:
            self._problem(self._at(line), f"more than {MOST_NESTING} levels", "nest less deeply")
            raise _Stop
        self._check_tag(event, line, place)
        if event.anchor:
            self.open_anchors.add(event.anchor)
        self.stack.append(_Node({} if isinstance(event, MappingStartEvent) else [], place, event.anchor, line))

    def _close(self) -> None:
        node = self.stack.pop()
        if isinstance(node.value, dict):
            for merged in node.merges:
                for key, value in merged.items():
                    node.value.setdefault(key, value)
        if node.anchor:
            self.open_anchors.discard(node.anchor)
        self._add(node.value, node.line, node.size, node.anchor)

    def _alias(self, anchor: str, line: int) -> None:
        if anchor in self.open_anchors or anchor not in self.anchors:
            got = "which contains itself" if anchor in self.open_anchors else "which no anchor names before"
            self._problem(self._at(line, self._next_place()), f"*{anchor}, {got}", f"write the value out, or put &{anchor} before it")
            raise _Stop
        value, size = self.anchors[anchor]
        self._add(value, line, size, None)

    def _next_place(self) -> Place:
        if not self.stack:
            return ()
        node = self.stack[-1]
        if isinstance(node.value, list):
            return (*node.place, len(node.value))
        return (*node.place, node.key) if node.has_key and isinstance(node.key, str) else node.place

    def _add(self, value: Any, line: int, size: int, anchor: str | None, is_text: bool = False) -> None:
        """A finished value goes where it belongs: a key, the value of a key, an item, or the whole document."""
        self.total += size
        if self.total > MOST_VALUES:
            self._problem(self._at(line), f"more than {MOST_VALUES:,} values with all aliases written out", "use fewer aliases")
            raise _Stop
        if anchor:
            self.anchors[anchor] = (value, size)
        if not self.stack:
            self.document.value = value
            self.document.lines[()] = line
            return
        node = self.stack[-1]
        node.size += size
        if isinstance(node.value, list):
            place = (*node.place, len(node.value))
            self.document.lines[place] = line
            node.value.append(value)
        elif not node.has_key:
            self._key(node, value, line, is_text)
        else:
            self._value(node, value)

    def _key(self, node: _Node, key: Any, line: int, is_text: bool) -> None:
        node.has_key, node.key, node.key_line = True, key, line
        if key == _MERGE and not is_text:
            return
        if not isinstance(key, str):
            shown = key if isinstance(key, (int, float, bool)) or key is None else "a list or mapping"
            self._problem(
                self._at(line, node.place),
                f"the key {shown}, which is not text",
                "put the key between quotes, or name it otherwise",
            )
            node.key = f"{shown}"
        if node.key in node.own:
            place = (*node.place, node.key)
            got = f"this key a second time (first on line {node.own[node.key]})"
            self._problem(self._at(line, place), got, "remove one of the two, or merge them")
        node.own.setdefault(node.key, line)
        self.document.lines.setdefault((*node.place, node.key), line)

    def _value(self, node: _Node, value: Any) -> None:
        node.has_key = False
        if node.key == _MERGE and _MERGE not in node.own:
            merged = value if isinstance(value, list) else [value]
            if not all(isinstance(part, dict) for part in merged):
                self._problem(self._at(node.key_line, node.place), "<< with something that is not a mapping", "merge mappings: << : *name")
                return
            node.merges += merged
        elif node.key not in node.value:
            node.value[node.key] = value

    # -- scalars -----------------------------------------------------------------------------------------------------------------

    def _check_tag(self, event: Any, line: int, place: Place) -> None:
        tag = _tag_of(event)
        if tag not in _PLAIN_TAGS:
            self._problem(self._at(line, place), f"the tag {tag}", "remove it: a study file holds plain values only")

    def _scalar(self, event: ScalarEvent, line: int) -> Any:
        tag, text = _tag_of(event), _joined(event.value)
        place = self._next_place()
        if text is None:
            self._problem(self._at(line, place), "half of a character (a lone surrogate)", "write the character itself")
            return ""
        if tag not in _TEXT_TAGS:
            self._problem(self._at(line, place), f"the tag {tag}", "remove it: a study file holds plain values only")
            return text
        if event.style is not None or tag is not None:  # quoted, a block of text, or tagged as text
            return text
        if text in _WORDS:
            return _WORDS[text]
        if _INT.fullmatch(text):
            return self._int(text, line, place)
        if _NOT_FINITE.fullmatch(text):
            self._problem(self._at(line, place), text, "use a finite number")
            return 0.0
        if _FLOAT.fullmatch(text):
            number = float(text)
            if not math.isfinite(number):
                self._problem(self._at(line, place), f"{text}, which is too large", "use a number below 1e308")
                return 0.0
            return number
        return text

    def _int(self, text: str, line: int, place: Place) -> int:
        digits = text.lstrip("+-")
        if len(digits) > 1 and digits[0] == "0":
            fix = f"write {digits.lstrip('0') or '0'}, or quote it if it is text"
            self._problem(self._at(line, place), f"{text[:40]}, which is octal to some readers of YAML and decimal to others", fix)
        if len(digits) > 18:
            self._problem(
                self._at(line, place),
                f"{text[:40]}, which does not fit 64 bits",
                "use a smaller whole number, or quote it if it is text",
            )
            return 0
        return int(text)


def _joined(text: str) -> str | None:
    """`text` with pairs of surrogates ("\\ud83d\\ude00" in JSON) joined to characters; None if one has no partner."""
    try:
        return text.encode("utf-16", "surrogatepass").decode("utf-16")
    except UnicodeDecodeError:
        return None


def _tag_of(event: Any) -> str | None:
    tag = event.tag
    return None if tag is None else str(tag)
