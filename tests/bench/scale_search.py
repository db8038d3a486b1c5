"""The parts `search` and `tpe` of benchmark (f): what the driver's decisions take. See scale.py.

`python -m tests.bench.scale_search tpe/stop 1000 FOLDER` is one study in a process of its own; it leaves a study directory as `run`
would, with virtual seconds, and its figures beside it. Calls are timed in CPU seconds, so that neither the disk
nor another program counts: the sync of the journal comes on top (benchmark (e); a folder in memory leaves it out of all).
"""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import psutil

from tests.bench.scale import MB, STEPS, Sheet, slots_of, study_of
from tune.adapters import study_dir as directory
from tune.adapters.journal_file import NAME, JournalFile, read_lines
from tune.core.fold import JournalWriter, StudyFold
from tune.core.journal import Entry, StudyStarted, decode
from tune.core.rules import Assignment
from tune.core.search import Search
from tune.core.shape import TrialShape
from tune.core.study import StudySpec
from tune.core.table import Run
from tune.core.virtual import MemoryJournal, VirtualClock, VirtualSlots
from tune.load import LoadedStudy, load_study
from tune.session import make_search, rules_of

WINDOW = 0.1  # calls are judged by the last tenth of a study's
ASKS = 20  # suggestions of a TPE that are timed


class TimedSearch:
    """A `Search` whose calls are timed, in CPU seconds. Of `next`, those that suggest and those that find nothing to start.

    `closing_s`: the longest that found nothing to start and wrote events: at the end it ends all that are paused.
    """

    def __init__(self, search: Search):
        self._search = search
        self.reports, self.suggestions, self.waits = list[float](), list[float](), list[float]()
        self.closing_s = 0.0
        self.ask, self.started, self.finish = search.ask, search.started, search.finish

    def next(self) -> Any:
        fold = self._search.fold
        trials, events, begun = fold.n_search, fold.next_seq, time.thread_time()
        found = self._search.next()
        seconds = time.thread_time() - begun
        if fold.n_search > trials:
            self.suggestions.append(seconds)
        elif not isinstance(found, Assignment):
            if fold.next_seq > events:
                self.closing_s = max(self.closing_s, seconds)
            else:
                self.waits.append(seconds)
        return found

    def report(self, trial: str, step: int, metrics: Any) -> Any:
        begun = time.thread_time()
        decision = self._search.report(trial, step, metrics)
        self.reports.append(time.thread_time() - begun)
        return decision


def search(kind: str, sizes: Sequence[int], folder: Path) -> None:
    """A study of each size; they stay in `folder`, and one that is there is not run again."""
    found = [one_study(kind, n, folder) for n in sizes]
    sheet = Sheet(f"search: {kind}, at most {slots_of(sizes[-1]):,} slots", sizes)
    for name in found[-1]["calls"]:
        known = [one["calls"].get(name, (None, None)) for one in found]
        sheet.row(f"{name}, median CPU ms", [middle for middle, _ in known], 2)
        sheet.row(f"{name}, 99th percentile CPU ms", [high for _, high in known], 2)
    if any(one["closing_s"] for one in found):
        sheet.row("ending all paused trials, CPU s", [one["closing_s"] for one in found])
    sheet.row("journal, events", [one["events"] for one in found], 0)
    sheet.row("journal, MB", [one["size_bytes"] / MB for one in found], 2)
    sheet.row("driver's memory above an empty study's, MB", [one["grown_bytes"] / MB for one in found], 1)
    sheet.row("driver's CPU seconds in all", [one["cpu_seconds"] for one in found], 1)
    sheet.row("seconds in all, with the disk", [one["seconds"] for one in found], 1)
    sheet.row("replay by a fresh driver, CPU s", [one["replay_s"] for one in found], 2)


def left_by(kind: str, n: int, folder: Path) -> Path:
    """Where the study directory of `search` lies."""
    return folder / kind.replace("/", "-") / str(n)


def studies(kind: str, sizes: Sequence[int], folder: Path) -> list[Path]:
    """The study directories of `search`, made where they are not there."""
    for n in sizes:
        one_study(kind, n, folder)
    return [left_by(kind, n, folder) for n in sizes]


def one_study(kind: str, n: int, folder: Path) -> dict[str, Any]:
    """The figures of a study that is run in a process of its own, or was."""
    kept = left_by(kind, n, folder) / "figures.json"
    if not kept.exists():
        subprocess.run([sys.executable, "-m", "tests.bench.scale_search", kind, str(n), str(folder)], check=True)
    figures: dict[str, Any] = json.loads(kept.read_text())
    return figures


def _searched(kind: str, n: int, folder: Path) -> None:
    study_dir = left_by(kind, n, folder)
    shutil.rmtree(study_dir, ignore_errors=True)
    sampler, form = kind.split("/")
    loaded = load_study(study_of(study_dir, n, sampler, form))
    environment = directory.environment(1) | {"options": {"foreground": True}}
    directory.write_facts(study_dir, loaded.resolved, environment)
    process, clock = psutil.Process(), VirtualClock()
    with JournalFile(study_dir) as store:
        made = _search_of(loaded, n, store, clock)
        before_bytes = process.memory_info().rss
        begun, begun_cpu = time.perf_counter(), time.process_time()
        timed = TimedSearch(made)
        made.begin(StudyStarted("scale", loaded.spec.digest, loaded.resolved, environment), f"{slots_of(n)} virtual slots")
        VirtualSlots(timed, clock, slots_of(n), _curves(loaded.spec)).run()
        made.end()
        seconds, cpu_seconds = time.perf_counter() - begun, time.process_time() - begun_cpu
    grown_bytes = process.memory_info().rss - before_bytes
    assert made.fold.n_search == n and made.fold.count("failed") == 0
    calls = {"a report": timed.reports, "a suggestion": timed.suggestions, "nothing to start": timed.waits}
    lines = list(read_lines(study_dir / NAME))
    figures = {
        "events": len(lines),
        "size_bytes": (study_dir / NAME).stat().st_size,
        "grown_bytes": grown_bytes,
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "closing_s": timed.closing_s,
        "replay_s": _replay_s(loaded, n, lines),
        "calls": {name: last_of(some) for name, some in calls.items() if len(some) > 20},
    }
    (study_dir / "figures.json").write_text(json.dumps(figures))


def last_of(seconds: Sequence[float]) -> tuple[float, float]:
    """(median, 99th percentile) in milliseconds of the last tenth of calls."""
    last = seconds[-max(2, round(len(seconds) * WINDOW)) :]
    return median(last) * 1e3, quantiles(last, n=100)[98] * 1e3


def _search_of(loaded: LoadedStudy, n: int, store: Any, clock: VirtualClock) -> Search:
    rules = rules_of(loaded.spec, slots_of(n), TrialShape(1, 1.0))
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


def _replay_s(loaded: LoadedStudy, n: int, lines: Sequence[str]) -> float:
    """CPU seconds of what a resume does before its first decision: lines to entries, fold, scheduler, sampler."""
    begun = time.process_time()
    entries: list[Entry] = [decode(line) for line in lines]
    _search_of(loaded, n, MemoryJournal(), VirtualClock()).replay(entries)
    return time.process_time() - begun


def tpe(sizes: Sequence[int]) -> None:
    """CPU seconds of a suggestion after so many trials, three quarters of them pruned: Optuna's own TPE and ours, which must agree."""
    from optuna.samplers import TPESampler

    from tune.adapters.swift_tpe import SwiftTpe

    stock, ours = [_asked(TPESampler, n) for n in sizes], [_asked(SwiftTpe, n) for n in sizes]
    assert [points for _, points in stock] == [points for _, points in ours]
    sheet = Sheet(f"tpe: median CPU milliseconds of a suggestion, the same {ASKS} points", sizes)
    sheet.row("Optuna's TPESampler", [ms for ms, _ in stock], 1)
    sheet.row("SwiftTpe", [ms for ms, _ in ours], 1)
    sheet.row("times sooner", [a / b for (a, _), (b, _) in zip(stock, ours, strict=True)], 2)


def _asked(cls: Any, n: int) -> tuple[float, list[Any]]:
    from tests.search.fakes import SPACE, goal
    from tune.adapters.optuna_parts import constraints_of
    from tune.adapters.optuna_search import TruthfulOptunaSearch

    sampler = cls(seed=4, n_startup_trials=n, constant_liar=True, constraints_func=constraints_of, warn_independent_sampling=False)
    made = TruthfulOptunaSearch(SPACE, goal("m"), "s", sampler)
    seconds, points = list[float](), list[Any]()
    for i in range(n + ASKS):
        begun = time.process_time()
        point = made.ask(f"t{i}")
        if i >= n:
            seconds.append(time.process_time() - begun)
            points.append(point)
        made.observe(f"t{i}", 0, (point["lr"],))
        made.tell(f"t{i}", "pruned" if i % 4 else "complete", (point["lr"],))
    return median(seconds) * 1e3, points


if __name__ == "__main__":
    _searched(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
