"""Successive halving that is ours: the promotion form, HyperBand's brackets, and rungs for several objectives. Pure.

Promotion form (Li et al. 2020, "A System for Massively Parallel Hyperparameter Tuning", Algorithm 2): a trial pauses at its rung
and goes on when it is among the best 1 / factor of all that ever reached the rung, so nothing is thrown away early. A trial that
is among them at its own report goes on at once, without a pause. Stopping form: one that is not is stopped there and then.
HyperBand (Li et al. 2018) spreads trials over ladders with later first rungs, in the shares that its brackets have.
"""

from __future__ import annotations

import hashlib
import math
from bisect import bisect_left, bisect_right, insort
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from tune.core.goal import Goal
from tune.core.ports import GO_ON, Values, Verdict
from tune.core.rungs import milestones
from tune.core.scheduler_spec import AshaScheduler, HyperbandScheduler


@dataclass
class _Rung:
    """Who reached the rung after `step`, and who of them went on. No question costs more with more trials, of one objective."""

    step: int
    goal: Goal
    values: dict[str, Values] = field(default_factory=dict)
    _gone_on: set[str] = field(default_factory=set)
    _keys: dict[str, tuple[float, int, str]] = field(default_factory=dict)  # for one objective, as the next two
    _sorted: list[tuple[float, int, str]] = field(default_factory=list)
    _left: list[tuple[float, int, str]] = field(default_factory=list)  # those who did not go on, sorted
    _order: list[str] | None = None  # for several

    def record(self, trial: str, values: Values) -> None:
        self.values[trial] = values
        self._order = None
        if not self.goal.several:
            key = self._keys[trial] = (self.goal.costs(values)[0], len(self.values), trial)
            insort(self._sorted, key)
            if trial not in self._gone_on:
                insort(self._left, key)

    def goes_on(self, trial: str) -> None:
        if trial not in self._gone_on and trial in self._keys:
            del self._left[bisect_left(self._left, self._keys[trial])]
        self._gone_on.add(trial)

    def is_top(self, trial: str, share: float, at_least: int = 0) -> bool:
        """Whether the trial is among the best `share` of those who reached the rung."""
        n = self._n(share, at_least)
        if self.goal.several:
            return trial in self._first(n)
        return bisect_left(self._sorted, self._keys[trial]) < n

    def left(self, share: float, at_least: int = 0) -> Iterator[str]:
        """Those of the best `share` who did not go on, the best first."""
        n = min(self._n(share, at_least), len(self.values))
        if self.goal.several:
            yield from (trial for trial in self._first(n) if trial not in self._gone_on)
        elif n:
            yield from (trial for _, _, trial in self._left[: bisect_right(self._left, self._sorted[n - 1])])

    def _n(self, share: float, at_least: int) -> int:
        return max(at_least, math.floor(len(self.values) * share + 1e-9))

    def _first(self, n: int) -> list[str]:
        if self._order is None or len(self._order) < n:
            names = list(self.values)
            self._order = [names[i] for i in self.goal.order(list(self.values.values()), first=n)]
        return self._order[:n]


class RungLadder:
    """A `Scheduler` port: asynchronous successive halving on one or several ladders.

    grace, factor, max_steps: see `tune.core.rungs`. weights: how often a trial gets each ladder, the ladder with the earliest rung
    first; a trial's ladder depends on the seed and its id alone.
    """

    def __init__(
        self,
        goal: Goal,
        seed: int,
        *,
        form: Literal["stop", "promote"],
        grace: int,
        factor: int,
        max_steps: int,
        weights: Sequence[float] = (1.0,),
    ):
        self._seed, self._form, self._share = seed, form, 1.0 / factor
        self._weights = [w / sum(weights) for w in weights]
        self._ladders = [
            [_Rung(step, goal) for step in milestones(grace, factor, max_steps, bracket)] for bracket in range(len(self._weights))
        ]
        self._of: dict[str, list[_Rung]] = {}

    def add(self, trial: str) -> None:
        self._of[trial] = self._ladders[seeded_choice(self._weights, self._seed, trial)]

    def decide(self, trial: str, step: int, values: Values) -> Verdict:
        rung = self._due(trial, step)
        if rung is None:
            return GO_ON
        rung.record(trial, values)
        if self._form == "stop":
            if rung.is_top(trial, self._share, at_least=1):
                return GO_ON
            return Verdict("stop", f"not among the best at the rung after step {rung.step}")
        if rung.is_top(trial, self._share):
            rung.goes_on(trial)
            return GO_ON
        return Verdict("pause", f"at the rung after step {rung.step}")

    def recall(self, trial: str, step: int, values: Values, verdict: Verdict) -> None:
        rung = self._due(trial, step)
        if rung is not None:
            rung.record(trial, values)
            if verdict.action == "continue":
                rung.goes_on(trial)

    def promote(self, ready: Collection[str], at_least: int = 0) -> tuple[str, int] | None:
        for ladder in self._ladders:
            for rung in reversed(ladder):
                found = next((trial for trial in rung.left(self._share, at_least) if trial in ready), None)
                if found is not None:
                    rung.goes_on(found)
                    return found, rung.step
        return None

    def promoted(self, trial: str, rung: int) -> None:
        next(r for r in self._of[trial] if r.step == rung).goes_on(trial)

    def remove(self, trial: str) -> None:
        self._of.pop(trial, None)

    def rungs(self) -> list[list[tuple[int, dict[str, Values]]]]:
        """What stands in the rungs of each ladder: [(step, {trial: values})], the earliest first."""
        return [[(rung.step, dict(rung.values)) for rung in ladder] for ladder in self._ladders]

    def _due(self, trial: str, step: int) -> _Rung | None:
        """The rung that judges this report: the last one at or below `step`, unless it has judged the trial already."""
        passed = [rung for rung in self._of[trial] if rung.step <= step]
        return passed[-1] if passed and trial not in passed[-1].values else None


def ladders(spec: AshaScheduler | HyperbandScheduler) -> list[tuple[float, tuple[int, ...]]]:
    """(share of trials, 0-based steps of the rungs) of each ladder of a study's scheduler; `max` must be filled in."""
    assert spec.max is not None, "tune.load fills it in"
    if isinstance(spec, HyperbandScheduler):
        weights = hyperband_weights(spec.grace, spec.factor, spec.max)
    else:
        weights = softmax_weights(spec.grace, spec.factor, spec.max, spec.brackets)
    total = sum(weights)
    return [(w / total, milestones(spec.grace, spec.factor, spec.max, bracket)) for bracket, w in enumerate(weights)]


def hyperband_weights(grace: int, factor: int, max_steps: int) -> tuple[float, ...]:
    """Shares of trials of HyperBand's brackets (Li et al. 2018, Algorithm 1): n_s = ceil((s_max + 1) / (s + 1) * factor ** s),
    the bracket with the most rungs first; the last bracket has no rung and runs its trials whole."""
    s_max = len(milestones(grace, factor, max_steps))
    return tuple(math.ceil((s_max + 1) / (s + 1) * factor**s) for s in range(s_max, -1, -1))


def softmax_weights(grace: int, factor: int, max_steps: int, brackets: int) -> tuple[float, ...]:
    """Shares of `brackets` ladders as Ray's ASHA draws them: softmax of their numbers of rungs."""
    return tuple(math.exp(len(milestones(grace, factor, max_steps, bracket))) for bracket in range(brackets))


def seeded_choice(weights: Sequence[float], seed: int, trial: str) -> int:
    """An index drawn by `weights` (which sum to 1), the same for a seed and a trial whenever it is asked."""
    draw = int.from_bytes(hashlib.sha256(f"{seed}/bracket/{trial}".encode()).digest()[:8], "big") / 2**64
    edge = 0.0
    for i, weight in enumerate(weights):
        edge += weight
        if draw < edge:
            return i
    return len(weights) - 1
