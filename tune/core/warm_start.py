"""What a sampler may learn from an earlier study: its trials as points of another space, with what they came to. Pure.

A trial is taken if every key that it shares with the new space lies inside it. Values and learning curves are taken as they are:
that a step and a full training mean the same in both studies is for the person who names the study to judge.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from tune.core.fold import StudyFold
from tune.core.goal import Goal
from tune.core.journal import INFEASIBLE
from tune.core.ports import PastTrial, Point
from tune.core.space import Space, misfit
from tune.core.trial_view import TrialView

MEMORY = "memory"  # the limit that a trial breaks which ran out of memory


@dataclass(frozen=True)
class Learner:
    """The new study. partial: it can learn from points that lack keys; pruned: from trials that were cut short."""

    space: Space
    goal: Goal
    partial: bool
    pruned: bool


@dataclass(frozen=True)
class Lesson:
    """What an earlier study has to teach: trials, and why the others were left out -> how many."""

    trials: tuple[PastTrial, ...]
    left_out: Mapping[str, int]

    def __str__(self) -> str:
        n_left_out = sum(self.left_out.values())
        reasons = "; ".join(f"{n} {why}" for why, n in self.left_out.items())
        return f"{len(self.trials)} of {len(self.trials) + n_left_out} trials" + (f" (left out: {reasons})" if n_left_out else "")


def lesson_of(past: StudyFold, learner: Learner) -> Lesson:
    """The search trials of `past` that a sampler of the new study can learn from, in their order."""
    taken: list[PastTrial] = []
    left_out: Counter[str] = Counter()
    for trial in past.of_role("search"):
        found = _point(trial.point, learner)
        outcome = found if isinstance(found, str) else _outcome(trial, found, learner)
        if isinstance(outcome, str):
            left_out[outcome] += 1
        else:
            taken.append(outcome)
    return Lesson(tuple(taken), dict(left_out))


def _point(old: Point, learner: Learner) -> Point | str:
    """The part of an old point that lies in the new space, or why there is none."""
    new: Point = {}
    lacks_keys = False
    for place in learner.space.places():
        if any(new.get(selector) != name for selector, name in place.under):
            continue
        if place.key not in old:
            lacks_keys = True
        elif misfit(place.param, old[place.key]) is not None:
            return "outside the space"
        else:
            new[place.key] = old[place.key]
    if not new:
        return "without a key of the space"
    if lacks_keys and not learner.partial:
        return "without some key of the space, which this sampler needs"
    return learner.space.settled(new)


def _outcome(trial: TrialView, point: Point, learner: Learner) -> PastTrial | str:
    """What came of the trial, judged by the new study's goal."""
    goal = learner.goal
    last = trial.curve[-1][1] if trial.curve else {}
    known = {**last, **trial.metrics}
    if trial.state == "complete":
        values = goal.values(known) or trial.values
        return PastTrial(point, "complete", values, violation=sum(goal.violations(known).values())) if values else "without a value"
    judged = {limit.name for limit in goal.limits} | {MEMORY}
    violation = sum(amount for name, amount in trial.violations.items() if name in judged)
    if violation > 0:
        return PastTrial(point, "failed", (), violation=violation)
    if trial.state == "failed":
        return "failed"
    values = goal.values(last) or ()
    if trial.reason == INFEASIBLE or not values:
        return "without a value"
    if not learner.pruned:
        return "cut short, of which this sampler learns nothing"
    return PastTrial(point, "pruned", values, {step: metrics[goal.metric] for step, metrics in trial.curve if goal.metric in metrics})
