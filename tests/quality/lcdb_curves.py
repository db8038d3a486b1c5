"""Learning curves of the Learning Curve Database (`lcdb` 0.1.0, MIT): 20 scikit-learn classifiers, the share of the data as fidelity.

A point is a classifier; a trial trains it from scratch on growing shares of the training data and pays for each training what the
database measured. 25 splits of each data set are the noise: a trial sees the validation accuracy of one, the truth is the mean test
accuracy of all. The sdist (68 MB) is fetched by pip into the cache and reduced once to the rows that are needed.
"""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
import tarfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tests.quality.problems import Problem, run_of
from tune.core.ports import Point
from tune.core.space import Choice, Space
from tune.core.table import Run

SDIST = "lcdb==0.1.0"
MEMBER = "lcdb-0.1.0/lcdb/database-accuracy.csv"
N_STEPS = 27
LEVELS = {0: 2 / 27, 3: 4 / 27, 9: 10 / 27, 26: 1.0}  # 0-based step -> share of the data that it trains on: one for each rung, and all
LEARNERS_AT_LEAST, SPLITS_AT_LEAST, DATA_SETS, ROWS_AT_LEAST = 16, 15, 10, 4000
GAP_AT_LEAST = 0.02  # accuracy between the best and the median classifier: with less there is nothing to find
WHOLE_TRIALS = 40


def lcdb_curves(cache: Path) -> Iterator[Problem]:
    """The largest data sets with enough classifiers whose trainings all ended."""
    reduced = cache / "lcdb_levels.json"
    if not reduced.exists():
        cache.mkdir(parents=True, exist_ok=True)
        data = _reduce(_sdist(cache))
        reduced.with_suffix(".tmp").write_text(json.dumps(data))
        reduced.with_suffix(".tmp").rename(reduced)
    for name, learners in json.loads(reduced.read_text()).items():
        yield _problem(name, {learner: np.array(splits) for learner, splits in learners.items()})


def _problem(name: str, curves: dict[str, np.ndarray]) -> Problem:
    """`curves`: classifier -> (splits, levels, 3): seconds, validation and test accuracy."""
    test = {learner: float(rows[:, -1, 2].mean()) for learner, rows in curves.items()}
    steps = list(LEVELS)

    def row(point: Point, seed: int) -> np.ndarray:
        rows = curves[point["classifier"]]
        return rows[seed % len(rows)]

    def run(point: Point, seed: int) -> Run:
        levels = row(point, seed)
        values, seconds = np.empty(N_STEPS), np.zeros(N_STEPS)
        for k, step in enumerate(steps):
            values[step:] = levels[k, 1]  # until the next training nothing new is known
            seconds[step] = levels[k, 0]
        return run_of(values, seconds)

    return Problem(
        name=f"lcdb/{name}",
        family="lcdb",
        space=Space((("classifier", Choice(tuple(curves))),)),
        mode="max",
        n_steps=N_STEPS,
        run=run,
        whole_seconds=lambda point, seed: float(row(point, seed)[-1, 0]),
        truth=lambda point: test[point["classifier"]],
        best=max(test.values()),
        median=float(np.median(list(test.values()))),
        full_seconds=float(np.mean([rows[:, -1, 0].mean() for rows in curves.values()])),
        whole_trials=WHOLE_TRIALS,
    )


def _sdist(cache: Path) -> Path:
    found = list(cache.glob("lcdb-*.tar.gz"))
    if not found:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:", "--dest", str(cache), SDIST]
        subprocess.run(command, check=True)
        found = list(cache.glob("lcdb-*.tar.gz"))
    return found[0]


def _reduce(sdist: Path) -> dict[str, dict[str, list[Any]]]:
    """data set -> classifier -> splits -> levels -> [seconds, validation accuracy, test accuracy]."""
    rows: dict[str, dict[str, dict[tuple[str, str], dict[int, list[float]]]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(dict)))
    with tarfile.open(sdist) as archive:
        stream = archive.extractfile(MEMBER)
        assert stream is not None, f"{MEMBER} is not in {sdist}"
        for r in csv.DictReader(io.TextIOWrapper(stream)):
            entry = [float(r["traintime"]), float(r["score_valid"]), float(r["score_test"])]
            rows[r["openmlid"]][r["learner"].rpartition(".")[2]][r["outer_seed"], r["inner_seed"]][int(r["size_train"])] = entry
    chosen: list[tuple[int, str, dict[str, list[Any]]]] = []
    for data_set, learners in rows.items():
        full = max(size for splits in learners.values() for sizes in splits.values() for size in sizes)
        if full >= ROWS_AT_LEAST:
            whole = {learner: _levels(splits, full) for learner, splits in sorted(learners.items())}
            whole = {learner: kept for learner, kept in whole.items() if len(kept) >= SPLITS_AT_LEAST}
            test = [float(np.mean([split[-1][2] for split in kept])) for kept in whole.values()]
            if len(whole) >= LEARNERS_AT_LEAST and max(test) - float(np.median(test)) >= GAP_AT_LEAST:
                chosen.append((full, data_set, whole))
    chosen.sort(key=lambda item: (-item[0], item[1]))
    return {f"openml-{data_set}": whole for _, data_set, whole in chosen[:DATA_SETS]}


def _levels(splits: dict[tuple[str, str], dict[int, list[float]]], full: int) -> list[list[list[float]]]:
    """The splits that reach the full size, each at the nearest anchor of every level."""
    kept = []
    for _, sizes in sorted(splits.items()):
        if full in sizes:
            anchors = np.array(sorted(sizes))
            kept.append([sizes[int(anchors[np.argmin(np.abs(np.log(anchors / (share * full))))])] for share in LEVELS.values()])
    return kept
