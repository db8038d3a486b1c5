"""What a study came to: one JSON object for scripts, a page of text for people, both from the fold of its journal. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from tune.core.journal import StudyFold, TrialView
from tune.core.metrics import Mode


def state_of(fold: StudyFold) -> str:
    """done, failed, interrupted, or running/killed (`open`) when the journal has no end."""
    return fold.ended.state if fold.ended is not None else "open"


def as_json(fold: StudyFold, mode: Mode, study_dir: str) -> dict[str, Any]:
    """The object that `--json` prints as its last line."""
    best = fold.best(mode)
    summary: dict[str, Any] = {
        "study": fold.started.study if fold.started else None,
        "state": state_of(fold),
        "trials": {state: fold.count(state) for state in ("complete", "pruned", "failed")},
        "best": None if best is None else {"trial": best.trial, "point": best.point, "metrics": all_metrics(best)},
        "cost": {"gpu_seconds": round(fold.gpu_seconds, 3), "usd": round(fold.usd, 6)},
        "wall_seconds": round(fold.active_seconds, 3),
        "dir": study_dir,
    }
    for role in ("baseline", "refit"):
        for trial in fold.of_role(role):
            if trial.state == "complete":
                summary[role] = {"trial": trial.trial, "metrics": all_metrics(trial)}
    return summary


def all_metrics(trial: TrialView) -> dict[str, float]:
    """The metrics of the last report, overlaid with the final ones."""
    return {**(trial.curve[-1][1] if trial.curve else {}), **trial.metrics}


def as_text(fold: StudyFold, metric: str, mode: Mode, study_dir: str) -> str:
    """The summary that a run ends with."""
    best = fold.best(mode)
    counts = ", ".join(f"{fold.count(state)} {state}" for state in ("complete", "pruned", "failed"))
    title = fold.started.study if fold.started else study_dir
    why = f" ({fold.ended.why})" if fold.ended else ""
    lines = [f"Study {title}: {state_of(fold)}{why}", f"  trials     {counts}"]
    gpu = f", {fold.gpu_seconds:.0f} GPU-seconds" if fold.gpu_seconds else ""
    lines.append(f"  time       {clock(fold.active_seconds)}, {fold.cpu_seconds:.0f} CPU-seconds of trials{gpu}")
    if fold.usd:
        lines.append(f"  cost       ${fold.usd:.2f}")
    for reason, n in Counter(t.reason for t in fold.of_role("search") if t.state == "failed").items():
        lines.append(f"  failed     {n} x {reason}")
    for trial in (*fold.of_role("baseline"), *fold.of_role("refit")):
        if trial.state == "failed":
            lines.append(f"  {trial.role:<10} failed: {trial.reason}: {trial.detail}")
    if best is not None:
        lines.append(f"  best       {best.trial}  {metric} = {best.value:.4f}")
        lines += [f"               {key}: {value_text(value)}" for key, value in best.point.items()]
        lines += _test_lines("test", best)
    for trial in fold.of_role("refit"):
        if trial.state == "complete":
            lines += _test_lines("refit test", trial)
    lines += _baseline_lines(fold, best)
    return "\n".join(lines)


_SHOWN_TEST = ("accuracy", "f1_weighted", "f1_macro", "precision_weighted", "recall_weighted", "loss")


def _test_lines(title: str, trial: TrialView) -> list[str]:
    shown = [(name, trial.metrics[f"test/{name}"]) for name in _SHOWN_TEST if f"test/{name}" in trial.metrics]
    if not shown:
        return []
    return [f"  {title:<10} " + "  ".join(f"{name} {value:.4f}" for name, value in shown)]


def _baseline_lines(fold: StudyFold, best: TrialView | None) -> list[str]:
    """The reference line: linear probe and majority share beside the best trial, with the verdict within one standard error."""
    for trial in fold.of_role("baseline"):
        if trial.state != "complete" or "test/accuracy" not in trial.metrics:
            continue
        probe = trial.metrics["test/accuracy"]
        error = trial.metrics.get("test/accuracy_standard_error", 0.0)
        lines = [f"  baseline   logistic regression on frozen features: test accuracy {probe:.4f} +- {error:.4f} (one standard error)"]
        if "majority/accuracy" in trial.metrics:
            lines.append(f"             majority class: {trial.metrics['majority/accuracy']:.4f}")
        ours = best.metrics.get("test/accuracy") if best is not None else None
        if ours is not None:
            word = "at least as good as" if ours >= probe - error else "worse than"
            lines.append(f"             the search found {ours:.4f}: {word} the baseline, within one standard error")
        return lines
    return []


def value_text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def point_text(point: Mapping[str, Any]) -> str:
    """A point in one short line: the last word of each key is enough for a person."""
    return " ".join(f"{key.rsplit('.', 1)[-1]}={value_text(value)}" for key, value in point.items())


def clock(seconds: float) -> str:
    """`2 h 03 min`, `3 min 20 s` or `12 s`."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 60} min {whole % 60:02d} s" if whole >= 60 else f"{whole} s"
