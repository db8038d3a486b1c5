"""Scores that ask whether the words are the right ones: exact match, option letters, class names."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from trainables.metrics import confusion_matrix, summary
from trainables.text_metrics.pairs import check, mean_over

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_STARTS = re.compile(r"^([A-Z])\. ")
_SAYS = re.compile(r"The answer is ([A-Z])(?![A-Za-z])")


def exact_match(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Share in 0..1 of predictions that equal one of their references, upper and lower case and outer space apart.

    Source: eval_iconqa.py of the LLaVA derivatives that SPIDER's group uses (lower-cased equality); OCR-VQA and GQA likewise.
    """
    return mean_over(predictions, references, lambda said, known: float(_plain(said) in {_plain(answer) for answer in known}))


def option_letter(prediction: str, n_choices: int) -> str | None:
    """The option that an answer names, or None: a single letter, a letter with a full stop, or "The answer is X".

    Source: llava/eval/eval_science_qa.py of haotian-liu/LLaVA, for A to E; here as many letters as there are choices. Anything else,
    such as the words of an option, is no answer there and none here. Two readings are ours: a letter with a full stop and nothing after
    it is an answer, and "The answer is Arizona" is not A.
    """
    said = prediction.strip().replace("\n", ". ")
    known = LETTERS[:n_choices]
    if len(said) == 1 or (len(said) == 2 and said[1] == "."):
        found = said[0]
    else:
        hit = _STARTS.match(said) or _SAYS.search(said)
        found = hit[1] if hit else ""
    return found if found and found in known else None


def option_accuracy(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Share in 0..1 of answers whose option letter is the reference's; an answer without one is wrong. Source: as `option_letter`."""
    return mean_over(predictions, references, lambda said, known: float(option_letter(said, len(LETTERS)) == known[0].strip()))


def choice_accuracy(predictions: Sequence[str], references: Sequence[Sequence[str]], choices: Sequence[Sequence[str]]) -> float:
    """Share in 0..1 of answers that name the right option, by its letter or by its words.

    Lenient where `option_accuracy` is strict: an answer that is, or alone among the options contains, the words of an option counts
    as that option. Source: ours, for models that were not tuned to answer by letter; papers report the strict one.
    """
    check(predictions, references)
    if len(choices) != len(predictions):
        raise ValueError(f"{len(predictions)} predictions for {len(choices)} lists of choices; give one list for each")
    hits = [chosen(said, options) == known[0] for said, known, options in zip(predictions, references, choices, strict=True)]
    return sum(hits) / len(hits)


def chosen(prediction: str, choices: Sequence[str]) -> str | None:
    """The option that an answer names by letter, by its exact words, or by containing the words of it alone."""
    letter = option_letter(prediction, len(choices))
    if letter is not None:
        return choices[LETTERS.index(letter)]
    said = _plain(prediction)
    same = [option for option in choices if _plain(option) == said]
    inside = [option for option in choices if re.search(rf"(?<!\w){re.escape(_plain(option))}(?!\w)", said)]
    found = same or inside
    return found[0] if len(found) == 1 else None


def classification(predictions: Sequence[str], references: Sequence[Sequence[str]], classes: Sequence[str]) -> dict[str, float]:
    """accuracy and {precision,recall,f1}_{weighted,macro}, shares in 0..1, of class names that a model wrote.

    An answer that is no class name is a class of its own: it is wrong, and lowers recall but no other class's precision. Macro means
    run over the given classes that occur, not over that one. Source: scikit-learn's definitions, `trainables.metrics`.
    """
    check(predictions, references)
    places = {_plain(name): i for i, name in enumerate(classes)}
    unknown = next((known[0] for known in references if _plain(known[0]) not in places), None)
    if unknown is not None:
        raise ValueError(f"reference '{unknown}' is not among the classes {', '.join(classes)}")
    true_N = np.array([places[_plain(known[0])] for known in references], dtype=np.int64)
    said_N = np.array([places.get(_plain(said).rstrip("."), len(classes)) for said in predictions], dtype=np.int64)
    values = summary(confusion_matrix(true_N, said_N, len(classes) + 1))
    occurring = len(set(true_N.tolist()) | set(said_N.tolist()) - {len(classes)})
    if len(classes) in said_N.tolist():  # the outside class adds a zero to each macro mean
        values |= {name: values[name] * (occurring + 1) / occurring for name in values if name.endswith("_macro")}
    return values


def accuracy(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Share in 0..1 of predicted class names that are right, a full stop at the end apart."""
    return mean_over(predictions, references, lambda said, known: float(_plain(said).rstrip(".") == _plain(known[0]).rstrip(".")))


def f1_macro(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Mean F1 of the classes that occur among the references, a share in 0..1. See `classification`."""
    return classification(predictions, references, _occurring(references))["f1_macro"]


def f1_weighted(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Mean F1 weighted by how often a class is right, a share in 0..1. See `classification`."""
    return classification(predictions, references, _occurring(references))["f1_weighted"]


def _occurring(references: Sequence[Sequence[str]]) -> list[str]:
    return sorted({_plain(known[0]) for known in references if known})


def _plain(text: str) -> str:
    return text.strip().lower()
