"""Keeps a study directory from growing: a trial that is over needs no checkpoint, and only the best few need their weights."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

from tune.core.journal import Ended, Entry, StudyFold
from tune.core.metrics import Mode

KEEP_WEIGHTS_OF = 3  # best complete trials whose weights stay; refits keep theirs


class Housekeeping:
    """A listener of the journal. Deletes only after the trial's end is durable; what it cannot delete it leaves."""

    def __init__(self, study_dir: Path, fold: StudyFold, mode: Mode):
        self._trials, self._fold, self._mode = study_dir / "trials", fold, mode

    def on_entry(self, entry: Entry) -> None:
        if not isinstance(entry.event, Ended):
            return
        for name in ("checkpoint", "checkpoint.tmp", "checkpoint.old"):
            shutil.rmtree(self._trials / entry.event.trial / name, ignore_errors=True)
        kept = {t.trial for t in self._fold.ranked(self._mode)[:KEEP_WEIGHTS_OF]}
        for trial in self._fold.of_role("search"):
            if trial.ended and trial.trial not in kept:
                for weights in (self._trials / trial.trial).glob("*.safetensors"):
                    with contextlib.suppress(OSError):
                        weights.unlink()
