"""Words to token numbers of one length, padded on the right, with a mask of what is real.

The length is that of the longest row, at most the limit, so that what is kept of a row does not depend on the batch it is in.
Random models have no tokenizer: theirs gives each word a number by its digest.

Legend: N rows, T tokens.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FIRST_WORD = 4  # of a random model: 0 pads, 1 begins, 2 ends, 3 stands for the picture

Encode = Callable[[str], list[int]]  # numbers of a text, without any that begin or end it


@dataclass(frozen=True)
class Tokens:
    """ids_NT int64 and mask_NT int64 (1 where there is a token)."""

    ids_NT: NDArray[np.int64]
    mask_NT: NDArray[np.int64]


@dataclass(frozen=True)
class Tokenizer:
    """`begin`, `end`: numbers put around a text. `pad`: what fills up. `whole`: pad to the limit always (SigLIP was trained so)."""

    encode: Encode
    begin: tuple[int, ...]
    end: tuple[int, ...]
    pad: int
    whole: bool = False

    def tokens(self, texts: Sequence[str], limit: int) -> Tokens:
        room = limit - len(self.begin) - len(self.end)
        return padded([[*self.begin, *self.encode(text)[:room], *self.end] for text in texts], self.pad, limit if self.whole else None)


def padded(rows: Sequence[Sequence[int]], pad: int, length: int | None = None) -> Tokens:
    """Rows of different lengths as one array; length: None, that of the longest."""
    n = max((len(row) for row in rows), default=0) if length is None else length
    n = max(n, 1)
    ids = np.full((len(rows), n), pad, dtype=np.int64)
    mask = np.zeros((len(rows), n), dtype=np.int64)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row
        mask[i, : len(row)] = 1
    return Tokens(ids, mask)


def hashed(vocabulary: int) -> Encode:
    """The tokenizer of a random model: whole words, each a number in FIRST_WORD .. vocabulary - 1."""

    def encode(text: str) -> list[int]:
        words = text.lower().split()
        return [FIRST_WORD + int.from_bytes(hashlib.sha256(w.encode()).digest()[:4], "big") % (vocabulary - FIRST_WORD) for w in words]

    return encode


def pretrained_tokenizer(folder: Path) -> Any:
    """The tokenizer beside a checkpoint, a transformers one."""
    from trainables.torchvision_ops import ensure_torchvision_ops

    ensure_torchvision_ops()
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(folder))


def plain_encode(tokenizer: Any) -> Encode:
    def encode(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False, truncation=False, verbose=False)["input_ids"])

    return encode


def around(tokenizer: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """What this tokenizer puts before and after a text."""
    plain = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole = list(tokenizer("a")["input_ids"])
    for start in range(len(whole) - len(plain) + 1):
        if whole[start : start + len(plain)] == list(plain):
            return tuple(whole[:start]), tuple(whole[start + len(plain) :])
    return (), ()


def text_tokenizer(folder: Path, whole: bool = False) -> Tokenizer:
    """Of a text tower."""
    tokenizer = pretrained_tokenizer(folder)
    begin, end = around(tokenizer)
    pad = tokenizer.pad_token_id
    return Tokenizer(plain_encode(tokenizer), begin, end, 0 if pad is None else pad, whole)
