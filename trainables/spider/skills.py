"""The two-sided objective: how well the new skill is learnt and the old ones are kept, as metrics a study can optimise together.

`skills/target` is the score on the tuned set; `skills/source` the mean over the kept sets; `skills/mean` and `skills/harmonic` join
the two (O and H of the papers, whose exact definitions are not published: plain and harmonic mean are ours). Scores are shares;
CIDEr may exceed 1.
"""

from __future__ import annotations

from collections.abc import Mapping

from tune.core.metrics import Metric

SKILL_METRICS = (
    Metric("skills/target", "share", "max", "score on the tuned set", step_wise=False),
    Metric("skills/source", "share", "max", "mean score on the sets whose skill is to be kept", step_wise=False),
    Metric("skills/mean", "share", "max", "mean of target and source", step_wise=False),
    Metric("skills/harmonic", "share", "max", "harmonic mean of target and source", step_wise=False),
    Metric("skills/source_drop", "share", "min", "source before tuning - source after it", step_wise=False),
)
SKILL_PREFIXES = (Metric("skills/source/", "share", "max", "by kept set", step_wise=False),)


def skills(target: float, sources: Mapping[str, float], sources_before: Mapping[str, float] | None = None) -> dict[str, float]:
    """Metrics of one model. sources: score by kept set. sources_before: of the pretrained model, for the drop; absent: no drop."""
    assert sources, "at least one kept set"
    source = sum(sources.values()) / len(sources)
    metrics = {
        "skills/target": target,
        "skills/source": source,
        "skills/mean": (target + source) / 2,
        "skills/harmonic": harmonic_mean(target, source),
    }
    if sources_before is not None:
        assert sources_before.keys() == sources.keys(), "the same kept sets before and after"
        metrics["skills/source_drop"] = sum(sources_before.values()) / len(sources_before) - source
    return metrics | {f"skills/source/{name}": score for name, score in sources.items()}


def harmonic_mean(a: float, b: float) -> float:
    """2 a b / (a + b); 0 if either is 0. Raises ValueError for negative ones."""
    if a < 0 or b < 0:
        raise ValueError(f"a harmonic mean of negative scores, {a} and {b}")
    return 0.0 if a == 0 or b == 0 else 2 * a * b / (a + b)
