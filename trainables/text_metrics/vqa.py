"""The VQA score: soft accuracy against ten people's answers, as the official evaluation computes it.

Source: Antol et al. (2015), https://visualqa.org/evaluation.html and PythonEvaluationTools/vqaEvaluation/vqaEval.py of GT-Vision-Lab/VQA,
whose steps and tables are kept with their oddities: punctuation is replaced by a space unless it stands beside one, a comma between digits
makes all punctuation vanish, only periods not before a digit go, and words are normalised only where people disagree.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from trainables.text_metrics.pairs import mean_over

_PERIOD = re.compile(r"(?!<=\d)(\.)(?!\d)")  # as published: `(?!<=` was meant to be `(?<!`, and matches nothing that it could refuse
_COMMA = re.compile(r"(\d)(,)(\d)")
_PUNCTUATION = (";", "/", "[", "]", '"', "{", "}", "(", ")", "=", "+", "\\", "_", "-", ">", "<", "@", "`", ",", "?", "!")
_DIGITS = {
    "none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7", "eight": "8",
    "nine": "9", "ten": "10",
}  # fmt: skip
_ARTICLES = frozenset({"a", "an", "the"})
# Contractions as they should be spelt: the official table maps each of them, less one of its apostrophes, to itself. It has `I'm` and
# the like too, under keys in upper case that nothing matches, and `let's` and `she's` mapped to themselves.
_SPELT = re.findall(
    r"\S+",
    """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've he's
    how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've
    needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've
    somebody'll somebody's someone'd someone'd've someone'll someone's something'd something'd've something'll that's
    there'd there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll
    what're what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't
    would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
    """,
)


def vqa_score(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Mean soft accuracy, a share in 0..1.

    For each answer of a question: min(1, how many of the *others* equal the prediction / 3); the mean of these over all answers. With ten
    answers, of which n equal the prediction, that is 0, .3, .6, .9, 1 for n = 0, 1, 2, 3, 4 or more. A question with one or two answers
    cannot reach 1; use exact match for such data.
    """
    return mean_over(predictions, references, _score)


def normalised(answer: str) -> str:
    """An answer as the official evaluation compares it: lower case, digits for number words, no articles, no punctuation."""
    return _words(_without_punctuation(_one_line(answer)))


def _score(prediction: str, answers: Sequence[str]) -> float:
    said, known = _one_line(prediction), [_one_line(answer) for answer in answers]
    if len(set(known)) > 1:
        said, known = normalised(said), [normalised(answer) for answer in known]
    hits = [sum(other == said for k, other in enumerate(known) if k != i) for i in range(len(known))]
    return sum(min(1.0, n / 3) for n in hits) / len(known)


def _one_line(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


def _without_punctuation(text: str) -> str:
    out = text
    for mark in _PUNCTUATION:
        if mark + " " in text or " " + mark in text or _COMMA.search(text) is not None:
            out = out.replace(mark, "")
        else:
            out = out.replace(mark, " ")
    return _PERIOD.sub("", out, 32)  # the official call passes re.UNICODE (32) where the count belongs


def _words(text: str) -> str:
    words = [_DIGITS.get(word, word) for word in text.lower().split()]
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def _contractions() -> dict[str, str]:
    table = {"somebody'd": "somebodyd"}  # the wrong way round, as published
    for whole in _SPELT:
        table |= {whole[:i] + whole[i + 1 :]: whole for i, letter in enumerate(whole) if letter == "'"}
    return table


_CONTRACTIONS = _contractions()
