"""What is known of a study once its journal has been read: the fold, its timeline, the best trial's files. No prose, no plots.

Files of trials come through `read_file`, which gives a file's text or None; this module opens nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tune.core.fold import StudyFold
from tune.core.goal import Goal
from tune.core.journal import Entry
from tune.core.metrics import Metric, MetricSet
from tune.core.rules import trial_seed
from tune.core.space import Space
from tune.core.space_text import parse_space
from tune.core.trial_view import TrialView
from tune.report import intervals, predictions
from tune.report.predictions import Predictions
from tune.report.timeline import Timeline, timeline
from tune.summary import all_metrics, state_of

ReadFile = Callable[[TrialView, str], str | None]  # (trial, path relative to its folder) -> text
MOST_ITEMS = 1_000_000
AGREES_WITHIN = 1e-3  # a file of answers that gives another metric than was reported is not of this training
PHASES, STRESS, CONFUSION, PREDICTIONS = "phases.json", "stress.json", "confusion_matrix.json", "predictions.csv"


@dataclass(frozen=True)
class Confusion:
    """`counts[i][j]`: items of true class i that were predicted as class j."""

    trial: str
    classes: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Measured:
    """Values of one metric that can be compared. `where`: which trials they are of, and when they were taken."""

    metric: str
    where: str
    values: tuple[tuple[TrialView, float], ...]


@dataclass(frozen=True)
class Facts:
    """`where`: the study's directory as the user named it. `metrics`: what the trainable promises, None if anything may be."""

    where: str
    fold: StudyFold
    timeline: Timeline
    metrics: MetricSet | None
    read_file: ReadFile
    running: bool = False

    @classmethod
    def of(
        cls,
        where: str,
        entries: Sequence[Entry],
        metrics_of: Callable[[str], MetricSet | None],
        read_file: ReadFile,
        running: bool = False,
    ) -> Facts:
        """`running`: a process holds the study now. Raises UserError if the journal has no first event yet."""
        fold = StudyFold.of(entries)
        trainable = fold.begun(f"{where}: journal.jsonl").resolved.get("trainable")
        kind = trainable.get("kind") if isinstance(trainable, Mapping) else None
        return cls(where, fold, timeline(entries), metrics_of(str(kind)), read_file, running)

    # -- the study ------------------------------------------------------------------------------------------------------------

    @property
    def resolved(self) -> Mapping[str, Any]:
        assert self.fold.started is not None
        return self.fold.started.resolved

    @property
    def environment(self) -> Mapping[str, Any]:
        assert self.fold.started is not None
        return self.fold.started.environment

    @property
    def state(self) -> str:
        """done, failed, interrupted, running, or open after a kill."""
        return "running" if self.running and self.fold.ended is None else state_of(self.fold)

    @property
    def name(self) -> str:
        assert self.fold.started is not None
        return self.fold.started.study

    @property
    def goal(self) -> Goal:
        assert self.fold.goal is not None
        return self.fold.goal

    @property
    def seed(self) -> int:
        study = self.resolved.get("study")
        return int(study.get("seed", 0)) if isinstance(study, Mapping) else 0

    @property
    def axis(self) -> str:
        """What a step counts."""
        scheduler = self.resolved.get("scheduler")
        return str(scheduler.get("axis", "epoch")) if isinstance(scheduler, Mapping) else "epoch"

    @cached_property
    def space(self) -> Space:
        """The space; an empty one if this version cannot read it."""
        return parse_space(self.resolved.get("space") or {})[0] or Space()

    def unit(self, metric: str) -> str:
        """A metric's declared unit, or nothing."""
        declared = self.declared(metric)
        return declared.unit if declared is not None else ""

    def declared(self, metric: str) -> Metric | None:
        return self.metrics.find(metric) if self.metrics is not None else None

    # -- trials ---------------------------------------------------------------------------------------------------------------

    @cached_property
    def searched(self) -> list[TrialView]:
        return self.fold.of_role("search")

    @cached_property
    def measured(self) -> list[TrialView]:
        """Search trials that ran to their end and have all objectives, whether or not they keep the limits."""
        return [trial for trial in self.searched if trial.state == "complete" and trial.values]

    @cached_property
    def ranked(self) -> list[TrialView]:
        """Search trials that can win: the winner, then the others by their place in the search."""
        first = [self.winner] if self.winner is not None else []
        return first + [trial for trial in self.fold.ranked() if all(trial.trial != w.trial for w in first)]

    @cached_property
    def winner(self) -> TrialView | None:
        return self.fold.winner

    @cached_property
    def repeats(self) -> dict[str, dict[int, TrialView]]:
        """trial -> seed -> its finalist, of every trial that was repeated."""
        found: dict[str, dict[int, TrialView]] = {}
        for view in self.fold.of_role("finalist"):
            if view.in_the_running:
                found.setdefault(view.of, {})[trial_seed(self.seed, view.trial)] = view
        return found

    def repeated_values(self, trial: str, metric: str) -> dict[int, float]:
        """seed -> this metric of the finalists of a trial."""
        views = self.repeats.get(trial, {})
        return {seed: values for seed, view in views.items() if (values := self.metric_of(view, metric)) is not None}

    def comparable(self, least: int) -> Measured:
        """Trials whose first objective can be laid side by side: the complete ones.

        If those are fewer than `least`, trials as they stood at the last step that so many reached.
        """
        metric = self.goal.metric
        complete = Measured(metric, "complete trials", tuple((trial, trial.values[0]) for trial in self.measured))
        if len(complete.values) >= least:
            return complete
        at_step: dict[int, list[tuple[TrialView, float]]] = {}
        for trial in self.searched:
            for step, metrics in trial.curve:
                if metric in metrics:
                    at_step.setdefault(step, []).append((trial, metrics[metric]))
        reached = {step: min(len(found), least) for step, found in at_step.items()}
        chosen = max(reached, key=lambda step: (reached[step], step), default=None)
        if chosen is None or len(at_step[chosen]) <= len(complete.values):
            return complete
        return Measured(metric, f"trials, as they stood after {self.axis} {chosen}", tuple(at_step[chosen]))

    def metric_of(self, trial: TrialView, metric: str) -> float | None:
        """The trial's value if it is an objective, else a metric of its end or of its last report."""
        for objective, value in zip(self.goal.objectives, trial.values, strict=False):
            if objective.name == metric:
                return value
        return all_metrics(trial).get(metric)

    def estimate(self, trial: TrialView, metric: str) -> tuple[float | None, intervals.Interval | None]:
        """A trial's metric and how sure it is: the mean of its repeats, or the one training with a bootstrap over test items."""
        repeated = list(self.repeated_values(trial.trial, metric).values())
        if len(repeated) > 1:
            return sum(repeated) / len(repeated), intervals.of_mean(repeated)
        value = self.metric_of(trial, metric)
        prefix, _, family = metric.rpartition("/")
        if value is None or prefix != "test":
            return value, None
        answers = self._answers(trial)
        again = answers.metric(family) if answers is not None else None
        if answers is None or again is None or abs(again - value) > AGREES_WITHIN:
            return value, None
        return value, answers.interval(family, self.seed)

    @cached_property
    def finalists_test(self) -> tuple[TrialView, intervals.Test] | None:
        """The runner-up among the repeated trials, and the paired test of the winner against it."""
        if self.winner is None or len(self.repeats) < 2:
            return None
        metric = self.goal.metric
        means = {trial: self.estimate(self.fold.trials[trial], metric)[0] for trial in self.repeats if trial != self.winner.trial}
        sign = -1 if self.goal.mode == "max" else 1
        runner_up = min((t for t, mean in means.items() if mean is not None), key=lambda t: sign * (means[t] or 0.0), default=None)
        if runner_up is None:
            return None
        test = intervals.over_seeds(self.repeated_values(self.winner.trial, metric), self.repeated_values(runner_up, metric))
        return (self.fold.trials[runner_up], test) if test is not None else None

    # -- files of trials ------------------------------------------------------------------------------------------------------

    def predictions(self, trial: TrialView) -> Predictions | None:
        """The trial's answers item by item; None if it wrote none, or a file that is not of this form."""
        text = self._text(trial, PREDICTIONS)
        if text is None:
            return None
        try:
            return predictions.parse(text)
        except ValueError:
            return None

    def _answers(self, trial: TrialView) -> Predictions | None:
        """The trial's answers, from its confusion matrix if it wrote none item by item (then nobody knows which item is which)."""
        found = self.predictions(trial)
        counted = self.confusion(trial) if found is None else None
        if counted is None or sum(map(sum, counted.counts)) > MOST_ITEMS:
            return found
        return predictions.of_counts(counted.classes, counted.counts)

    def confusion(self, trial: TrialView) -> Confusion | None:
        data = self._json(trial, CONFUSION)
        if not isinstance(data, Mapping):
            return None
        classes, counts = data.get("classes"), data.get("true_by_predicted")
        if not isinstance(classes, list) or not isinstance(counts, list) or not classes:
            return None
        square = len(counts) == len(classes) and all(isinstance(row, list) and len(row) == len(classes) for row in counts)
        if not square or not all(isinstance(n, int) and n >= 0 for row in counts for n in row):
            return None
        return Confusion(trial.trial, tuple(map(str, classes)), tuple(tuple(row) for row in counts))

    def phases(self, trial: TrialView) -> list[dict[str, Any]]:
        """What the trial wrote of each of its phases, in order, its metrics among the other columns; empty if it has none."""
        return self._rows(trial, PHASES)

    def stress(self, trial: TrialView) -> list[dict[str, Any]]:
        """What the trial wrote of tests under other conditions than it was trained in, such as another resolution."""
        return self._rows(trial, STRESS)

    def _rows(self, trial: TrialView, name: str) -> list[dict[str, Any]]:
        data = self._json(trial, name)
        found = []
        for row in data if isinstance(data, list) else []:
            if isinstance(row, dict):
                metrics = row.get("metrics")
                inner = metrics if isinstance(metrics, dict) else {}
                found.append({str(key): value for key, value in ({**row, **inner}).items() if key != "metrics" or not inner})
        return found

    def _json(self, trial: TrialView, name: str) -> Any:
        text = self._text(trial, name)
        try:
            return None if text is None else json.loads(text)
        except (ValueError, RecursionError):
            return None

    def _text(self, trial: TrialView, name: str) -> str | None:
        path = next((path for path in trial.files.values() if path.rsplit("/", 1)[-1] == name), None)
        return None if path is None else self.read_file(trial, path)
