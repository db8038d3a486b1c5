"""What a study came to: one JSON object for scripts, a page of text for people, both from the fold of its journal. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

from tune.core.fold import StudyFold
from tune.core.intervals import mean_interval
from tune.core.journal import BUDGET, ENDED_STATES
from tune.core.trial_view import TrialView


def state_of(fold: StudyFold) -> str:
    """done, failed, interrupted, or running/killed (`open`) when the journal has no end."""
    return fold.ended.state if fold.ended is not None else "open"


def as_json(fold: StudyFold, study_dir: str) -> dict[str, Any]:
    """The object that `--json` prints as its last line."""
    best = fold.winner
    summary: dict[str, Any] = {
        "study": fold.started.study if fold.started else None,
        "state": state_of(fold),
        "trials": {state: fold.count(state) for state in ENDED_STATES},
        "best": None if best is None else {"trial": best.trial, "point": best.point, "metrics": all_metrics(best)},
        "cost": {"gpu_seconds": round(fold.gpu_seconds, 3), "usd": round(fold.usd, 6)},
        "wall_seconds": round(fold.active_seconds, 3),
        "dir": study_dir,
    }
    for role in ("baseline", "refit"):
        for trial in fold.of_role(role):
            if trial.state == "complete":
                summary[role] = {"trial": trial.trial, "metrics": all_metrics(trial)}
    clones = [trial for trial in fold.of_role("clone") if trial.state == "complete"]
    if clones:
        summary["clones"] = [{"trial": t.trial, "of": t.of, "point": t.point, "metrics": all_metrics(t)} for t in clones]
    repeats = fold.repeats(best.trial) if best is not None else []
    if repeats:
        mean, low, high = mean_interval([trial.values[0] for trial in repeats])
        summary["best"]["repeats"] = {"runs": len(repeats), "mean": mean, "low": _finite(low), "high": _finite(high), "level": 0.95}
    if fold.goal is not None and fold.goal.several:
        summary["front"] = [{"trial": t.trial, "point": t.point, "values": list(t.values)} for t in fold.front]
    return summary


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def all_metrics(trial: TrialView) -> dict[str, float]:
    """The metrics of the last report, overlaid with the final ones."""
    return {**(trial.curve[-1][1] if trial.curve else {}), **trial.metrics}


def unsure(fold: StudyFold) -> str:
    """What of the dollars is no bill but an upper bound; nothing where all were billed."""
    return (
        f", of which ${fold.usd_at_most:.4f} is an upper bound, since the service does not say what it billed" if fold.usd_at_most else ""
    )


def as_text(fold: StudyFold, study_dir: str) -> str:
    """The summary that a run ends with."""
    best = fold.winner
    counts = ", ".join(f"{fold.count(state)} {state}" for state in ENDED_STATES)
    title = fold.started.study if fold.started else study_dir
    why = f" ({fold.ended.why})" if fold.ended else ""
    lines = [f"Study {title}: {state_of(fold)}{why}", f"  trials     {counts}"]
    gpu = f", {fold.gpu_seconds:.0f} GPU-seconds" if fold.gpu_seconds else ""
    lines.append(f"  time       {clock(fold.active_seconds)}, {fold.cpu_seconds:.0f} CPU-seconds held by trials{gpu}")
    if fold.usd:
        lines.append(f"  cost       ${fold.usd:.2f}{unsure(fold)}")
    for reason, n in Counter(t.reason for t in fold.of_role("search") if t.state == "failed").items():
        lines.append(f"  failed     {n} x {reason}")
    for trial in fold.trials.values():
        if trial.reason == BUDGET and trial.ended:
            lines.append(f"  budget     {trial.trial} stopped by budget ({trial.state}): {trial.detail}")
    for trial in (*fold.of_role("baseline"), *fold.of_role("refit")):
        if trial.state == "failed":
            lines.append(f"  {trial.role:<10} failed: {trial.reason}: {trial.detail}")
    if best is None and fold.count("complete"):
        names = Counter(name for trial in fold.of_role("search") for name in trial.violations)
        broken = ", ".join(f"{name} ({n} of {fold.count('complete')})" for name, n in names.items())
        lines.append(f"  best       none: every complete trial breaks a limit: {broken}")
    if best is not None:
        lines.append(f"  best       {best.trial}  {_values_text(fold, best)}")
        lines += _repeat_lines(fold, best)
        lines += [f"               {key}: {value_text(value)}" for key, value in best.point.items()]
        lines += _test_lines("test", best)
    for trial in fold.of_role("refit"):
        if trial.state == "complete":
            lines += _test_lines("refit test", trial)
    for trial in fold.of_role("clone"):
        if trial.state == "complete" and trial.values:
            lines.append(f"  clone      {trial.trial}, from {trial.of}'s checkpoint: {_values_text(fold, trial)}")
    lines += _baseline_lines(fold, best)
    return "\n".join(lines)


def _values_text(fold: StudyFold, trial: TrialView) -> str:
    names = [objective.name for objective in fold.goal.objectives] if fold.goal else []
    return ", ".join(f"{name} = {value:.4f}" for name, value in zip(names, trial.values, strict=True))


def _repeat_lines(fold: StudyFold, winner: TrialView) -> list[str]:
    """The finalists' means with intervals, and how many trials no other dominates."""
    lines = []
    for trial in sorted({view.of for view in fold.of_role("finalist")}, key=lambda trial: trial != winner.trial):
        repeats = fold.repeats(trial)
        if repeats:
            mean, low, high = mean_interval([view.values[0] for view in repeats])
            within = f" ({low:.4f} to {high:.4f}, 95 % interval)" if len(repeats) > 1 else ""
            lines.append(f"               {trial} over {len(repeats)} further seeds: mean {mean:.4f}{within}")
    if fold.goal is not None and fold.goal.several:
        lines.append(f"               no other trial dominates these {len(fold.front)}")
        lines += [f"               front: {trial.trial}  {_values_text(fold, trial)}" for trial in fold.front]
    return lines


_ERRORS = ("test/accuracy_standard_error", "test/score_standard_error")
_MAJORITIES = ("majority/accuracy", "majority/score")
_SHOWN_TEST = ("accuracy", "f1_weighted", "f1_macro", "precision_weighted", "recall_weighted", "loss")


def _test_lines(title: str, trial: TrialView) -> list[str]:
    shown = [(name, trial.metrics[f"test/{name}"]) for name in _SHOWN_TEST if f"test/{name}" in trial.metrics]
    if not shown:
        return []
    return [f"  {title:<10} " + "  ".join(f"{name} {value:.4f}" for name, value in shown)]


def _baseline_lines(fold: StudyFold, best: TrialView | None) -> list[str]:
    """Linear probe or untouched model, and majority share, beside the best trial, with the verdict within one standard error."""
    for trial in fold.of_role("baseline"):
        if trial.state != "complete" or "test/accuracy" not in trial.metrics:
            continue
        probe = trial.metrics["test/accuracy"]
        error = next((trial.metrics[name] for name in _ERRORS if name in trial.metrics), 0.0)
        lines = [f"  baseline   {_reference(fold)}: test accuracy {probe:.4f} +- {error:.4f} (one standard error)"]
        majority = next((trial.metrics[name] for name in _MAJORITIES if name in trial.metrics), None)
        if majority is not None:
            lines.append(f"             majority class: {majority:.4f}")
        ours = best.metrics.get("test/accuracy") if best is not None else None
        if ours is not None:
            word = "at least as good as" if ours >= probe - error else "worse than"
            lines.append(f"             the search found {ours:.4f}: {word} the baseline, within one standard error")
        return lines
    return []


def _reference(fold: StudyFold) -> str:
    trainable = fold.started.resolved.get("trainable") if fold.started is not None else None
    kind = trainable.get("kind") if isinstance(trainable, Mapping) else None
    return "the model before tuning" if kind == "vlm_peft" else "logistic regression on frozen features"


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
