"""A made study's journal with all that a projection meets: roles, states, retries, files, an interruption and a resume."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator
from pathlib import Path

from tune.core.journal import (
    Charged,
    Ended,
    Entry,
    Event,
    GroupNoted,
    Noted,
    Reported,
    Retried,
    SamplerState,
    SessionStarted,
    Started,
    StudyEnded,
    StudyStarted,
    Suggested,
    encode,
)

BEGAN_AT_S = 1_790_000_000.0
METRIC = "val/f1_weighted"
LONG_KEY = "model." + "x" * 300


def started(name: str = "made", mode: str = "max") -> StudyStarted:
    resolved = {
        "study": {"name": name, "seed": 42},
        "metric": {"name": METRIC, "mode": mode},
        "trainable": {"kind": "timm_cnn", "optim": {"lr": 3e-4}, "tags": [1, 2]},
    }
    return StudyStarted(name, "d1ge57", resolved, {"git": {"commit": "0123abc", "dirty": False}, "python": "3.11"})


def made_study(seed: int, n_trials: int, n_steps: int) -> Iterator[Event]:
    """A study of `n_trials` search trials that is interrupted in the middle and resumed."""
    rng = random.Random(seed)
    yield started()
    yield SessionStarted(1, 2, "2 slots on one machine")
    yield Noted("data", {"digest": "feedf00d", "images": 1299, "classes": 10})
    yield Noted("data", {"digest": "feedf00d", "images": 1299, "classes": 10})
    yield GroupNoted(0, "started")
    yield Suggested("baseline", 0, "baseline", {})
    yield Started("baseline", 1, 0)
    yield Ended("baseline", "complete", (0.55,), {"test/accuracy": 0.54})
    open_trial: str | None = None
    for i in range(n_trials):
        trial = f"t{i:04d}"
        point = {"optim.lr": 10 ** rng.uniform(-5, -2), "batch": rng.choice([8, 16, 32]), "aug": "none" if i % 3 else "mixup"}
        yield Suggested(trial, i, "search", point | ({LONG_KEY: "y" * 9000} if i == 1 else {}))
        if i == n_trials // 2:
            yield SamplerState({"state": 1})
        yield Started(trial, 1, i % 2)
        value, goal = 0.1, rng.uniform(0.5, 0.9)
        pruned, failed = i % 5 == 3, i % 7 == 4
        for step in range(n_steps // 3 if pruned else n_steps):
            value += (goal - value) * 0.3
            stop = "not among the best" if pruned and step == n_steps // 3 - 1 else ""
            yield Reported(trial, step, {METRIC: value, "val/loss": 1.5 - value, "train/loss": 1.4 - value}, stop)
            if i % 4 == 2 and step == 1:
                yield Retried(trial, 1, "worker_lost", "exit code 137")
                yield Started(trial, 2, 0, 1)
            if i == n_trials // 2 and step == 2:
                yield StudyEnded("interrupted", "asked to stop; 1 trial(s) wait for a resume")
                yield SessionStarted(2, 2, "2 slots on one machine")
                yield Started(trial, 2, 1, 2)
        yield Charged(trial, 12.5, 3.25, 0.001)
        if failed:
            yield Ended(trial, "failed", (), reason="not_finite", detail="train/loss = nan; lower the learning rate")
        elif pruned:
            yield Ended(trial, "pruned", (value,), reason="rung", detail="not among the best")
        elif i == n_trials - 1 and open_trial is None:
            open_trial = trial
        else:
            final = {METRIC: value, "val/loss": 0.25, "test/accuracy": value - 0.01}
            yield Ended(trial, "complete", (value,), final, {"confusion matrix": "confusion.json", "curves": "plots/curves.csv"})
    if open_trial is not None:
        yield Ended(open_trial, "complete", (0.6,), {"test/accuracy": 0.59}, {"gone": "gone.txt"})
    yield StudyEnded("done", "all trials are done")


def entries(events: Iterable[Event]) -> list[Entry]:
    return [Entry(i, BEGAN_AT_S + i * 0.25, event) for i, event in enumerate(events)]


def write_study(study_dir: Path, journal: Iterable[Entry]) -> None:
    """The journal and the files that its trials name."""
    study_dir.mkdir(parents=True, exist_ok=True)
    lines = []
    for entry in journal:
        lines.append(encode(entry) + "\n")
        if isinstance(entry.event, Ended):
            for path in entry.event.files.values():
                if not path.startswith("gone"):
                    file = study_dir / "trials" / entry.event.trial / path
                    file.parent.mkdir(parents=True, exist_ok=True)
                    file.write_text(json.dumps({"of": entry.event.trial}))
    (study_dir / "journal.jsonl").write_text("".join(lines))
