"""Words of captions as CIDEr counts them: Penn Treebank tokens, lower case, without punctuation.

`ptb` is the reference: Stanford's PTBTokenizer 3.4.1, a jar inside the package pycocoevalcap, run once by Java (1.8 or newer). `python`
needs neither, and follows the same rules for what captions hold: contractions split (do n't, man 's), hyphenated words and numbers kept
whole, quotes split off, brackets named. A test compares both on a page of captions where Java is installed.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from typing import Literal

from trainables.text_metrics.optional import need
from tune.core.errors import Problem, UserError

Tokenizer = Literal["python", "ptb"]
# The punctuation that pycocoevalcap's PTBTokenizer takes out after splitting. Its list has -LRB- and the like in capitals, the tokens
# are lower case: so brackets stay, as -lrb- and -rrb-, in every published value, and stay here.
_DROPPED = frozenset({"''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"})
_ABBREVIATIONS = frozenset({
    "mr", "mrs", "ms", "dr", "prof", "st", "ave", "blvd", "rd", "mt", "ft", "jr", "sr", "vs", "etc", "inc", "co", "ltd", "corp",
})  # fmt: skip
_INITIALS = re.compile(r"[a-z]|(?:[a-z]\.)+[a-z]")
_RULES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), put)
    for pattern, put in (
        ("[\u2018\u2019\u0060]", "'"),
        ("[\u201c\u201d\"]|''", " '' "),
        ("[\u2013\u2014]|--+", " -- "),
        ("\u2026|\\.\\.\\.+", " ... "),
        (r"([;#$%&?!*+=<>|~^\\])|(?<!\d)(:)|(:)(?!\d)|(?<!\w)(@)|(@)(?!\w)", r" \1\2\3\4\5 "),  # not 10:30, nor a@b.c
        (r"(?<!\S)-(?=\w)", " - "),
        (r"\(", " -lrb- "),
        (r"\)", " -rrb- "),
        (r"\[", " -lsb- "),
        (r"\]", " -rsb- "),
        (r"\{", " -lcb- "),
        (r"\}", " -rcb- "),
        (r",(?!\d)|(?<!\d),", " , "),
        (r"(?<!\w)'(?!(?:s|m|d|ll|re|ve)\b)(?=\w)|(?<=\w)'(?!\w)", " ' "),
        (r"(?<=\w)('s|'m|'d|'ll|'re|'ve|n't)(?=\W|$)", r" \1"),
        (r"\b(can)(not)\b", r"\1 \2"),
        (r"\b(gon|wan)(na)\b", r"\1 \2"),
        (r"\b(got)(ta)\b", r"\1 \2"),
    )
)


def tokenized(captions: Sequence[str], tokenizer: Tokenizer) -> list[str]:
    """Each caption as tokens with single spaces. Raises UserError where `ptb` lacks its package or Java."""
    return [python_tokens(caption) for caption in captions] if tokenizer == "python" else _by_java(captions)


def python_tokens(caption: str) -> str:
    text = " ".join(caption.lower().split())
    for pattern, put in _RULES:
        text = pattern.sub(put, text)
    words = (_without_stop(word) for word in text.split())
    return " ".join(word for word in words if word and word not in _DROPPED)


def _without_stop(word: str) -> str:
    """A word without the full stop of its sentence; abbreviations and initials keep theirs."""
    stem = word.removesuffix(".")
    return word if stem in _ABBREVIATIONS or _INITIALS.fullmatch(stem) or stem.endswith(".") else stem


def _by_java(captions: Sequence[str]) -> list[str]:
    module = need("pycocoevalcap.tokenizer.ptbtokenizer", "pycocoevalcap==1.2", "CIDEr with tokenizer ptb")
    if shutil.which("java") is None:
        fix = "install a Java runtime (Debian: apt install default-jre-headless), or use tokenizer python"
        raise UserError(Problem("metric", "tokenizer ptb runs Java, and there is no java on the PATH", fix))
    found = module.PTBTokenizer().tokenize({i: [{"caption": caption}] for i, caption in enumerate(captions)})
    return [found[i][0] for i in range(len(captions))]
