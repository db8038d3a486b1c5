"""A page as values: cards, sections, tables, figures. What stands on it is decided before how it is printed. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Table:
    """Cells are text. `numbers`: columns that stand flush right. `folded`: shown on demand, since it is long."""

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numbers: frozenset[int] = frozenset()
    folded: bool = False


@dataclass(frozen=True)
class Figure:
    """A plot in Plotly's JSON form. `alt` says in one sentence what a person would see. `small` ones stand side by side."""

    name: str
    caption: str
    alt: str
    plot: Mapping[str, Any]
    height_px: int = 380
    small: bool = False


@dataclass(frozen=True)
class Card:
    """One figure that a person wants first: `value` in large, `note` below it."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Section:
    """`text`: paragraphs; `warnings`: what to keep in mind; `code`: a command to copy."""

    name: str
    title: str
    text: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    code: str = ""
    figures: tuple[Figure, ...] = ()
    tables: tuple[Table, ...] = ()


@dataclass(frozen=True)
class Document:
    """`headline`: the result in one sentence. `marks`: short words beside the title, such as the study's state."""

    title: str
    headline: str
    marks: tuple[str, ...] = ()
    cards: tuple[Card, ...] = ()
    sections: tuple[Section, ...] = field(default=())
