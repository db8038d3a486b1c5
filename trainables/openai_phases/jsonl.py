"""Writes the JSONL files of a phase: training and validation examples, and batches of questions.

The same rows under the same spec give the same bytes (with the same Pillow, whose JPEG encoder makes the pictures): rows go by class,
then by their place in the table, keys in one order, text as ASCII. A file is named by its content's SHA-256, appears whole or not at
all, and is made row by row, so that no more than one picture is in memory. Whether a file is within the limits is `validate`'s
business; nothing is sent from here.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import hashlib
import io
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from trainables.data import decode
from trainables.data.sources import ImageTable
from trainables.openai_phases.prompt import Message, question_messages, response_format, training_messages
from trainables.openai_phases.spec import OpenaiPhasesSpec
from tune.core.errors import StopStudy

BOM = b"\xef\xbb\xbf"  # which Foundry wants at the start of a file
CHAT_ENDPOINT = "/v1/chat/completions"
_ORIENTATION = 0x0112  # EXIF tag
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class BuiltFile:
    """A file on disk. `sha256` of its bytes is its identity; `n_lines`: examples or requests."""

    path: Path
    sha256: str
    size_bytes: int
    n_lines: int


@dataclass(frozen=True)
class Request:
    """A question about one row of the table. `custom_id` is unique in a split; `options`: what goes with the messages."""

    custom_id: str
    row: int
    model: str
    messages: list[Message]
    options: dict[str, Any]

    @property
    def body(self) -> dict[str, Any]:
        """Of a chat completion."""
        return {"model": self.model, "messages": self.messages} | self.options


def in_file_order(table: ImageTable, rows: Iterable[int]) -> list[int]:
    """Row numbers by class, then by place, as in the published files."""
    return sorted((int(row) for row in rows), key=lambda row: (int(table.labels_N[row]), row))


def training_lines(spec: OpenaiPhasesSpec, table: ImageTable, rows: Iterable[int], width_px: int) -> Iterator[bytes]:
    """One line an example, in the order of a file."""
    for row in in_file_order(table, rows):
        label = table.classes[int(table.labels_N[row])]
        url = image_url(spec, table, row, width_px)
        yield _line({"messages": training_messages(spec.prompt, table.classes, label, url, spec.images.detail)})


def requests(spec: OpenaiPhasesSpec, table: ImageTable, rows: Iterable[int], width_px: int, model: str, split: str) -> Iterator[Request]:
    """The questions of an evaluation, one at a time."""
    options = {
        "temperature": spec.evaluation.temperature,
        "max_completion_tokens": spec.evaluation.max_answer_tokens,
        "response_format": response_format(spec.prompt, table.classes),
    }
    sent = {name: value for name, value in options.items() if value is not None}
    for row in in_file_order(table, rows):
        url = image_url(spec, table, row, width_px)
        messages = question_messages(spec.prompt, table.classes, url, spec.images.detail)
        yield Request(f"{split}-{row}", row, model, messages, sent)


def row_of(custom_id: str) -> int:
    """The row that an answer of a batch belongs to."""
    return int(custom_id.rpartition("-")[2])


def write_examples(spec: OpenaiPhasesSpec, table: ImageTable, rows: Iterable[int], width_px: int, folder: Path, stem: str) -> BuiltFile:
    """A training or validation file, `folder/stem-<digest>.jsonl`. Raises StopStudy for a damaged picture or a full disk."""
    head = BOM if spec.profile.dialect == "azure_foundry" else b""
    return _write(head, training_lines(spec, table, rows, width_px), folder, stem)


def write_batches(
    spec: OpenaiPhasesSpec, table: ImageTable, rows: Iterable[int], width_px: int, model: str, split: str, folder: Path, stem: str
) -> list[BuiltFile]:
    """Files of requests, as many as the limits of a batch need; every row is in one of them."""
    limits = spec.profile.limits_in_force
    lines = (
        _line({"custom_id": each.custom_id, "method": "POST", "url": CHAT_ENDPOINT, "body": each.body})
        for each in requests(spec, table, rows, width_px, model, split)
    )
    parts = _Parts(lines, limits.batch_requests, limits.batch_bytes)
    files: list[BuiltFile] = []
    while parts.more():
        files.append(_write(b"", parts.next_part(), folder, f"{stem}-{len(files)}"))
    return files


def image_url(spec: OpenaiPhasesSpec, table: ImageTable, row: int, width_px: int) -> str:
    """Where the server finds a picture: its own bytes, or an address."""
    if spec.images.url_template is not None:
        filled = spec.images.url_template.replace("{width_px}", str(width_px))
        return filled.replace("{id}", quote(table.ids[row]))
    try:
        data = resized_jpeg(table.read(row), width_px, spec.images.jpeg_quality, table.max_pixels)
    except (OSError, decode.BadImage) as error:
        why = (isinstance(error, OSError) and error.strerror) or str(error)
        fix = "put a sound picture there, or remove it or set trainable.data.broken: skip and start a new study"
        raise StopStudy("picture_unreadable", f"{table.ids[row]}: {why}", fix) from None
    return f"data:image/jpeg;base64,{base64.b64encode(data).decode('ascii')}"


def resized_jpeg(data: bytes, width_px: int, quality: int, max_pixels: int) -> bytes:
    """The picture as RGB JPEG of at most `width_px` pixels' width. Raises BadImage."""
    from PIL import Image

    with decode.quiet():
        image = decode.decode_rgb(data, max_pixels)
    size = fitted(*image.size, width_px)
    if size != image.size:
        image = image.resize(size, Image.Resampling.BICUBIC)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return file.getvalue()


def fitted(width: int, height: int, width_px: int) -> tuple[int, int]:
    """The size after resizing to at most `width_px` of width, aspect kept, never enlarged, no side below 1."""
    if width <= width_px:
        return width, height
    return width_px, max(1, round(height * width_px / width))


def size_of(data: bytes) -> tuple[int, int]:
    """(width, height) as it is seen, from the header alone. Raises BadImage."""
    from PIL import Image

    Image.init()
    try:
        with decode.quiet(), Image.open(io.BytesIO(data), formats=[name for name in decode.FORMATS if name in Image.OPEN]) as opened:
            width, height = opened.size
            told = opened.format != "PNG" or "exif" in opened.info  # a PNG without it would be decoded in search of it
            on_its_side = told and opened.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)
    except (OSError, ValueError, SyntaxError, TypeError, LookupError, ArithmeticError) as error:
        raise decode.BadImage(str(error) or type(error).__name__) from None
    return (height, width) if on_its_side else (width, height)


class _Parts:
    """Lines dealt out into files of at most so many lines and bytes; a line that is too long alone has a file of its own."""

    def __init__(self, lines: Iterator[bytes], most_lines: int | None, most_bytes: int | None):
        self._lines, self._most_lines, self._most_bytes = lines, most_lines, most_bytes
        self._next = next(lines, None)

    def more(self) -> bool:
        return self._next is not None

    def next_part(self) -> Iterator[bytes]:
        n_lines = n_bytes = 0
        while self._next is not None:
            full = self._most_lines is not None and n_lines >= self._most_lines
            heavy = self._most_bytes is not None and n_bytes + len(self._next) > self._most_bytes
            if n_lines and (full or heavy):
                return
            n_lines, n_bytes = n_lines + 1, n_bytes + len(self._next)
            line, self._next = self._next, None
            yield line
            self._next = next(self._lines, None)


def _write(head: bytes, lines: Iterator[bytes], folder: Path, stem: str) -> BuiltFile:
    digest, n_lines, size = hashlib.sha256(head), 0, len(head)
    unfinished = folder / f"{stem}.{os.getpid()}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob(f"{stem}.*.part"):  # of a builder that was killed; a trial's folder has one builder
            left.unlink(missing_ok=True)
        with open(unfinished, "wb") as file:
            file.write(head)
            for line in lines:
                file.write(line)
                digest.update(line)
                n_lines, size = n_lines + 1, size + len(line)
            file.flush()
            os.fsync(file.fileno())
        path = folder / f"{stem}-{digest.hexdigest()[:16]}.jsonl"
        os.replace(unfinished, path)
    except OSError as error:
        reason = "disk_full" if error.errno in _FULL else "folder_unusable"
        detail = f"{folder / stem}.jsonl cannot be written: {error.strerror or error}"
        raise StopStudy(reason, detail, "free space there, or give the study another --storage, then resume") from None
    finally:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)
    return BuiltFile(path, digest.hexdigest(), size, n_lines)


def _line(record: dict[str, Sequence[Any] | Any]) -> bytes:
    return json.dumps(record, ensure_ascii=True, separators=(",", ":"), allow_nan=False).encode("ascii") + b"\n"
