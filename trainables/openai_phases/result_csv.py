"""The result file of a job: its text, base64 or plain, and its rows under one set of names whichever service wrote them.

OpenAI and Azure head their columns differently, leave cells blank or write -1 for what was not measured; here that is absent.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import csv
import math
from dataclasses import dataclass, field

COLUMNS = {  # as written -> as in metric events
    "train_accuracy": "train_mean_token_accuracy",
    "valid_accuracy": "valid_mean_token_accuracy",
    "validation_loss": "valid_loss",
    "validation_mean_token_accuracy": "valid_mean_token_accuracy",
    "full_validation_loss": "full_valid_loss",
    "full_validation_mean_token_accuracy": "full_valid_mean_token_accuracy",
}


@dataclass(frozen=True)
class CurveRow:
    """`metrics`: train_loss, train_mean_token_accuracy, valid_loss, valid_mean_token_accuracy, full_valid_... as far as measured."""

    step: int
    metrics: dict[str, float] = field(default_factory=dict)


def text_of(content: bytes) -> str:
    """The CSV in a result file's content. Base64 is told by its alphabet: a CSV's comma is not in it."""
    with contextlib.suppress(binascii.Error):
        content = base64.b64decode(b"".join(content.split()), validate=True)
    return content.decode("utf-8-sig")


def rows_of(content: bytes) -> tuple[CurveRow, ...]:
    """Raises ValueError if there is no column `step`."""
    reader = csv.DictReader(text_of(content).splitlines())
    if "step" not in (reader.fieldnames or ()):
        raise ValueError(f"a result file without a column 'step': {reader.fieldnames}")
    rows = []
    for line in reader:
        measured = {name: _number(cell) for name, cell in line.items() if name and name != "step"}
        rows.append(CurveRow(int(float(line["step"])), {COLUMNS.get(n, n): v for n, v in measured.items() if v is not None}))
    return tuple(rows)


def _number(cell: str | None) -> float | None:
    try:
        value = float(cell or "")
    except ValueError:
        return None
    return value if math.isfinite(value) and value != -1 else None
