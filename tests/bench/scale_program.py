"""The parts `simulate`, `look`, `foreground` and `ray` of benchmark (f): the real program, its seconds and its memory. See scale.py."""

from __future__ import annotations

import csv
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.bench.scale import MB, STEPS, Sheet, slots_of, study_of
from tests.bench.scale_search import studies
from tune.adapters.journal_file import NAME, read_entries
from tune.core.journal import Ended, StudyEnded, Suggested

RAY_TRIALS, RAY_SLOTS = (50, 250), 2
OPEN_SHARE = 0.02  # of a study's journal that `resume` has still to do
_TICK_S = 0.05


@dataclass(frozen=True)
class Ran:
    """What a run of the program came to. `peak_bytes`: of its own process, not of Ray's."""

    seconds: float
    peak_bytes: float
    text: str
    ended_at: float


def program(words: Sequence[str], until: Callable[[], bool] = lambda: False) -> Ran:
    """Run `phasetune` to its end, or ask it to stop when `until` says so. It must end with 0, or with 3 if it was asked."""
    begun, peak, asked = time.perf_counter(), 0.0, False
    seconds = 0.0
    with tempfile.TemporaryFile("w+") as said:
        started = psutil.Popen([sys.executable, "-m", "tune", *words], stdout=said, stderr=subprocess.STDOUT)
        while started.poll() is None:
            try:
                peak = max(peak, started.memory_info().rss)
            except psutil.NoSuchProcess:
                break
            if not asked and until():
                asked, seconds = True, time.perf_counter() - begun
                started.terminate()
            time.sleep(_TICK_S)
        code, ended_at = started.wait(), time.time()
        seconds = seconds or time.perf_counter() - begun
        said.seek(0)
        text = said.read()
    assert code in ((0, 3) if asked else (0,)), text[-2000:]
    return Ran(seconds, peak, text, ended_at)


def simulate(sizes: Sequence[int], folder: Path) -> None:
    """`phasetune simulate` on a table of 500 curves."""
    folder.mkdir(parents=True, exist_ok=True)
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
        found.append(program(["simulate", str(study), "--table", str(table), "--workers", str(slots_of(n)), "--json"]))
    sheet = Sheet("phasetune simulate, tpe/promote, a table of 500 curves", sizes)
    sheet.row("seconds", [ran.seconds for ran in found], 1)
    sheet.row("peak resident memory, MB", [ran.peak_bytes / MB for ran in found], 0)


def look(kind: str, sizes: Sequence[int], folder: Path) -> None:
    """What a person waits for after a study of each size: `status`, `report`, `compare`, `resume`."""
    dirs = studies(kind, sizes, folder)
    sheet = Sheet(f"looking at a study of {kind}", sizes)
    for name, words in (("status", ["status"]), ("status --json", ["status", "--json"]), ("report", ["report"])):
        _rows(sheet, name, [program([*words, str(study_dir)]) for study_dir in dirs])
        if name == "report":
            sheet.row("report.html, MB", [(d / "report" / "report.html").stat().st_size / MB for d in dirs], 2)
            sheet.row("report.md, MB", [(d / "report" / "report.md").stat().st_size / MB for d in dirs], 3)
    smallest = shutil.copytree(dirs[0], folder / "smallest", dirs_exist_ok=True)
    _rows(sheet, "compare with the smallest", [program(["compare", str(smallest), str(d), "--out", str(d / "compare")]) for d in dirs])
    _rows(sheet, "resume, to its first new event", [_resumed(d) for d in dirs])


def _rows(sheet: Sheet, name: str, found: Sequence[Ran]) -> None:
    sheet.row(f"{name}, s", [ran.seconds for ran in found], 1)
    sheet.row(f"{name}, peak MB", [ran.peak_bytes / MB for ran in found], 0)


def _resumed(study_dir: Path) -> Ran:
    """A copy of the study, cut short, is resumed until it has written an event, and then asked to stop."""
    with tempfile.TemporaryDirectory() as temporary:
        copy = Path(temporary) / study_dir.name
        shutil.copytree(study_dir, copy, ignore=shutil.ignore_patterns("report", "compare"))
        lines = (copy / NAME).read_text().splitlines(keepends=True)
        (copy / NAME).write_text("".join(lines[: -max(2, round(len(lines) * OPEN_SHARE))]))
        size = (copy / NAME).stat().st_size
        words = ["resume", str(copy), "--foreground", "--tracking-uri", f"sqlite:///{temporary}/mlflow.db"]
        return program(words, until=lambda: (copy / NAME).stat().st_size > size)


def foreground(sizes: Sequence[int], folder: Path) -> None:
    """`phasetune run --foreground` of no-op trials, one at a time, checkpoints, MLflow and all."""
    found = [_run(study_of(folder, n, "random", "stop"), folder / f"of-{n}", "--foreground") for n in sizes]
    sheet = Sheet("phasetune run --foreground of no-op trials (random/stop), MLflow in SQLite beside it", sizes)
    _tell(sheet, sizes, found)


def on_ray(folder: Path) -> None:
    """`phasetune run` of no-op trials on leased groups."""
    found = []
    for n in RAY_TRIALS:
        study = study_of(folder, n, "tpe", "promote")
        sets = ["--set", "cluster.workers=1", "--set", "cluster.cpus_per_worker=1", "--set", f"cluster.concurrency={RAY_SLOTS}"]
        found.append(_run(study, folder / f"ray-{n}", *sets))
    sheet = Sheet(f"phasetune run of no-op trials (tpe/promote) on {RAY_SLOTS} leased groups of a local Ray", RAY_TRIALS)
    _tell(sheet, RAY_TRIALS, found)
    (few, many), (m, n) = [ran for ran, _ in found], RAY_TRIALS
    sheet.row("milliseconds a further trial", [None, (many.seconds - few.seconds) * 1e3 / (n - m)], 0)


def _run(study: Path, storage: Path, *words: str) -> tuple[Ran, Path]:
    shutil.rmtree(storage, ignore_errors=True)
    ran = program(["run", str(study), "--storage", str(storage), "--json", *words])
    return ran, Path(json.loads(ran.text.splitlines()[-1])["dir"])


def _tell(sheet: Sheet, sizes: Sequence[int], found: Sequence[tuple[Ran, Path]]) -> None:
    times = [_times(study_dir) for _, study_dir in found]
    sheet.row("seconds", [ran.seconds for ran, _ in found], 1)
    sheet.row(
        "milliseconds a trial, from the first to the last",
        [(last - first) * 1e3 / n for n, (first, last) in zip(sizes, times, strict=True)],
        1,
    )
    sheet.row("driver's peak memory, MB", [ran.peak_bytes / MB for ran, _ in found], 0)
    sheet.row(
        "seconds from the last event to the exit (MLflow catches up)",
        [ran.ended_at - last for (ran, _), (_, last) in zip(found, times, strict=True)],
        1,
    )
    sheet.row("events that MLflow is behind then", [_behind(ran.text) for ran, _ in found], 0)


def _times(study_dir: Path) -> tuple[float, float]:
    """Unix seconds of the first suggestion and of the study's end."""
    entries = list(read_entries(study_dir))
    assert isinstance(entries[-1].event, StudyEnded) and any(isinstance(entry.event, Ended) for entry in entries)
    return next(entry.t for entry in entries if isinstance(entry.event, Suggested)), entries[-1].t


def _behind(said: str) -> float:
    words = said.split(" events behind")[0].split() if " events behind" in said else ["0"]
    return float(words[-1])
