"""How many more trials would begin now if there were slots for them: what a study that may grow asks machines for. Pure.

It never counts a trial that `Search.next` would not hand out, but for the points that a sampler turns out not to have: a group that
came for nothing would be given back and asked for again. Promotions are not counted while others run: the trial that pauses leaves
its slot.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from tune.core.fold import StudyFold
from tune.core.rules import Rules, finalist_name
from tune.core.trial_view import TrialView


def demand(rules: Rules, fold: StudyFold, active: Collection[str], exhausted: bool, finalists: Sequence[TrialView] | None) -> int:
    """Of a study whose limits are not reached. active: trials that are handed out; exhausted: the sampler has no further point;
    finalists: the trials that are repeated, None before they are chosen."""
    if fold.stop_asked or fold.held_by:
        return 0
    found = _of_search(rules, fold, active, exhausted)
    if found == 0 and not any(fold.trials[trial].role in ("search", "baseline") for trial in active):
        found = _of_the_end(rules, fold, finalists)
    if found == 0 and not active and fold.paused:
        found = 1  # the best of the paused may go on
    return max(0, min(found, rules.slots - len(active)))


def _of_search(rules: Rules, fold: StudyFold, active: Collection[str], exhausted: bool) -> int:
    cut_off = sum(trial not in active for trial in fold.running)
    baseline = int(rules.baseline and not fold.of_role("baseline"))
    clones = sum(bool(fold.wanted[request].trial) for request in fold.untried)
    points = len(fold.untried) - clones  # of persons: tried although the sampler has none left
    possible = points if exhausted else max(points, rules.slots)
    left = possible if rules.trials is None else max(0, rules.trials - (fold.n_search - fold.n_infeasible))
    return cut_off + baseline + clones + min(possible, left)


def _of_the_end(rules: Rules, fold: StudyFold, finalists: Sequence[TrialView] | None) -> int:
    """Finalists, and the refit when they are over."""
    best, seeds = rules.finalists
    chosen = (fold.candidates() if finalists is None else finalists)[:best]
    missing = sum(finalist_name(trial.trial, seed) not in fold.trials for trial in chosen for seed in range(1, seeds + 1))
    if missing:
        return missing
    return int(rules.refit and fold.winner is not None and not fold.of_role("refit") and not fold.running)
