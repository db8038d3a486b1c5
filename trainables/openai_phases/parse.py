"""Reads a model's answer to a question of `prompt`, and scores answers against the truth. Pure.

The object runs from the first `{` to the last `}`; what stands around it is passed over, as in the published evaluation. In it one
key `category` must have one value, with or without quotes of either sort, on either side. The published code turned quotes, quoted
bare words and stopped its run where the result was no JSON; here such an answer is `unparsed`, and the run goes on. A value that is
no label of the list is `out_of_list`. Both count as wrong, in every score, and their shares are reported beside the scores. Case
and runs of spaces do not part a value from its label, where that leaves one label.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

import numpy as np

from trainables.metrics import confusion_matrix, summary
from trainables.openai_phases.prompt import KEY

_QUOTES = "\"'`“”‘’"
_QUOTE = f"[{_QUOTES}]"
_AT_KEY = re.compile(rf"(?<![\w-]){_QUOTE}?{KEY}{_QUOTE}?\s*:\s*", re.IGNORECASE)
_NEXT_KEY = re.compile(rf",\s*(?:{_QUOTE}[^{_QUOTES}]*{_QUOTE}|\w+)\s*:")  # of a further pair after a bare value
_SAID_CHARS = 200
_DEPTH, _MOST_KEYS = 8, 50


@dataclass(frozen=True)
class Answer:
    """`label_i`: place in the list of classes, or None. `said`: the value, or the start of the text where no value was found."""

    kind: Literal["label", "out_of_list", "unparsed"]
    label_i: int | None
    said: str


def read_answer(text: str | None, classes: Sequence[str]) -> Answer:
    """What `text` answers. None or an empty text (a refusal, a filter) is unparsed."""
    inner = _object(text or "")
    whole = _whole_value(inner)
    if whole and (label_i := _place(whole, classes)) is not None:  # a label may hold commas, colons, braces and quotes
        return Answer("label", label_i, whole[:_SAID_CHARS])
    values = _values(inner)
    if len({_plain(value) for value in values}) != 1:  # nothing was found, or two that differ
        return Answer("unparsed", None, (text or "")[:_SAID_CHARS])
    value = " ".join(values[0].split())
    label_i = _place(value, classes)
    return Answer("out_of_list" if label_i is None else "label", label_i, value[:_SAID_CHARS])


def score(answers: Sequence[Answer], true_labels: Iterable[int], n_classes: int) -> dict[str, float]:
    """accuracy, {precision,recall,f1}_{weighted,macro}, unparsed, out_of_list; shares, as scikit-learn computes them.

    An answer without a label is counted as one class more, which no row has. Weighted means, the published ones, are those of
    scikit-learn on the words themselves; macro means take all such answers for one class where it would take each word for one.
    """
    predicted = [n_classes if answer.label_i is None else answer.label_i for answer in answers]
    counts = confusion_matrix(np.array(list(true_labels), dtype=np.int64), np.array(predicted, dtype=np.int64), n_classes + 1)
    n = max(1, len(answers))
    kinds = {kind: sum(answer.kind == kind for answer in answers) / n for kind in ("unparsed", "out_of_list")}
    return summary(counts) | kinds


def _object(text: str) -> str:
    """From the first `{` to the last `}`, or nothing."""
    start, end = text.find("{"), text.rfind("}")
    return text[start : end + 1] if 0 <= start < end else ""


def _whole_value(inner: str) -> str:
    """All that stands between the first key and the last brace, bare or in quotes."""
    match = _AT_KEY.search(inner)
    value = inner[match.end() : -1].strip() if match else ""
    return value[1:-1] if len(value) > 1 and value[0] in _QUOTES and value[-1] in _QUOTES else value


def _place(value: str, classes: Sequence[str]) -> int | None:
    """The one label that is `value`, to the letter or else but for case and spaces."""
    for same in (lambda label: label == value, lambda label: _plain(label) == _plain(value)):
        found = [i for i, label in enumerate(classes) if same(label)]
        if len(found) == 1:
            return found[0]
    return None


class _Pairs(list[tuple[str, Any]]):
    """A JSON object with repeated keys kept."""


def _values(inner: str) -> list[str]:
    """Values of every key `category` of the object; several where it holds several objects."""
    try:
        return list(_values_of(json.loads(inner, object_pairs_hook=_Pairs)))
    except (ValueError, RecursionError):
        return _bare_values(inner)


def _values_of(parsed: Any, depth: int = 0) -> Iterable[str]:
    """Of sound JSON: text under the key, at any of the first levels."""
    if not isinstance(parsed, _Pairs) or depth > _DEPTH:
        return
    for key, value in parsed:
        if key.strip().casefold() != KEY:
            yield from _values_of(value, depth + 1)
            continue
        only = value[0] if isinstance(value, list) and not isinstance(value, _Pairs) and len(value) == 1 else value
        if isinstance(only, (str, int, float)) and not isinstance(only, bool):
            yield str(only)


def _bare_values(inner: str) -> list[str]:
    found = []
    for match in islice(_AT_KEY.finditer(inner), _MOST_KEYS):
        rest = inner[match.end() :]
        value = _quoted(rest) if rest[:1] and rest[0] in _QUOTES else _bare(rest)
        if value:
            found.append(value)
    return found


def _quoted(rest: str) -> str:
    """The text between quotes, up to a quote that `,` or `}` follows, so that `'men's shoes'` is whole."""
    match = re.match(rf"{_QUOTE}(.*?){_QUOTE}\s*(?=[,}}\]])", rest, re.DOTALL)
    return match[1].strip() if match else _bare(rest)


def _bare(rest: str) -> str:
    """The text up to the closing brace or a further pair, in which commas may stand."""
    value = rest.split("}", 1)[0]
    further = _NEXT_KEY.search(value)
    return (value[: further.start()] if further else value).strip().strip(_QUOTES + ",").strip()


def _plain(value: str) -> str:
    return " ".join(value.split()).casefold()
