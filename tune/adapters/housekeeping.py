"""Keeps a study directory from growing: a trial that is over needs no checkpoint, and only the best few need their weights.

A trial that a person stopped keeps its checkpoint, and the weights that belong to it, so that it can be cloned.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterable
from pathlib import Path

from tune.core.fold import StudyFold
from tune.core.journal import ASKED, Ended, Entry
from tune.core.trial_view import TrialView

KEEP_WEIGHTS_OF = 3  # best complete trials whose weights stay; refits and clones keep theirs


class Housekeeping:
    """A listener of the journal. Deletes only after the trial's end is durable; what it cannot delete it leaves."""

    def __init__(self, study_dir: Path, fold: StudyFold):
        self._trials, self._fold = study_dir / "trials", fold
        self._kept = {trial.trial for trial in self._best(trial for trial in fold.of_role("search") if trial.in_the_running)}

    def on_entry(self, entry: Entry) -> None:
        if not isinstance(entry.event, Ended):
            return
        ended = self._fold.trials[entry.event.trial]
        if entry.event.reason == ASKED:
            return
        for name in ("checkpoint", "checkpoint.tmp", "checkpoint.old"):
            shutil.rmtree(self._trials / ended.trial / name, ignore_errors=True)
        if ended.role in ("refit", "clone"):
            return
        # A trial that once fell out of the best never comes back, so only those kept and the new one are compared.
        able = [ended] if ended.role == "search" and ended.in_the_running else []
        kept = {trial.trial for trial in self._best([*(self._fold.trials[name] for name in self._kept), *able])}
        for name in {*self._kept, ended.trial} - kept:
            for weights in (self._trials / name).glob("*.safetensors"):
                with contextlib.suppress(OSError):
                    weights.unlink()
        self._kept = kept

    def _best(self, able: Iterable[TrialView]) -> list[TrialView]:
        trials = sorted(able, key=lambda trial: trial.number)
        if self._fold.goal is None or not trials:
            return trials
        best = [trials[i] for i in self._fold.goal.order([trial.values for trial in trials])[:KEEP_WEIGHTS_OF]]
        return [*best, *(trial for trial in self._fold.front if trial not in best)]
