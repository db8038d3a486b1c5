"""Checks a JSONL file against every published limit before it is uploaded: a refused or half-used file costs hours, a bad one money.

All problems come at once, each with its line. A file is read line by line, whoever made it. Lengths in tokens are judged by the low
figure where text has only bounds; if the high one alone is over, that is a warning. What only the server can see stays unseen:
whether addresses answer, and pictures with people, which it skips without an error.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from trainables.data import decode
from trainables.openai_phases.examples import Found, look_at_example, look_at_question
from trainables.openai_phases.jsonl import BOM, CHAT_ENDPOINT
from trainables.openai_phases.limits import Limits
from trainables.openai_phases.tokens import NONE, Count, ImageRates, TextCounter
from trainables.openai_phases.wire import Dialect
from tune.core.errors import Problem, UserError

Use = Literal["training", "validation", "batch"]
MOST_PROBLEMS = 1000  # kept of one file; the rest is counted
_BATCH_KEYS = {"custom_id", "method", "url", "body"}
_TEXT_BYTES = 4_000_000  # allowed to a line besides its pictures


@dataclass(frozen=True)
class FileReport:
    """What a file holds. `tokens`: of one pass over all lines that could be read; `sha256`: of its bytes."""

    n_lines: int
    n_image_lines: int
    n_images: int
    size_bytes: int
    sha256: str
    tokens: Count
    problems: tuple[Problem, ...]
    warnings: tuple[str, ...]


def check_file(path: Path, use: Use, dialect: Dialect, limits: Limits, rates: ImageRates, counter: TextCounter) -> FileReport:
    """`look_at_file`, raising UserError with every problem."""
    report = look_at_file(path, use, dialect, limits, rates, counter)
    if report.problems:
        raise UserError(report.problems)
    return report


def look_at_file(path: Path, use: Use, dialect: Dialect, limits: Limits, rates: ImageRates, counter: TextCounter) -> FileReport:
    """Everything that can be said of a file without sending it. Raises UserError if it cannot be read."""
    try:
        with decode.quiet(), open(path, "rb") as file:
            return _Look(path.name, use, dialect, limits, rates, counter).at(file.readline)
    except OSError as error:
        raise UserError(Problem(str(path), f"it cannot be read: {error.strerror or error}", "name a file that you may read")) from None


class _Look:
    def __init__(self, name: str, use: Use, dialect: Dialect, limits: Limits, rates: ImageRates, counter: TextCounter):
        self._name, self._use, self._dialect, self._limits = name, use, dialect, limits
        self._rates, self._counter = rates, counter
        self._problems: list[Problem] = []
        self._n_problems = 0
        self._long: list[int] = []  # lines of which only the high figure is over
        self._first_line_of: dict[str, int] = {}  # custom_id
        self._models: dict[str, int] = {}  # model -> its first line

    def at(self, readline: Callable[[int], bytes]) -> FileReport:
        digest, size, n_lines, n_image_lines, n_images, tokens = hashlib.sha256(), 0, 0, 0, 0, NONE
        for n_lines, line in enumerate(self._lines(readline), start=1):
            digest.update(line)
            size += len(line)
            found = self._line(n_lines, line)
            n_image_lines, n_images, tokens = n_image_lines + bool(found.n_images), n_images + found.n_images, tokens + found.tokens
        self._totals(size, n_lines, n_image_lines)
        if self._n_problems > MOST_PROBLEMS:
            rest = self._n_problems - MOST_PROBLEMS
            self._problems.append(Problem(self._name, f"{rest} more problems", "mend those above and look again"))
        warnings = []
        if self._long:
            got = f"{len(self._long)} line(s), the first is {self._long[0]}, may be over {self._limits.example_tokens:,} tokens"
            warnings.append(f"{self._name}: {got}; text is counted by {self._counter.how}")
        return FileReport(n_lines, n_image_lines, n_images, size, digest.hexdigest(), tokens, tuple(self._problems), tuple(warnings))

    def _lines(self, readline: Callable[[int], bytes]) -> Iterator[bytes]:
        longest = self._longest_line()
        while line := readline(longest + 1):
            yield line

    def _longest_line(self) -> int:
        """No good line is longer; what is longer is read in pieces, so that a file without line ends does not fill the memory."""
        most_images = self._limits.images_per_example or 64
        return _TEXT_BYTES + most_images * -(-(self._limits.image_bytes or 20_000_000) * 4 // 3)

    def _line(self, number: int, line: bytes) -> Found:
        where, nothing = f"{self._name}:{number}", Found()
        if len(line) > self._longest_line():
            self._say(
                where, f"a line of more than {self._longest_line():,} bytes", "write one example a line, with pictures within the limits"
            )
            return nothing
        if number == 1:
            line = self._without_bom(where, line)
        if not line.strip():
            self._say(where, "an empty line", "remove it: every line is one object")
            return nothing
        try:
            record = json.loads(line.decode("utf-8"), parse_constant=_refuse_constant)
        except UnicodeDecodeError as error:
            self._say(where, f"byte 0x{line[error.start]:02x}, which is not UTF-8", "save the file as UTF-8")
            return nothing
        except (ValueError, RecursionError) as error:
            said = str(error).splitlines()[0] if not isinstance(error, RecursionError) else "too deeply nested"
            self._say(where, f"text that is no JSON: {said}", "write one JSON object a line")
            return nothing
        found = self._request(record, where, number) if self._use == "batch" else self._example(record, where)
        for problem in found.problems:
            self._keep(problem)
        most = self._limits.example_tokens
        if most is not None and found.tokens.low <= most < found.tokens.high:
            self._long.append(number)
        return found

    def _without_bom(self, where: str, line: bytes) -> bytes:
        wanted = self._dialect == "azure_foundry" and self._use != "batch"
        if line.startswith(BOM) != wanted:
            if wanted:
                self._say(where, "no byte-order mark", "begin the file with EF BB BF: Foundry wants UTF-8 with a byte-order mark")
            else:
                self._say(where, "a byte-order mark", "save the file as UTF-8 without one")
        return line.removeprefix(BOM)

    def _example(self, record: Any, where: str) -> Found:
        return look_at_example(record, where, self._limits, self._rates, self._counter)

    def _request(self, record: Any, where: str, number: int) -> Found:
        if not isinstance(record, dict) or set(record) != _BATCH_KEYS or not isinstance(record["body"], dict):
            keys = ", ".join(sorted(map(str, record)))[:100] if isinstance(record, dict) else "no object"
            self._say(where, f"keys {keys}", "give custom_id, method, url and body, the body an object")
            return Found()
        custom_id, body = record["custom_id"], record["body"]
        if not isinstance(custom_id, str) or not custom_id:
            self._say(f"{where}: custom_id", f"{custom_id!r}"[:60], "give a text of its own to each request")
        elif (first := self._first_line_of.setdefault(custom_id, number)) != number:
            self._say(f"{where}: custom_id", f"{custom_id[:60]}, as on line {first}", "give each request an id of its own")
        if record["method"] != "POST" or record["url"] != CHAT_ENDPOINT:
            self._say(where, f"{record['method']} {record['url']}"[:100], f"use POST {CHAT_ENDPOINT}")
        if not isinstance(body.get("model"), str) or not body["model"]:
            self._say(f"{where}: body.model", f"{body.get('model')!r}"[:60], "name the model")
        else:
            self._models.setdefault(body["model"], number)
        return look_at_question(body, f"{where}: body", self._limits, self._rates, self._counter)

    def _totals(self, size: int, n_lines: int, n_image_lines: int) -> None:
        limits = self._limits
        if self._use == "batch":
            self._at_most(size, limits.batch_bytes, "bytes", "split it into several batches")
            self._at_most(n_lines, limits.batch_requests, "requests", "split it into several batches")
            if len(self._models) > 1:
                self._say(self._name, f"several models: {', '.join(list(self._models)[:5])}", "make a file for each model")
            if n_lines == 0:
                self._say(self._name, "no requests", "give at least one")
            return
        biggest = limits.upload_bytes if limits.upload_bytes is not None else limits.file_bytes
        self._at_most(size, biggest, "bytes", "send fewer rows, smaller pictures or a lower jpeg_quality, or pictures by address")
        self._at_most(n_image_lines, limits.image_examples, "examples with pictures", "send fewer rows")
        fewest = limits.min_examples if self._use == "training" else 1
        if fewest is not None and n_lines < fewest:
            self._say(self._name, f"{n_lines} examples", f"give at least {fewest}")

    def _at_most(self, n: int, most: int | None, what: str, fix: str) -> None:
        if most is not None and n > most:
            self._say(self._name, f"{n:,} {what}", f"keep it to {most:,}: {fix}")

    def _say(self, where: str, got: str, fix: str) -> None:
        self._keep(Problem(where, got, fix))

    def _keep(self, problem: Problem) -> None:
        self._n_problems += 1
        if self._n_problems <= MOST_PROBLEMS:
            self._problems.append(problem)


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name}, which JSON does not have")
