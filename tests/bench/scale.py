"""Benchmark (f): what a study of 10,000 trials costs its driver, and how each figure grows with the number of trials.

The real Search on 1,000 simulated slots of a virtual clock, with a journal on a real disk, each event synced. At each size: the
driver's seconds a report (fold, scheduler, sampler, journal) and a suggestion, journal, memory, replay by a fresh driver, and how
long MLflow's projection takes from nothing (SQLite, or the server or database named). `simulate` and no-op trials in the
foreground, beside which MLflow is told, are the real program. Nothing is trained.

    make bench ARGS="--only f"
    python -m tests.bench.scale --sizes 1000,3000 --parts search,simulate [--searches tpe/stop,tpe/promote,random/promote]
    python -m tests.bench.scale --parts mlflow --tracking-uri postgresql://...

The last column is the growth exponent between the first and the last size: 0 does not grow, 1 is linear, 2 is quadratic.
"""

from __future__ import annotations

import argparse
import csv
import math
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import psutil

from tune.adapters.journal_file import NAME, JournalFile, read_entries, read_lines
from tune.core.fold import JournalWriter, StudyFold
from tune.core.journal import Entry, StudyStarted, decode
from tune.core.rules import Assignment
from tune.core.search import Search
from tune.core.shape import TrialShape
from tune.core.study import StudySpec
from tune.core.table import Run
from tune.core.virtual import VirtualClock, VirtualSlots
from tune.load import LoadedStudy, load_study
from tune.session import make_search, rules_of

SIZES = (1_000, 3_000, 10_000)
SLOTS = 1_000
STEPS = 9
SEARCHES = ("random/stop", "tpe/stop", "tpe/promote")
WINDOW = 0.1  # calls are judged by the last tenth of a study's
_CURVE_SPACE = "{lr: {float: [1e-4, 1.0], log: true}, depth: {int: [1, 32]}, noise: {float: [0.0, 0.1]}}"
STUDY = """
study: {{name: scale, seed: 1}}
metric: {{name: val/score, mode: max}}
budget: {{trials: {trials}}}
sampler: {{kind: {sampler}}}
scheduler: {{kind: asha, grace: 1, factor: 3, form: {form}}}
trainable: {{kind: curve, epochs: {steps}}}
space: {space}
"""
MB = 1e6


class TimedSearch:
    """A `Search` whose calls are timed, in seconds. Of `next`, those that suggest and those that find nothing to start."""

    def __init__(self, search: Search):
        self._search = search
        self.reports, self.suggestions, self.waits = list[float](), list[float](), list[float]()
        self.ask, self.started, self.finish = search.ask, search.started, search.finish

    def next(self) -> Any:
        before, begun = self._search.fold.n_search, time.perf_counter()
        found = self._search.next()
        seconds = time.perf_counter() - begun
        if self._search.fold.n_search > before:
            self.suggestions.append(seconds)
        elif not isinstance(found, Assignment):
            self.waits.append(seconds)
        return found

    def report(self, trial: str, step: int, metrics: Any) -> Any:
        begun = time.perf_counter()
        decision = self._search.report(trial, step, metrics)
        self.reports.append(time.perf_counter() - begun)
        return decision


def last_of(seconds: Sequence[float]) -> tuple[float, float]:
    """(median, 99th percentile) in milliseconds of the last tenth of calls."""
    last = seconds[-max(2, round(len(seconds) * WINDOW)) :]
    return median(last) * 1e3, quantiles(last, n=100)[98] * 1e3


class Sheet:
    """Figures of each size, printed as rows of one table with their growth."""

    def __init__(self, title: str, sizes: Sequence[int]):
        self._sizes, self._first, self._last = sizes, sizes[0], sizes[-1]
        print(f"\n{title}\n\n| | {' | '.join(f'{size:,} trials' for size in sizes)} | exponent |\n|{' --- |' * (len(sizes) + 2)}")

    def row(self, name: str, figures: Sequence[float | None], digits: int = 2) -> None:
        known = [(size, figure) for size, figure in zip(self._sizes, figures, strict=True) if figure]
        exponent = "-"
        if len(known) > 1:
            (n0, f0), (n1, f1) = known[0], known[-1]
            exponent = f"{math.log(f1 / f0) / math.log(n1 / n0):.2f}"
        cells = ["not run" if figure is None else f"{figure:,.{digits}f}" for figure in figures]
        print(f"| {name} | {' | '.join(cells)} | {exponent} |", flush=True)


def study_of(folder: Path, trials: int, sampler: str, form: str, kind: str = "curve") -> Path:
    text = STUDY.format(trials=trials, sampler=sampler, form=form, steps=STEPS, space=_CURVE_SPACE)
    if kind == "table":
        text = text.replace(f"{{kind: curve, epochs: {STEPS}}}", "{kind: table}").replace("factor: 3", f"factor: 3, max: {STEPS}")
    path = folder / f"{sampler}-{form}-{trials}.yaml"
    path.write_text(text)
    return path


# -- the search --------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Searched:
    """What a study of one size came to, and what its last tenth took: call -> (median ms, p99 ms)."""

    events: int
    size_bytes: int
    grown_bytes: int
    seconds: float
    replay_s: float
    calls: Mapping[str, tuple[float, float]]


def search(kind: str, sizes: Sequence[int], folder: Path) -> None:
    """A study of each size; their journals stay in `folder`, a folder for each size."""
    found = [_searched(kind, n, folder / str(n)) for n in sizes]
    sheet = Sheet(f"search: {kind}, {SLOTS:,} slots", sizes)
    for name in found[0].calls:
        sheet.row(f"{name}, median ms", [one.calls[name][0] for one in found], 3)
        sheet.row(f"{name}, p99 ms", [one.calls[name][1] for one in found], 3)
    sheet.row("journal, events", [one.events for one in found], 0)
    sheet.row("journal, MB", [one.size_bytes / MB for one in found], 1)
    sheet.row("resident memory above the start, MB", [one.grown_bytes / MB for one in found], 0)
    sheet.row("driver's seconds in all", [one.seconds for one in found], 1)
    sheet.row("replay by a fresh driver, s", [one.replay_s for one in found], 2)


def _searched(kind: str, n: int, study_dir: Path) -> Searched:
    study_dir.mkdir(parents=True)
    sampler, form = kind.split("/")
    loaded = load_study(study_of(study_dir, n, sampler, form))
    process, begun, clock = psutil.Process(), time.perf_counter(), VirtualClock()
    with JournalFile(study_dir) as store:
        made = _search_of(loaded, store, clock)
        before_bytes = process.memory_info().rss
        timed = TimedSearch(made)
        made.begin(StudyStarted("scale", loaded.spec.digest, loaded.resolved, {}), f"{SLOTS} virtual slots")
        VirtualSlots(timed, clock, SLOTS, _curves(loaded.spec)).run()
        made.end()
    seconds, grown_bytes = time.perf_counter() - begun, process.memory_info().rss - before_bytes
    assert made.fold.n_search == n and made.fold.count("failed") == 0
    calls = {"a report": timed.reports, "a suggestion": timed.suggestions, "nothing to start": timed.waits}
    lines = list(read_lines(study_dir / NAME))
    return Searched(
        events=len(lines),
        size_bytes=(study_dir / NAME).stat().st_size,
        grown_bytes=grown_bytes,
        seconds=seconds,
        replay_s=_replay_s(loaded, lines),
        calls={name: last_of(some) for name, some in calls.items() if len(some) > 20},
    )


def _search_of(loaded: LoadedStudy, store: Any, clock: VirtualClock) -> Search:
    rules = rules_of(loaded.spec, SLOTS, TrialShape(1, 1.0))
    return make_search(loaded.spec, rules, JournalWriter(store, clock, StudyFold(rules.goal)))


def _curves(spec: StudySpec) -> Callable[[Assignment], Run]:
    """The curve kind's own scores, and seconds of a step between 30 and 90."""
    from trainables.curve.recipe import score

    def answer(assignment: Assignment) -> Run:
        trainable: Any = spec.spec_at(assignment.point)
        scores = tuple({"val/score": score(trainable, assignment.seed, step)} for step in range(STEPS))
        step_s = 60.0 * random.Random(assignment.seed).uniform(0.5, 1.5)
        return Run(scores, (step_s,) * STEPS, (0.0,) * STEPS)

    return answer


def _replay_s(loaded: LoadedStudy, lines: Sequence[str]) -> float:
    """Seconds of what a resume does before its first decision: lines to entries, fold, scheduler, sampler."""
    from tune.core.virtual import MemoryJournal

    begun = time.perf_counter()
    entries: list[Entry] = [decode(line) for line in lines]
    _search_of(loaded, MemoryJournal(), VirtualClock()).replay(entries)
    return time.perf_counter() - begun


# -- MLflow ------------------------------------------------------------------------------------------------------------------------


def mlflow(sizes: Sequence[int], folder_of: Path, tracking_uri: str | None) -> None:
    """How long the projection takes to tell a store a journal of each size, from nothing."""
    seconds, sizes_mb = list[float | None](), list[float | None]()
    for n in sizes:
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / f"scale-{n}"
            shutil.copytree(folder_of / str(n), copy)
            seconds.append(_project_s(copy, tracking_uri or f"sqlite:///{folder}/mlflow.db", f"scale-{n}"))
            sizes_mb.append(None if tracking_uri else (Path(folder) / "mlflow.db").stat().st_size / MB)
    where = "SQLite" if tracking_uri is None else tracking_uri.split(":", 1)[0]
    sheet = Sheet(f"MLflow projection from nothing, {where}", sizes)
    sheet.row("seconds", seconds, 1)
    sheet.row("runs a second", [n / s if s else None for n, s in zip(sizes, seconds, strict=True)], 0)
    if tracking_uri is None:
        sheet.row("database, MB", sizes_mb, 1)


def _project_s(study_dir: Path, uri: str, experiment: str) -> float:
    from tune.adapters.mlflow_log import MlflowProjection

    projection = MlflowProjection(study_dir, uri, experiment)
    last = list(read_entries(study_dir))[-1]
    begun = time.perf_counter()
    projection.start()
    projection.offer(last)
    left = projection.close(3600.0)
    assert left.behind == 0, left
    return time.perf_counter() - begun


# -- the real program --------------------------------------------------------------------------------------------------------------


def simulate(sizes: Sequence[int], folder: Path) -> None:
    """`phasetune simulate` on a table of 500 curves with 1,000 slots."""
    table, rng = folder / "table.csv", random.Random(0)
    with table.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["lr", "depth", "noise", "step", "val/score", "seconds"])
        for _ in range(500):
            point = [10 ** rng.uniform(-4, 0), rng.randint(1, 32), rng.uniform(0, 0.1)]
            height, step_s = rng.random(), rng.uniform(30, 90)
            rows.writerows([*point, step, height * (1 - 0.6 ** (step + 1)), step_s] for step in range(STEPS))
    found = []
    for n in sizes:
        study = study_of(folder, n, "tpe", "promote", "table")
        found.append(_program(["simulate", str(study), "--table", str(table), "--workers", str(SLOTS), "--json"]))
    sheet = Sheet(f"phasetune simulate, tpe/promote, {SLOTS:,} workers, a table of 500 curves", sizes)
    sheet.row("seconds", [seconds for seconds, _, _ in found], 1)
    sheet.row("peak resident memory, MB", [peak / MB for _, peak, _ in found], 0)


def foreground(sizes: Sequence[int], folder: Path) -> None:
    """`phasetune run --foreground` of no-op trials, one at a time, checkpoints, MLflow and all."""
    found = []
    for n in sizes:
        study = study_of(folder, n, "random", "stop")
        found.append(_program(["run", str(study), "--foreground", "--storage", str(folder / f"of-{n}"), "--json"]))
    sheet = Sheet("phasetune run --foreground of no-op trials (random/stop), MLflow in SQLite", sizes)
    sheet.row("seconds", [seconds for seconds, _, _ in found], 1)
    sheet.row("milliseconds a trial", [seconds * 1e3 / n for n, (seconds, _, _) in zip(sizes, found, strict=True)], 1)
    sheet.row("peak resident memory, MB", [peak / MB for _, peak, _ in found], 0)
    sheet.row("events that MLflow is behind 60 s after the end", [_behind(said) for _, _, said in found], 0)


def _behind(said: str) -> float:
    words = said.split(" events behind")[0].split() if " events behind" in said else ["0"]
    return float(words[-1])


def _program(words: Sequence[str]) -> tuple[float, float, str]:
    """(seconds, peak resident bytes, what it printed) of the program, which must end with 0."""
    begun = time.perf_counter()
    with tempfile.TemporaryFile("w+") as said:
        started = psutil.Popen([sys.executable, "-m", "tune", *words], stdout=said, stderr=subprocess.STDOUT)
        peak = 0.0
        while started.poll() is None:
            try:
                peak = max(peak, started.memory_info().rss)
            except psutil.NoSuchProcess:
                break
            time.sleep(0.05)
        seconds = time.perf_counter() - begun
        said.seek(0)
        text = said.read()
    assert started.wait() == 0, text[-2000:]
    return seconds, peak, text


PARTS = ("search", "mlflow", "simulate", "foreground")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)))
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--searches", default=",".join(SEARCHES))
    parser.add_argument("--tracking-uri", help="MLflow's store for the part mlflow; default: SQLite")
    args = parser.parse_args()
    measure([int(n) for n in args.sizes.split(",")], args.parts.split(","), args.searches.split(","), args.tracking_uri)


def measure(
    sizes: Sequence[int] = SIZES, parts: Sequence[str] = PARTS, searches: Sequence[str] = SEARCHES, tracking_uri: str | None = None
) -> None:
    """Print each part's table."""
    with tempfile.TemporaryDirectory() as folder:
        for kind in searches if {"search", "mlflow"} & set(parts) else ():
            search(kind, sizes, Path(folder) / kind.replace("/", "-"))
        if "mlflow" in parts:
            mlflow(sizes, Path(folder) / searches[0].replace("/", "-"), tracking_uri)
        for name, part in (("simulate", simulate), ("foreground", foreground)):
            if name in parts:
                part(sizes, Path(folder))


if __name__ == "__main__":
    main()
