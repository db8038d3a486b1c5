"""What every score checks of its arguments, and the mean it takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence


def mean_over(predictions: Sequence[str], references: Sequence[Sequence[str]], score: Callable[[str, Sequence[str]], float]) -> float:
    """The mean of `score(prediction, its references)`. Raises ValueError where there is nothing to compare."""
    check(predictions, references)
    return sum(score(said, known) for said, known in zip(predictions, references, strict=True)) / len(predictions)


def check(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    """Raises ValueError unless there is a prediction, and each has a reference."""
    if len(predictions) != len(references):
        raise ValueError(f"{len(predictions)} predictions for {len(references)} lists of references; give one list for each")
    if not predictions:
        raise ValueError("no predictions to score")
    lacking = next((i for i, known in enumerate(references) if not known), None)
    if lacking is not None:
        raise ValueError(f"prediction {lacking} has no reference")
    if any(isinstance(known, str) for known in references):
        raise ValueError("references are lists of texts, not texts")
