"""What the server reads in a file of training rows or requests: tokens, pictures, labels, mistakes. It trusts no client's count."""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import json
import math
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from PIL import Image

MAX_IMAGES = 10
MAX_IMAGE_BYTES = 10 * 1024**2
LISTED = re.compile(r"\[([^\[\]]*)\]", re.DOTALL)


@dataclass(frozen=True)
class Picture:
    """`key` is the same for the same picture at any resolution: a difference hash of 256 bits, or the name in a URL."""

    key: str
    px: int | None
    tokens: int
    mistake: str = ""


@dataclass(frozen=True)
class Row:
    tokens: int
    pictures: tuple[Picture, ...]
    prompt: str
    answer: str
    labels: tuple[str, ...]
    mistake: str = ""

    @property
    def key(self) -> str:
        """What the row asks about."""
        return self.pictures[0].key if self.pictures else "text:" + self.prompt

    @property
    def label(self) -> str | None:
        """The longest of the listed labels that the answer names."""
        return max((label for label in self.labels if self.places(label)), key=len, default=None)

    def places(self, label: str) -> list[tuple[int, int]]:
        """Where a label stands in the answer as words of its own."""
        return [found.span() for found in re.finditer(rf"(?<!\w){re.escape(label)}(?!\w)", self.answer)]


def read_rows(content: bytes) -> list[Row]:
    return [read_row(line) for line in content.decode("utf-8-sig", errors="replace").splitlines() if line.strip()]


def read_row(line: str) -> Row:
    try:
        messages = json.loads(line)["messages"]
        row = read_messages(messages)
        if messages[-1]["role"] != "assistant":
            return Row(0, (), "", "", (), "the last message is not the assistant's")
        return row
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        return Row(0, (), "", "", (), f"no row of messages: {type(error).__name__} {error}"[:200])


def read_messages(messages: Sequence[Mapping[str, Any]]) -> Row:
    texts: list[str] = []
    pictures: list[Picture] = []
    answer, mistake, tokens = "", "", 3
    for message in messages:
        content, role = message["content"], message["role"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content or []
        tokens += 4
        for part in parts:
            if part["type"] == "text":
                tokens += text_tokens(part["text"])
                if role == "assistant":
                    answer = part["text"]
                elif role == "user":
                    texts.append(part["text"])
            elif part["type"] == "image_url":
                if role != "user":
                    mistake = f"a picture in a message of the {role}"
                picture = read_picture(part["image_url"]["url"], part["image_url"].get("detail", "auto"))
                tokens += picture.tokens
                pictures.append(picture)
            else:
                mistake = f"a part of type {part['type']}"
    if len(pictures) > MAX_IMAGES:
        mistake = f"{len(pictures)} pictures, at most {MAX_IMAGES}"
    prompt = "\n".join(texts)
    return Row(tokens, tuple(pictures), prompt, answer, labels_in(prompt), mistake)


@lru_cache(maxsize=4096)
def labels_in(prompt: str) -> tuple[str, ...]:
    """The longest list of quoted words in a prompt."""
    lists = [tuple(re.findall(r'"((?:[^"\\]|\\.)+)"', found)) for found in LISTED.findall(prompt)]
    return max(lists, key=len, default=())


def read_picture(url: str, detail: str) -> Picture:
    """A picture that cannot be used has a mistake; the service skips its row and says nothing."""
    if not url.startswith("data:"):
        parts = [part for part in url.split("/") if part]
        px = next((int(part) for part in parts if part.isdigit() and 8 <= int(part) <= 4096), None)
        return Picture("url:" + parts[-1], px, image_tokens(px or 400, px or 400, detail))
    seen = hashlib.sha256(f"{detail}/{url}".encode()).digest()
    if seen not in _SEEN:
        _SEEN[seen] = _decoded(url, detail)
    return _SEEN[seen]


_SEEN: dict[bytes, Picture] = {}  # pictures come again in every phase, every batch


def _decoded(url: str, detail: str) -> Picture:
    try:
        data = base64.b64decode(url.partition(",")[2], validate=True)
        image = Image.open(io.BytesIO(data))
        width, height = image.size
        grey = image.convert("L").resize((17, 16))
    except (binascii.Error, OSError, ValueError, Image.DecompressionBombError) as error:
        return Picture("bad:" + url[-32:], None, 0, f"unreadable: {type(error).__name__}")
    pixels = grey.tobytes()
    bits = sum((pixels[17 * y + x] > pixels[17 * y + x + 1]) << (16 * y + x) for y in range(16) for x in range(16))
    mistake = ""
    if image.format not in ("JPEG", "PNG", "WEBP"):
        mistake = f"format {image.format}"
    elif image.mode not in ("RGB", "RGBA"):
        mistake = f"mode {image.mode}"
    elif len(data) > MAX_IMAGE_BYTES:
        mistake = f"{len(data)} bytes"
    return Picture(f"hash:{bits:064x}", max(width, height), image_tokens(width, height, detail), mistake)


def image_tokens(width: int, height: int, detail: str) -> int:
    """85 flat, or 85 + 170 a tile of 512 after fitting into 2048 and shrinking the short side to 768; nothing is enlarged."""
    if detail == "low":
        return 85
    fit = min(1.0, 2048 / max(width, height))
    width_f, height_f = width * fit, height * fit
    shrink = min(1.0, 768 / min(width_f, height_f))
    return 85 + 170 * math.ceil(width_f * shrink / 512) * math.ceil(height_f * shrink / 512)


def text_tokens(text: str) -> int:
    """About a token for four bytes; the bill is in the server's own tokens, as anywhere."""
    return math.ceil(len(text.encode()) / 4)


def usual_px(rows: Sequence[Row]) -> int | None:
    sizes = [picture.px for row in rows for picture in row.pictures if picture.px]
    return int(statistics.median(sizes)) if sizes else None


def distance(a: str, b: str) -> int:
    """In how many of 256 bits two picture keys differ."""
    return bin(int(a[5:], 16) ^ int(b[5:], 16)).count("1")
