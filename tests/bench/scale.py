"""Benchmark (f): what a study of 10,000 trials costs its driver, and how each figure grows with the number of trials.

At each size a tenth as many slots as trials, at most 1,000, so that the largest study has 1,000 trials open at once. Parts:

    search      the real Search on slots of a virtual clock, its journal on a disk, each event synced: what a report and a
                suggestion take of a CPU, journal, memory, replay; a process for each size (scale_search.py)
    tpe         our TPE beside Optuna's own: seconds a suggestion, the same draws (scale_search.py)
    simulate    `phasetune simulate` on a table of 500 curves (scale_program.py)
    look        `status`, `report`, `compare` and `resume` of what `search` left (scale_program.py)
    foreground  `phasetune run --foreground` of no-op trials, beside which MLflow is told (scale_program.py)
    ray         `phasetune run` of no-op trials on leased groups of a local Ray (scale_program.py)
    mlflow      the projection from nothing and behind a study that runs, into SQLite (scale_mlflow.py)
    postgres    the same into PostgreSQL, where it is installed

    make bench ARGS="--only f"
    python -m tests.bench.scale --sizes 1000,3000 --parts search,look [--searches tpe/stop,random/promote] [--keep FOLDER]

The last column is the growth exponent between the first and the last size: 0 does not grow, 1 is linear, 2 is quadratic.
Nothing is trained.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

SIZES = (100, 1_000, 10_000)
MOST_SLOTS = 1_000
STEPS = 9
SEARCHES = ("random/stop", "random/promote", "tpe/stop", "tpe/promote")
PARTS = ("search", "tpe", "simulate", "look", "foreground", "ray", "mlflow", "postgres")
MB = 1e6
_SPACE = "{lr: {float: [1e-4, 1.0], log: true}, depth: {int: [1, 32]}, noise: {float: [0.0, 0.1]}}"
STUDY = """
study: {{name: scale, seed: 1}}
metric: {{name: val/score, mode: max}}
budget: {{trials: {trials}}}
sampler: {{kind: {sampler}}}
scheduler: {{kind: asha, grace: 1, factor: 3, form: {form}{most}}}
trainable: {trainable}
space: {space}
"""


def slots_of(trials: int) -> int:
    return min(MOST_SLOTS, max(1, trials // 10))


def study_of(folder: Path, trials: int, sampler: str, form: str, kind: str = "curve") -> Path:
    """A study file in `folder`; kind `table` for `simulate`."""
    trainable = "{kind: table}" if kind == "table" else f"{{kind: curve, epochs: {STEPS}}}"
    most = f", max: {STEPS}" if kind == "table" else ""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{sampler}-{form}-{trials}.yaml"
    path.write_text(STUDY.format(trials=trials, sampler=sampler, form=form, most=most, trainable=trainable, space=_SPACE))
    return path


class Sheet:
    """Figures of each size, printed as rows of one table with their growth."""

    def __init__(self, title: str, sizes: Sequence[int]):
        self._sizes = sizes
        print(f"\n{title}\n\n| | {' | '.join(f'{size:,} trials' for size in sizes)} | exponent |\n|{' --- |' * (len(sizes) + 2)}")

    def row(self, name: str, figures: Sequence[float | None], digits: int = 2) -> None:
        known = [(size, figure) for size, figure in zip(self._sizes, figures, strict=True) if figure and figure > 0]
        exponent = "-"
        if len(known) > 1:
            (n0, f0), (n1, f1) = known[0], known[-1]
            exponent = f"{math.log(f1 / f0) / math.log(n1 / n0):.2f}"
        cells = ["not run" if figure is None else f"{figure:,.{digits}f}" for figure in figures]
        print(f"| {name} | {' | '.join(cells)} | {exponent} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)))
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--searches", default=",".join(SEARCHES))
    parser.add_argument("--keep", type=Path, help="folder for the studies, which another call of this program may look at")
    args = parser.parse_args()
    measure([int(n) for n in args.sizes.split(",")], args.parts.split(","), args.searches.split(","), args.keep)


def measure(
    sizes: Sequence[int] = SIZES, parts: Sequence[str] = PARTS, searches: Sequence[str] = SEARCHES, keep: Path | None = None
) -> None:
    """Print each part's tables."""
    from tests.bench import scale_mlflow, scale_program, scale_search

    def searched(folder: Path) -> None:
        for kind in searches:
            scale_search.search(kind, sizes, folder)

    last = searches[-1]
    runs: dict[str, Callable[[Path], None]] = {
        "search": searched,
        "tpe": lambda _: scale_search.tpe([n for n in sizes if n >= 1000]),
        "simulate": lambda folder: scale_program.simulate(sizes, folder),
        "look": lambda folder: scale_program.look(last, sizes, folder),
        "foreground": lambda folder: scale_program.foreground(sizes, folder),
        "ray": lambda folder: scale_program.on_ray(folder),
        "mlflow": lambda folder: scale_mlflow.into_sqlite(last, sizes, folder),
        "postgres": lambda folder: scale_mlflow.into_postgres(last, sizes, folder),
    }
    with tempfile.TemporaryDirectory() as temporary:
        folder = keep or Path(temporary)
        for part in parts:
            runs[part](folder)


if __name__ == "__main__":
    main()
