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
from typing import Any, Literal

import numpy as np

from trainables.metrics import confusion_matrix, summary
from trainables.openai_phases.prompt import KEY

_QUOTES = "\"'`“”‘’"
_QUOTE = f"[{_QUOTES}]"
_AT_KEY = re.compile(rf"(?<![\w-]){_QUOTE}?{KEY}{_QUOTE}?\s*:\s*", re.IGNORECASE)
_NEXT_KEY = re.compile(rf",\s*(?:{_QUOTE}[^{_QUOTES}]*{_QUOTE}|\w+)\s*:")  # of a further pair after a bare value
_SAID_CHARS = 200


@dataclass(frozen=True)
class Answer:
    """`label_i`: place in the list of classes, or None. `said`: the value, or the start of the text where no value was found."""

    kind: Literal["label", "out_of_list", "unparsed"]
    label_i: int | None
    said: str


def read_answer(text: str | None, classes: Sequence[str]) -> Answer:
    """What `text` answers. None or an empty text (a refusal, a filter) is unparsed."""
    values = _values(text or "")
    if len({_plain(value) for value in values}) != 1:  # nothing was found, or two that differ
        return Answer("unparsed", None, (text or "")[:_SAID_CHARS])
    value = " ".join(values[0].split())
    for same in (lambda label: label == value, lambda label: _plain(label) == _plain(value)):
        found = [i for i, label in enumerate(classes) if same(label)]
        if len(found) == 1:
            return Answer("label", found[0], value[:_SAID_CHARS])
    return Answer("out_of_list", None, value[:_SAID_CHARS])


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


def _values(text: str) -> list[str]:
    """Values of every key `category` in the object of `text`; several where it holds several objects."""
    start, end = text.find("{"), text.rfind("}")
    if start < 0 or end <= start:
        return []
    inner = text[start : end + 1]
    try:
        parsed = json.loads(inner)
    except (ValueError, RecursionError):
        return _bare_values(inner)
    return list(_values_of(parsed))


def _values_of(parsed: Any, depth: int = 0) -> Iterable[str]:
    """Of sound JSON: text under the key, at any of the first levels."""
    if isinstance(parsed, dict) and depth < 8:
        for key, value in parsed.items():
            if str(key).strip().casefold() != KEY:
                yield from _values_of(value, depth + 1)
            elif isinstance(value, (str, int, float)) and not isinstance(value, bool):
                yield str(value)
            elif isinstance(value, list) and len(value) == 1:
                yield from _values_of({KEY: value[0]}, depth + 1)


def _bare_values(inner: str) -> list[str]:
    found = []
    for match in _AT_KEY.finditer(inner):
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
