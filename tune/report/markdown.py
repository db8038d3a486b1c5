"""A document as Markdown: text, warnings and tables; the plots are in the HTML page beside it. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tune.report.document import Document, Section, Table

MOST_ROWS = 30


def markdown(document: Document, page: str | None) -> str:
    """`page`: name of the HTML file with the plots, None if there is none."""
    lines = [f"# {escaped(document.title)}" + "".join(f" ({escaped(mark)})" for mark in document.marks), "", escaped(document.headline), ""]
    lines += [f"- **{escaped(c.label)}**: {escaped(c.value)}" + (f" ({escaped(c.note)})" if c.note else "") for c in document.cards]
    for section in document.sections:
        if page is None and not (section.text or section.warnings or section.code or section.tables):
            continue  # it has plots alone
        lines += ["", *_section(section, page)]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).rstrip() + "\n"


def _section(section: Section, page: str | None) -> Iterator[str]:
    yield f"## {escaped(section.title)}"
    yield ""
    for paragraph in section.text:
        yield escaped(paragraph)
        yield ""
    for warning in section.warnings:
        yield f"> **Note:** {escaped(warning)}"
        yield ""
    if section.code:
        fence = "`" * max(3, 1 + max((len(run) for run in re.findall(r"`+", section.code)), default=0))
        yield from (fence, section.code, fence, "")
    for table in section.tables:
        yield from table_lines(table)
        yield ""
    for figure in section.figures if page is not None else ():
        yield f"- [plot]({page}#{figure_id(figure.name)}): {escaped(figure.alt)}"


def table_lines(table: Table, most: int | None = MOST_ROWS) -> Iterator[str]:
    """A caption and a GitHub table; at most `most` rows, None for all."""
    if table.caption:
        yield f"**{escaped(table.caption)}**"
        yield ""
    yield "| " + " | ".join(map(escaped, table.head)) + " |"
    yield "| " + " | ".join("---:" if i in table.numbers else "---" for i in range(len(table.head))) + " |"
    for row in table.rows[:most]:
        yield "| " + " | ".join(map(escaped, row)) + " |"
    if most is not None and len(table.rows) > most:
        yield ""
        yield f"{len(table.rows) - most} further rows are in the HTML page."


def figure_id(name: str) -> str:
    """A name as an anchor."""
    return "figure-" + re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip("-")


def escaped(text: str) -> str:
    """Text that Markdown shows as it is, on one line, in a table too."""
    return re.sub(r"([\\`*\[\]<>|]|(?<!\w)_|_(?!\w))", r"\\\1", " ".join(text.split()))
