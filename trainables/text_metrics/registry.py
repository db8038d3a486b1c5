"""Scores by the names that data sets and studies use. A new score is one function and one line here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from trainables.text_metrics import captions, match, vqa

Score = Callable[[Sequence[str], Sequence[Sequence[str]]], float]


@dataclass(frozen=True)
class TextMetric:
    """`score(predictions, references)`. `top`: the best value there is; the least is 0. `needs`: what has to be installed, if anything."""

    score: Score
    unit: Literal["share", "points"]
    top: float
    source: str
    needs: str | None = None


METRICS: dict[str, TextMetric] = {
    "vqa_score": TextMetric(vqa.vqa_score, "share", 1.0, "Antol et al. (2015), official evaluation"),
    "exact_match": TextMetric(match.exact_match, "share", 1.0, "lower-cased equality"),
    "option_accuracy": TextMetric(match.option_accuracy, "share", 1.0, "LLaVA's ScienceQA evaluation"),
    "accuracy": TextMetric(match.accuracy, "share", 1.0, "class names"),
    "f1_macro": TextMetric(match.f1_macro, "share", 1.0, "scikit-learn's definition"),
    "f1_weighted": TextMetric(match.f1_weighted, "share", 1.0, "scikit-learn's definition"),
    "cider": TextMetric(captions.cider, "points", 10.0, "Vedantam et al. (2015)", "pycocoevalcap==1.2"),
    "rouge_l": TextMetric(captions.rouge_l, "share", 1.0, "Lin (2004)", "rouge-score==0.1.2"),
    "bleu": TextMetric(captions.bleu, "share", 1.0, "Papineni et al. (2002), Post (2018)", "sacrebleu==2.6.0"),
}
