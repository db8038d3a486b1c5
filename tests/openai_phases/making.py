"""Small tables of pictures, specs and files for the tests of hosted fine-tuning."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np

from tests.data.making import encoded, image
from trainables.data.sources import ImageTable
from trainables.openai_phases.limits import LIMITS, Limits
from trainables.openai_phases.spec import OpenaiPhasesSpec
from trainables.openai_phases.tokens import Count, ImageRates, TextCounter
from trainables.openai_phases.validate import FileReport, Use, look_at_file

RATES = ImageRates(85, 170)
CLASSES = ("luggage", "party supplies", "suitcases")
LETTERS = TextCounter(lambda text: Count.exactly(len(text)), "a token a letter", exact=True)  # so that counts can be done by hand
JPEG = encoded(image(1), "JPEG")


def table(train: int = 12, val: int = 3, test: int = 3, width: int = 8, height: int = 6) -> ImageTable:
    """Rows of every class in turn; `train`, `val`, `test` rows in all."""
    n = train + val + test
    pictures = [encoded(image(i, width, height), "PNG") for i in range(n)]
    return ImageTable(
        classes=CLASSES,
        labels_N=np.arange(n, dtype=np.int64) % len(CLASSES),
        ids=tuple(f"folder/picture {i}.png" for i in range(n)),
        split={
            "train": np.arange(train, dtype=np.int64),
            "val": np.arange(train, train + val, dtype=np.int64),
            "test": np.arange(train + val, n, dtype=np.int64),
        },
        digest="d",
        warnings=(),
        max_pixels=10**6,
        read=lambda i: pictures[i],
    )


def spec(**fields: Any) -> OpenaiPhasesSpec:
    return OpenaiPhasesSpec.model_validate({"phases": {"count": 2, "per_class": 2, "zero_shot": True}} | fields)


def data_url(data: bytes = JPEG, kind: str = "jpeg") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def example(*urls: str, question: str = "what?", answer: str = "this", **more: Any) -> dict[str, Any]:
    """A training example with a picture for each of `urls`, or a sound one."""
    parts = [{"type": "image_url", "image_url": {"url": url}} for url in urls or (data_url(),)]
    messages = [{"role": "user", "content": question}, {"role": "user", "content": parts}, {"role": "assistant", "content": answer}]
    return {"messages": messages} | more


def write(path: Path, records: list[Any], head: bytes = b"") -> Path:
    path.write_bytes(head + b"".join(json.dumps(record).encode() + b"\n" for record in records))
    return path


def look(path: Path, use: Use = "training", dialect: Any = "openai", counter: TextCounter = LETTERS, **limits: Any) -> FileReport:
    """Judged by the dialect's limits, with `limits` in their place."""
    return look_at_file(path, use, dialect, limits_with(dialect, **limits), RATES, counter)


def limits_with(dialect: Any = "openai", **limits: Any) -> Limits:
    return LIMITS[dialect].model_copy(update=limits)


def said(report: FileReport) -> list[str]:
    """The problems' places and what was got."""
    return [f"{problem.where} | {problem.got}" for problem in report.problems]
