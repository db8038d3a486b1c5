"""Study files and tables that the tests of the simulator write, and the one call that runs them."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tune.load import load_study
from tune.simulate import Simulation, simulate

SPACE = {"lr": {"float": [1e-4, 1.0], "log": True}, "depth": {"int": [1, 5]}}


def study_file(folder: Path, **parts: Any) -> Path:
    """A study of kind table; `parts` replace or add sections."""
    study = {
        "study": {"name": "made", "seed": 3},
        "metric": {"name": "acc", "mode": "max"},
        "budget": {"trials": 12},
        "trainable": {"kind": "table"},
        "space": SPACE,
    }
    path = folder / "study.yaml"
    path.write_text(json.dumps(study | parts))  # JSON is YAML
    return path


def table_file(folder: Path, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> Path:
    path = folder / "table.csv"
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def curves(points: Sequence[tuple[float, int, float]], steps: int) -> list[list[Any]]:
    """Rows of columns lr, depth, step, acc: (lr, depth, height) rises to its height."""
    return [[lr, depth, step, height * (1 - 0.9 ** (step + 1))] for lr, depth, height in points for step in range(steps)]


def run(study: Path, table: Path, **options: Any) -> Simulation:
    return simulate(load_study(study), table, **options)
