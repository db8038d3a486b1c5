"""From the cells of a CSV file to a `Table`, or to every mistake in them at once. Pure: the caller opens the file.

Columns: one for each dotted key of the space (by trial: none needed, those that are there are compared), `step` for curves, the
objectives under their metrics' names, `seconds` and `usd` of a row if known. Other columns of numbers are metrics of the report;
columns of words are left out and noted. A step counts from 0 and up by one; step 0 begins the next curve of its point.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tune.core.errors import Problem, UserError, did_you_mean
from tune.core.metrics import MetricSet
from tune.core.space import Choice, Leaf, Place, Space
from tune.core.table import Row, Run, Table

STEP, SECONDS, USD = "step", "seconds", "usd"
SECONDS_A_ROW = 1.0  # virtual seconds of a row where the table has no column `seconds`
LARGEST = 1e100
SHOWN = 5  # mistakes of one sort in one column that are listed; the rest is counted
OF_HEADER = ("lacks", "unknown", "twice", "empty")  # sorts of mistakes that are few and all different
Line = tuple[int, Sequence[str]]  # line number in the file, cells


@dataclass(frozen=True)
class Wanted:
    """What a study asks of a table. `metrics`: what its kind reports, None if any metric may be named."""

    space: Space
    objectives: tuple[str, ...]
    by_trial: bool
    metrics: MetricSet | None = None


def read_table(name: str, lines: Iterable[Line], wanted: Wanted) -> Table:
    """The table in the lines of the file called `name`, the first of which is the header. Raises UserError."""
    return _Reader(name, wanted).read(list(lines))


class _Reader:
    """Collects problems on the way through the rows."""

    def __init__(self, name: str, wanted: Wanted):
        self._name, self._wanted = name, wanted
        self._places = {place.key: place for place in wanted.space.places()}
        self._problems: list[Problem] = []
        self._seen: Counter[tuple[str, str]] = Counter()
        self._notes: list[str] = []

    def read(self, lines: list[Line]) -> Table:
        if not lines:
            raise UserError(Problem(self._name, "an empty file", "write a header and a row for each past result"))
        (at, header), body = lines[0], [(n, cells) for n, cells in lines[1:] if any(cell.strip() for cell in cells)]
        columns = [cell.strip() for cell in header]
        self._check_header(at, columns)
        if not body:
            self._add(at, "", "empty", "a header without rows", "add a row for each past result")
        cells_of = self._as_columns(columns, body)
        extra = self._extra_metrics(at, columns, cells_of)
        if self._problems and not body:
            raise UserError(self._problems)
        rows = self._rows([n for n, _ in body], cells_of, extra)
        for (column, sort), n in self._seen.items():
            if n > SHOWN and sort not in OF_HEADER:
                where = f"{self._name}: {column}" if column else self._name
                self._problems.append(Problem(where, f"{n - SHOWN} more like this ({sort})", "mend them in the same way"))
        if self._problems:
            raise UserError(self._problems)
        return Table(self._wanted.space, rows, self._wanted.by_trial, self._notes)

    # -- columns --------------------------------------------------------------------------------------------------------------

    def _check_header(self, at: int, columns: list[str]) -> None:
        for column, n in Counter(columns).items():
            if n > 1:
                self._add(at, column, "twice", f"{n} columns of this name", "keep one of them")
        needed = [*([] if self._wanted.by_trial else self._places), *self._wanted.objectives]
        named = {*self._places, *self._wanted.objectives, STEP, SECONDS, USD}
        spare = [column for column in columns if column not in named]
        for column in needed:
            if column not in columns:
                what = "the objective" if column in self._wanted.objectives else "a key of the space"
                got = f"no column '{column}', {what}{did_you_mean(column, spare)}"
                self._add(at, "", "lacks", got, f"add it; the table has {', '.join(columns)}")
        optional = [name for name in (STEP, SECONDS, USD) if name not in columns]
        for column in spare:
            lower = column.lower()
            meant = STEP if lower in ("epoch", "iteration") and STEP in optional else None
            meant = meant or next((name for name in optional if lower in (name, f"{name}s", name.rstrip("s"))), None)
            if meant is not None:
                got = f"a column '{column}' (did you mean '{meant}'?)"
                self._add(at, "", "unknown", got, f"call it {meant}, or another name if it is something else")

    def _as_columns(self, columns: list[str], body: list[Line]) -> dict[str, list[str]]:
        for n, cells in body:
            if len(cells) != len(columns):
                got = f"{len(cells)} cells where the header has {len(columns)}"
                self._add(n, "", "ragged", got, "give each column a cell, and quote cells that have a comma")
        width = len(columns)
        padded = [[*cells, *[""] * (width - len(cells))] for _, cells in body]
        return {column: [cells[j].strip() for cells in padded] for j, column in enumerate(columns)}

    def _extra_metrics(self, at: int, columns: list[str], cells_of: Mapping[str, list[str]]) -> list[str]:
        """Columns of numbers that the study does not name: they are metrics of the report."""
        named = {*self._places, *self._wanted.objectives, STEP, SECONDS, USD}
        declared, extra = self._wanted.metrics, []
        for column in dict.fromkeys(columns):
            if column in named:
                continue
            known = declared is None or declared.find(column) is not None
            if known and cells_of[column] and all(_finite(cell) is not None for cell in cells_of[column]):
                extra.append(column)
            else:
                near = did_you_mean(column, () if declared is None else declared.names)
                self._notes.append(f"{self._name}:{at}: nothing reads the column '{column}'{near}")
        return extra

    # -- rows -----------------------------------------------------------------------------------------------------------------

    def _rows(self, lines: list[int], cells_of: Mapping[str, list[str]], extra: Sequence[str]) -> list[Row]:
        numbers = [c for c in dict.fromkeys((*self._wanted.objectives, *extra)) if c in cells_of]
        open_runs: dict[Any, _OpenRun] = {}
        done: list[_OpenRun] = []
        curves = STEP in cells_of
        for i, line in enumerate(lines):
            point = self._point(line, {key: cells_of[key][i] for key in self._places if key in cells_of})
            metrics = {column: self._number(line, column, cells_of[column][i]) for column in numbers}
            seconds = self._cost(line, SECONDS, cells_of, i, SECONDS_A_ROW)
            usd = self._cost(line, USD, cells_of, i, 0.0)
            step = self._step(line, cells_of[STEP][i]) if curves else 0
            group = None if self._wanted.by_trial else tuple(point.items())
            run = open_runs.get(group)
            if step == 0 or run is None:
                if step:
                    fix = "count steps from 0, in order" + (" (subtract 1?)" if step == 1 else "")
                    self._add(line, STEP, "late start", f"a curve that begins at step {step}", fix)
                run = open_runs[group] = _OpenRun(point, [], [], [])
                done.append(run)
            elif step is not None and run.last is not None and step != run.last + 1:
                sort = "backwards" if step <= run.last else "gap"
                way = "which goes backwards" if step <= run.last else f"so that {run.last + 1} is missing"
                fix = "put the rows of a curve in order, each step once; step 0 begins the next curve"
                self._add(line, STEP, sort, f"step {step} after step {run.last}, {way}", fix)
            run.last = step
            run.metrics.append(metrics)
            run.seconds.append(seconds)
            run.usd.append(usd)
        return [Row(run.point, Run(tuple(run.metrics), tuple(run.seconds), tuple(run.usd))) for run in done]

    def _point(self, line: int, cells: Mapping[str, str]) -> dict[str, Any]:
        """The values of one row; a key of a branch that the row is not in has none, whatever its cell says."""
        point: dict[str, Any] = {}
        for key, text in cells.items():
            place = self._places[key]
            if all(point.get(selector) == branch for selector, branch in place.under if selector in cells):
                point[key] = self._value(line, place, text)
        return point

    def _value(self, line: int, place: Place, text: str) -> Any:
        if isinstance(place.param, Choice):
            if text == "" and None not in place.param.options:
                self._add(line, place.key, "empty cell", "an empty cell", "give the option of this row, or leave the row out")
            return _option(place.param, text)
        number = self._number(line, place.key, text)
        if place.param.log and number <= 0:
            self._add(line, place.key, "not positive", text, "use a number above 0: the space takes its logarithm")
            return None
        return number

    def _number(self, line: int, column: str, text: str) -> float:
        number = _finite(text)
        if number is None:
            what = "an empty cell" if text == "" else f"'{text}'"
            self._add(line, column, "not a number", what, "use a finite number, or leave the row out")
        elif abs(number) > LARGEST:
            self._add(line, column, "too large", text, f"use numbers up to {LARGEST:g}, whose sums and squares can be computed")
        return 0.0 if number is None else number

    def _cost(self, line: int, column: str, cells_of: Mapping[str, list[str]], i: int, absent: float) -> float:
        if column not in cells_of:
            return absent
        number = self._number(line, column, cells_of[column][i])
        if number < 0:
            self._add(line, column, "negative", cells_of[column][i], "use 0 or more")
        return number

    def _step(self, line: int, text: str) -> int | None:
        number = _finite(text)
        if number is None or number != int(number) or number < 0:
            self._add(line, STEP, "no step", f"'{text}'", "use a whole number from 0")
            return None
        return int(number)

    def _add(self, line: int, column: str, sort: str, got: str, fix: str) -> None:
        self._seen[column, sort] += 1
        if self._seen[column, sort] <= SHOWN or sort in OF_HEADER:
            where = f"{self._name}:{line}" + (f": {column}" if column else "")
            self._problems.append(Problem(where, got, fix))


@dataclass
class _OpenRun:
    point: dict[str, Any]
    metrics: list[dict[str, float]]
    seconds: list[float]
    usd: list[float]
    last: int | None = None


def _finite(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _option(param: Leaf, text: str) -> Any:
    """The option that a cell means, or the text itself, which is then one that is never drawn."""
    assert isinstance(param, Choice)
    number = _finite(text)
    for option in param.options:
        if isinstance(option, str) and option == text:
            return option
        if isinstance(option, bool) and text.lower() == str(option).lower():
            return option
        if option is None and text.lower() in ("", "null", "none"):
            return option
        if isinstance(option, (int, float)) and not isinstance(option, bool) and option == number:
            return option
    return text
