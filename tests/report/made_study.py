"""Study directories with everything a report meets, written without running anything: two slots, rungs, pauses, failures, a resume."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tune.core.journal import (
    Charged,
    Ended,
    Entry,
    Event,
    GroupNoted,
    Noted,
    Promoted,
    Reported,
    Retried,
    SessionStarted,
    Started,
    StudyEnded,
    StudyStarted,
    Suggested,
    encode,
)

BEGAN_AT_S = 1_790_000_000.0
CLASSES = ("animals", "buildings", "food", "plants")
METRIC = "val/f1_weighted"
SPACE = {
    "optim.lr": {"float": [1e-4, 1e-1], "log": True},
    "batch": {"choice": [16, 32, 64]},
    "model.drop": {"float": [0.0, 0.5]},
    "depth": {"int": [1, 8]},
}


@dataclass
class Recorder:
    """Appends events at a clock that the maker moves."""

    now_s: float = BEGAN_AT_S
    entries: list[Entry] = field(default_factory=list)

    def at(self, after_s: float, event: Event) -> None:
        self.now_s += after_s
        self.entries.append(Entry(len(self.entries), self.now_s, event))


def started(name: str, **resolved: Any) -> StudyStarted:
    whole = {
        "study": {"name": name, "seed": 42},
        "metric": {"name": METRIC, "mode": "max"},
        "scheduler": {"kind": "asha", "axis": "epoch", "grace": 2, "factor": 2, "max": 12, "brackets": 1},
        "trainable": {"kind": "timm_cnn"},
        "space": SPACE,
        **resolved,
    }
    environment = {
        "git_commit": "0123456789abcdef0123456789abcdef01234567",
        "git_dirty": True,
        "command": ["__main__.py", "run", "configs/studies/quickstart.yaml", "--set", "study.name=a b"],
        "python": "3.11.9",
        "versions": {"ray": "2.60.0", "optuna": "4.8.0"},
        "host": "node-1",
        "platform": "Linux",
    }
    return StudyStarted(name, "d1ge57", whole, environment)


def point_of(rng: random.Random) -> dict[str, Any]:
    lr = 10 ** rng.uniform(-4, -1)
    return {"optim.lr": lr, "batch": rng.choice([16, 32, 64]), "model.drop": rng.uniform(0, 0.5), "depth": rng.randint(1, 8)}


def score(point: dict[str, Any], rng: random.Random) -> float:
    """Best at lr 0.003 and drop 0.2; batch and depth matter little."""
    loss = 0.08 * math.log10(point["optim.lr"] / 3e-3) ** 2 + 0.6 * (point["model.drop"] - 0.2) ** 2 + 0.004 * abs(point["depth"] - 4)
    return max(0.01, 0.66 - loss + rng.gauss(0, 0.006))


def events_of(name: str, n_trials: int, seed: int = 0, *, finalists: int = 0, resume: bool = True, **resolved: Any) -> list[Entry]:
    """A study of `n_trials` search trials on two slots; every seventh fails, about a third is stopped or paused at a rung."""
    rng, log = random.Random(seed), Recorder()
    log.at(0.0, started(name, **resolved))
    log.at(0.1, SessionStarted(1, 2, "2 CPU on 1 node hold 2 groups of 1 worker x 1 CPU"))
    log.at(0.0, Noted("data", {"digest": "feedf00d", "rows": {"test": 200}}))
    log.at(0.0, Suggested("baseline", 0, "baseline", {}))
    log.at(0.0, Started("baseline", 1, 0))
    log.at(9.0, GroupNoted(0, "started", "pids 1", 8.9))
    log.at(0.1, GroupNoted(1, "started", "pids 2", 9.0))
    test = {"test/accuracy": 0.60, "test/accuracy_standard_error": 0.031, "test/f1_weighted": 0.59, METRIC: 0.58, "majority/accuracy": 0.13}
    log.at(3.0, Ended("baseline", "complete", (0.58,), test))
    ranked: list[tuple[float, str, dict[str, Any]]] = []
    for i in range(n_trials):
        trial, point = f"t{i:04d}", point_of(rng)
        top = score(point, rng)
        log.at(0.02, Suggested(trial, i, "search", point))
        if resume and i == n_trials // 2:
            log.at(0.5, StudyEnded("interrupted", "asked to stop"))
            log.at(7200.0, SessionStarted(2, 2, "2 CPU on 1 node"))
        log.at(0.4 * (i % 3), Started(trial, 1, i % 2))
        _one(log, trial, i, point, top, rng)
        if log.entries[-1].event.state == "complete":  # type: ignore[union-attr]
            ranked.append((top, trial, point))
    ranked.sort(key=lambda one: -one[0])
    for top, of, point in ranked[:finalists]:
        for k in range(3):
            trial, value = f"{of}-s{k}", top - 0.01 + rng.gauss(0, 0.004)
            log.at(0.0, Suggested(trial, 0, "finalist", point, of))
            log.at(0.1, Started(trial, 1, k % 2))
            log.at(6.0, Charged(trial, 6.0, 0.0, 0.0))
            log.at(0.0, Ended(trial, "complete", (value,), {METRIC: value, "test/accuracy": value + 0.01}, FILES))
    log.at(0.5, StudyEnded("done", "all trials are done"))
    return log.entries


FILES = {
    "confusion matrix": "confusion_matrix.json",
    "predictions": "predictions.csv",
    "phases": "phases.json",
    "stress tests": "stress.json",
}


def _one(log: Recorder, trial: str, i: int, point: dict[str, Any], top: float, rng: random.Random) -> None:
    if i % 7 == 3:
        if i % 2:
            log.at(2.0, Retried(trial, 1, "group_lost", "the worker died"))
            log.at(1.0, Started(trial, 2, i % 2))
        reason = ("not_finite", "train/loss is nan in epoch 0; lower optim.lr") if i % 3 else ("out_of_memory", "batch 64 at 96 px")
        log.at(1.5, Charged(trial, 3.5, 0.0, 0.0))
        log.at(0.0, Ended(trial, "failed", (), reason=reason[0], detail=reason[1]))
        return
    last = 11
    for step in range(12):
        value = top * (1 - math.exp(-(step + 1) / 3.0)) + rng.gauss(0, 0.004)
        if step == 2 and top < 0.52:
            log.at(0.6, Reported(trial, step, {METRIC: value}, stop="not among the best at the rung after step 2"))
            last = step
            break
        paused = step == 4 and i % 5 == 0
        log.at(0.6, Reported(trial, step, {METRIC: value, "seconds": 0.6}, pause="waits at the rung after step 4" if paused else ""))
        if paused:
            log.at(0.5, Promoted(trial, 4))
            log.at(0.1, Started(trial, 2, i % 2, 4))
    seconds = 0.6 * (last + 1)
    log.at(0.0, Charged(trial, seconds, 0.0, 0.002))
    if last < 11:
        log.at(0.0, Ended(trial, "pruned", (value,), reason="rung", detail="not among the best at the rung after step 2"))
        return
    test = {"test/accuracy": top + 0.01, "test/f1_weighted": top, "test/accuracy_standard_error": 0.031, "test/loss": 1.2}
    log.at(0.0, Ended(trial, "complete", (top,), {METRIC: top, **test}, FILES))


def two_objectives(name: str, n_trials: int, seed: int = 0) -> list[Entry]:
    """Accuracy against seconds per image; a limit that some trials break."""
    rng, log = random.Random(seed), Recorder()
    objectives = [{"name": METRIC, "mode": "max"}, {"name": "seconds_per_image", "mode": "min", "max": 0.03}]
    resolved = started(name).resolved
    whole = {key: value for key, value in resolved.items() if key != "metric"} | {"objectives": objectives}
    log.at(0.0, StudyStarted(name, "d", whole, started(name).environment))
    log.at(0.1, SessionStarted(1, 1, "1 slot"))
    for i in range(n_trials):
        trial, point = f"t{i:04d}", point_of(rng)
        values = (score(point, rng) - 0.1 / point["depth"], 0.004 * point["depth"] * (0.8 + 0.4 * rng.random()))
        log.at(0.0, Suggested(trial, i, "search", point))
        log.at(0.1, Started(trial, 1, 0))
        log.at(4.0, Charged(trial, 4.0, 0.0, 0.0))
        violations = {"seconds_per_image": values[1] / 0.03 - 1} if values[1] > 0.03 else {}
        log.at(0.0, Ended(trial, "complete", values, dict(zip((METRIC, "seconds_per_image"), values, strict=True)), violations=violations))
    log.at(0.1, StudyEnded("done", "all trials are done"))
    return log.entries


def write(folder: Path, entries: Sequence[Entry], files: bool = True) -> Path:
    """The study directory `folder` with this journal and the files that its trials name."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "journal.jsonl").write_text("".join(encode(entry) + "\n" for entry in entries))
    for trial, named in _named_files(entries) if files else ():
        place = folder / "trials" / trial
        place.mkdir(parents=True, exist_ok=True)
        rng = random.Random(trial)
        rows = [(f"img-{i:03d}", CLASSES[i % 4]) for i in range(200)]
        answers = [(item, label, label if rng.random() < 0.66 else rng.choice(CLASSES)) for item, label in rows]
        counts = [[sum(a == (x, y) for _, *a_ in answers for a in [tuple(a_)]) for y in CLASSES] for x in CLASSES]
        texts = {
            "confusion_matrix.json": json.dumps({"classes": CLASSES, "true_by_predicted": counts}),
            "predictions.csv": "item,label,predicted\n" + "".join(f"{','.join(row)}\n" for row in answers),
            "phases.json": json.dumps([_phase(k) for k in range(4)]),
            "stress.json": json.dumps([{"phase": 3, "trained_at": 96, "tested_at": 48, "metrics": {"test/accuracy": 0.41}}]),
        }
        for path in named:
            (place / path).write_text(texts[path])
    return folder


def _phase(k: int) -> dict[str, Any]:
    metrics = {"test/accuracy": 0.4 + 0.06 * k, "val/f1_weighted": 0.38 + 0.06 * k, "test/f1/animals": 0.3}
    return {"phase": k, "resolution": 96, "rows": 50, "start": "previous" if k else "base", "metrics": metrics, "seconds": 5.0}


def _named_files(entries: Sequence[Entry]) -> Iterator[tuple[str, list[str]]]:
    for entry in entries:
        if isinstance(entry.event, Ended) and entry.event.files:
            yield entry.event.trial, list(entry.event.files.values())
