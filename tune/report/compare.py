"""Several studies side by side: who is best, how sure, at what cost, and beside which published numbers. Pure.

A study is stood for by its own winner, chosen by its own objective; the comparison never chooses by the metric that it compares on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tune.core.errors import Problem, UserError, did_you_mean
from tune.core.metrics import Mode
from tune.core.trial_view import TrialView
from tune.report import intervals
from tune.report.facts import PREDICTIONS, Facts
from tune.report.front import Box
from tune.report.published import Published
from tune.summary import all_metrics


@dataclass(frozen=True)
class Compared:
    """One study. `value` is None if it has no finished trial, or its winner lacks the metric."""

    label: str
    facts: Facts
    winner: TrialView | None
    value: float | None
    interval: intervals.Interval | None

    @property
    def sure(self) -> str:
        """Where the interval is from, or why there is none."""
        if self.value is None:
            return "no finished trial" if self.winner is None else "it does not report this metric"
        return self.interval.how if self.interval is not None else "one training, no interval"


@dataclass(frozen=True)
class Comparison:
    """`studies`: the best first, those without a value last. `no_test`: why there is no test of the first against the second."""

    metric: str
    mode: Mode
    unit: str
    studies: tuple[Compared, ...]
    test: intervals.Test | None
    no_test: str
    published: Published | None = None

    @property
    def best(self) -> Compared | None:
        return self.studies[0] if self.studies[0].value is not None else None

    @property
    def same_data(self) -> bool:
        """False if the studies are known to have used different data."""
        digests = {study.facts.fold.notes.get("data", {}).get("digest") for study in self.studies} - {None}
        return len(digests) < 2

    def to_json(self) -> dict[str, Any]:
        """The object that `--json` prints."""
        return {
            "metric": self.metric,
            "mode": self.mode,
            "studies": [_as_json(each) for each in self.studies],
            "best": self.best.label if self.best else None,
            "test": None
            if self.test is None
            else {"how": self.test.how, "n": self.test.n, "difference": self.test.difference, "p": self.test.p}
            | {"significant": self.test.significant, "interval": _span(self.test.interval)},
            "no_test": self.no_test or None,
            "published": None if self.published is None else self.published.model_dump(mode="json"),
        }


def compare(studies: Sequence[Facts], metric: str | None, published: Published | None) -> Comparison:
    """Raises UserError if the studies cannot be laid side by side on `metric` (default: the objective that they share)."""
    metric, mode = _common_metric(studies, metric)
    labels = _labels(studies)
    found = [_compared(label, facts, metric) for label, facts in zip(labels, studies, strict=True)]
    sign = -1.0 if mode == "max" else 1.0
    ranked = sorted(found, key=lambda each: (each.value is None, sign * (each.value or 0.0)))
    test, no_test = _test(ranked, metric)
    return Comparison(metric, mode, next((u for f in studies if (u := f.unit(metric))), ""), tuple(ranked), test, no_test, published)


def hypervolumes(studies: Sequence[Compared]) -> dict[str, float]:
    """label -> share of their common box that each front has taken; empty unless all have the same several objectives."""
    goals = {each.facts.goal.objectives for each in studies}
    if len(goals) != 1 or not studies[0].facts.goal.several:
        return {}
    goal = studies[0].facts.goal
    fronts = {each.label: [t.values for t in each.facts.measured if t.in_the_running] for each in studies}
    everything = [values for front in fronts.values() for values in front]
    if not everything:
        return {}
    box = Box.of(goal, everything)
    return {label: box.share(goal, front) for label, front in fronts.items()}


def best_so_far(compared: Compared) -> list[tuple[float, float]]:
    """(active seconds, best value of the study's first objective until then), a pair each time that it got better."""
    facts = compared.facts
    sign = -1.0 if facts.goal.mode == "max" else 1.0
    steps: list[tuple[float, float]] = []
    for span in sorted(facts.timeline.spans, key=lambda span: span.end_s):
        trial = facts.fold.trials[span.trial]
        if span.how != "complete" or trial.role != "search" or not trial.in_the_running:
            continue
        if not steps or sign * trial.values[0] < sign * steps[-1][1]:
            steps.append((span.end_s, trial.values[0]))
    return steps


def _compared(label: str, facts: Facts, metric: str) -> Compared:
    winner = facts.winner
    value, interval = facts.estimate(winner, metric) if winner is not None else (None, None)
    return Compared(label, facts, winner, value, interval)


def _test(ranked: Sequence[Compared], metric: str) -> tuple[intervals.Test | None, str]:
    """The first against the second, over seeds if both were repeated, else over test items if both wrote their answers."""
    able = [each for each in ranked if each.value is not None and each.winner is not None]
    if len(able) < 2:
        return None, "fewer than two studies have a value to compare"
    first, second = able[:2]
    assert first.winner is not None and second.winner is not None
    repeated = [each.facts.repeated_values(each.winner.trial, metric) for each in (first, second) if each.winner is not None]
    test = intervals.over_seeds(*repeated)
    if test is not None:
        return test, ""
    a, b = first.facts.predictions(first.winner), second.facts.predictions(second.winner)
    if a is None or b is None:
        missing = " and ".join(each.label for each, answers in ((first, a), (second, b)) if answers is None)
        return None, (
            f"one training each: repeat the best over seeds (a finalist stage) in both studies, or let the trials write {PREDICTIONS} "
            f"(item,label,predicted), which {missing} lacks"
        )
    if a.items != b.items or [a.classes[i] for i in a.label_N] != [b.classes[i] for i in b.label_N]:
        return None, "their best trials were tested on different items"
    return intervals.over_items(np.asarray(a.right_N), np.asarray(b.right_N), first.facts.seed), ""


def _common_metric(studies: Sequence[Facts], asked: str | None) -> tuple[str, Mode]:
    objectives = {o.name: o.mode for facts in studies for o in facts.goal.objectives}
    if asked is None:
        shared = [o for o in studies[0].goal.objectives if all(o in facts.goal.objectives for facts in studies)]
        if shared:
            return shared[0].name, shared[0].mode
        wanted = "; ".join(f"{f.where}: {', '.join(f'{o.name} ({o.mode})' for o in f.goal.objectives)}" for f in studies)
        reported = _reported_by_all(studies)
        fix = (
            f"name a metric that all of them report with --metric: {', '.join(reported)}"
            if reported
            else "compare studies of one objective"
        )
        raise UserError(Problem("compare", f"studies without a common objective ({wanted})", fix))
    declared = next((m for facts in studies if (m := facts.declared(asked)) is not None), None)
    mode = objectives.get(asked) or (declared.mode if declared is not None else None)
    if mode is None or not any(_has(facts, asked) for facts in studies):
        known = _reported_by_all(studies)
        fix = f"use one of {', '.join(known)}" if known else "make the studies report a common metric"
        raise UserError(Problem("compare --metric", f"'{asked}', which no best trial reports{did_you_mean(asked, known)}", fix))
    return asked, mode


def _has(facts: Facts, metric: str) -> bool:
    return facts.winner is None or facts.metric_of(facts.winner, metric) is not None


def _reported_by_all(studies: Sequence[Facts]) -> list[str]:
    """Declared metrics that the winners of all studies with a winner have."""
    winners = [(facts, facts.winner) for facts in studies if facts.winner is not None]
    if not winners:
        return []
    names = [set(all_metrics(trial)) | {o.name for o in facts.goal.objectives} for facts, trial in winners]
    return sorted(name for name in set.intersection(*names) if name.count("/") == 1)


def _labels(studies: Sequence[Facts]) -> list[str]:
    """The folders' names; whole paths where two are the same."""
    names = [facts.where.rstrip("/").rsplit("/", 1)[-1] for facts in studies]
    return [name if names.count(name) == 1 else facts.where for name, facts in zip(names, studies, strict=True)]


def _span(interval: intervals.Interval | None) -> dict[str, Any] | None:
    return None if interval is None else {"low": interval.low, "high": interval.high, "how": interval.how}


def _as_json(each: Compared) -> dict[str, Any]:
    fold = each.facts.fold
    return {
        "study": each.facts.name,
        "dir": each.facts.where,
        "state": each.facts.state,
        "trials": {state: fold.count(state) for state in ("complete", "pruned", "failed")},
        "best": None
        if each.winner is None
        else {"trial": each.winner.trial, "point": each.winner.point, "value": each.value, "interval": _span(each.interval)},
        "cost": {"cpu_seconds": round(fold.cpu_seconds, 3), "gpu_seconds": round(fold.gpu_seconds, 3), "usd": round(fold.usd, 6)},
        "wall_seconds": round(fold.active_seconds, 3),
    }
