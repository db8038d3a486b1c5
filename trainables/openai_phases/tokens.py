"""Tokens of pictures and text, as far as they can be known before the server counts them.

Pictures follow the published rule of tiles exactly. Text is exact with tiktoken and its encoding file, which tiktoken fetches from
the network once and keeps; nothing is fetched here, so a plan never waits for a network. Without them text has bounds: at most a
token a byte of UTF-8, which byte-pair encoding cannot exceed, and as the low figure four bytes a token, the rule of thumb for
English, which is no bound. `TextCounter.how` says which of the two it was, and what would make it exact.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

from trainables.openai_phases.spec import Detail

ENCODING = "o200k_base"  # of gpt-4o and gpt-4.1
_URL = f"https://openaipublic.blob.core.windows.net/encodings/{ENCODING}.tiktoken"
_FILE_NAME = hashlib.sha1(_URL.encode(), usedforsecurity=False).hexdigest()  # under which tiktoken keeps it
# A message's frame and the start of the answer, from OpenAI's guide to counting tokens of chats.
MESSAGE_TOKENS = 3
REPLY_TOKENS = 3
_BYTES_PER_TOKEN = 4
_BOX_PX, _SHORT_SIDE_PX, _TILE_PX = 2048, 768, 512


@dataclass(frozen=True)
class Count:
    """A number of tokens, known to lie between two figures; the same figure twice where it is exact."""

    low: int
    high: int

    @staticmethod
    def exactly(n: int) -> Count:
        return Count(n, n)

    @property
    def exact(self) -> bool:
        return self.low == self.high

    def __add__(self, other: Count) -> Count:
        return Count(self.low + other.low, self.high + other.high)

    def __mul__(self, other: Count | int) -> Count:
        factor = Count.exactly(other) if isinstance(other, int) else other
        return Count(self.low * factor.low, self.high * factor.high)

    def __str__(self) -> str:
        return f"{self.low:,}" if self.exact else f"{self.low:,} to {self.high:,}"


NONE = Count(0, 0)


@dataclass(frozen=True)
class ImageRates:
    """What a model charges for a picture: `base` tokens each, and `tile` for every tile of high detail."""

    base: int
    tile: int


@dataclass(frozen=True)
class TextCounter:
    """`count(text)`: its tokens. `how`: "tiktoken 0.14.0, o200k_base" or why there are only bounds, with the remedy."""

    count: Callable[[str], Count]
    how: str
    exact: bool


def image_tokens(width: int, height: int, detail: Detail | None, rates: ImageRates) -> Count:
    """Tokens of one picture.

    low: `base`. high: fit into 2048 x 2048, shrink to a short side of 768, never enlarge, then `base + tile x tiles of 512 px`, in
    whole fractions so that no rounding adds a tile. auto or not sent: the server picks one of the two.
    """
    assert width >= 1 and height >= 1
    if detail == "low":
        return Count.exactly(rates.base)
    scale = min(Fraction(1), Fraction(_BOX_PX, max(width, height)))
    scale *= min(Fraction(1), Fraction(_SHORT_SIDE_PX) / (min(width, height) * scale))
    tiles = _ceil(width * scale / _TILE_PX) * _ceil(height * scale / _TILE_PX)
    high = rates.base + rates.tile * tiles
    return Count.exactly(high) if detail == "high" else Count(rates.base, high)


def message_tokens(messages: Iterable[Mapping[str, Any]], images: Count, counter: TextCounter, reply: bool) -> Count:
    """Tokens of a conversation: its text, the frame of each message, and `images` for all of its pictures.

    reply: the start of the answer is counted, as it is for a question and for a training example.
    """
    total = images + Count.exactly(REPLY_TOKENS if reply else 0)
    for message in messages:
        total += Count.exactly(MESSAGE_TOKENS)
        for text in (message.get("role"), message.get("name"), *_texts(message.get("content"))):
            if isinstance(text, str):
                total += counter.count(text)
    return total


def text_counter() -> TextCounter:
    """The best counter of this machine."""
    folder = os.environ.get("TIKTOKEN_CACHE_DIR") or os.environ.get("DATA_GYM_CACHE_DIR")
    return counter_of(Path(folder) if folder else Path(tempfile.gettempdir()) / "data-gym-cache")


@lru_cache(maxsize=4)
def counter_of(cache: Path) -> TextCounter:
    """tiktoken with the encoding's file in `cache`, where it keeps what it has fetched; else bounds."""
    if importlib.util.find_spec("tiktoken") is None:
        return bounds("tiktoken is not installed")
    if not (cache / _FILE_NAME).exists():
        return bounds(f"tiktoken has not fetched {ENCODING} (no {_FILE_NAME} in {cache}, which TIKTOKEN_CACHE_DIR can change)")
    tiktoken = importlib.import_module("tiktoken")
    try:
        encoding = tiktoken.get_encoding(ENCODING)
    except (OSError, ValueError) as error:  # a damaged file, which tiktoken would fetch again (requests' errors are OSErrors)
        return bounds(f"tiktoken cannot read {ENCODING}: {str(error).splitlines()[0][:200]}")
    count = lru_cache(maxsize=4096)(lambda text: Count.exactly(len(encoding.encode_ordinary(text))))
    return TextCounter(count, f"tiktoken {tiktoken.__version__}, {ENCODING}", exact=True)


def bounds(why: str, remedy: str = "") -> TextCounter:
    """A counter that needs nothing. `why`: there is no exact one; `remedy`: how to get it, by default tiktoken's."""
    fetch = f"python -c \"import tiktoken; tiktoken.get_encoding('{ENCODING}')\""
    remedy = remedy or f"for exact counts install tiktoken and, once with a network, run: {fetch}"
    return TextCounter(_between, f"bounds (low: 4 bytes a token, high: 1), since {why}; {remedy}", exact=False)


def _between(text: str) -> Count:
    n_bytes = len(text.encode("utf-8", "surrogatepass"))
    return Count(-(-n_bytes // _BYTES_PER_TOKEN), n_bytes)


def _texts(content: Any) -> list[Any]:
    if isinstance(content, list):
        return [part.get("text") for part in content if isinstance(part, Mapping)]
    return [content]


def _ceil(value: Fraction) -> int:
    return -(-value.numerator // value.denominator)
