"""What a finished job says, under the names that this kind promises: losses, tokens, skipped pictures; and its ids. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Protocol

from trainables.openai_phases.follow import JobResult

FULL_LOSS = "full_valid_loss"  # of the whole validation file, at an epoch's end
_FULL_ACCURACY = "full_valid_mean_token_accuracy"
_NAMES = {"train_loss": "train/loss", "train_mean_token_accuracy": "train/token_accuracy", _FULL_ACCURACY: "val/token_accuracy"}
_SKIPPED = re.compile(r"\b(\d+)\b[^.\d]*\bskipped\b")


class _Measured(Protocol):
    @property
    def metrics(self) -> Mapping[str, float]: ...


def training_metrics(result: JobResult) -> dict[str, float]:
    """Of the job's last step, from whichever of its events, its checkpoints and its result file says most."""
    last: dict[str, float] = {}
    measured: list[Sequence[_Measured]] = [result.events, result.checkpoints, result.curve]
    for source in measured:
        for each in source:
            last.update(each.metrics)
    skipped = [int(found[1]) for event in result.events if (found := _SKIPPED.search(event.message))]
    values = renamed(last) | {"skipped_images": float(sum(skipped)), "trained_tokens": float(result.trained_tokens or 0)}
    if FULL_LOSS in last:
        values["val/loss"] = last[FULL_LOSS]
    return values


def renamed(measured: Mapping[str, float]) -> dict[str, float]:
    """The service's names as ours; what has none is left out."""
    return {_NAMES[name]: float(value) for name, value in measured.items() if name in _NAMES}


def ids_of(result: JobResult) -> dict[str, str]:
    """The job's id and those of its files, by what they are."""
    job = result.job
    files = {"training_file": job.training_file, "validation_file": job.validation_file, "result_file": next(iter(job.result_files), None)}
    return {"job": job.id} | {name: file_id for name, file_id in files.items() if file_id is not None}
