"""Fakes at the ports for tests of the search: a clock that is told the time, a journal in memory, a recipe without training."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tune.adapters.grid_search import GridSearch
from tune.adapters.optuna_search import TruthfulOptunaSearch, make_sampler
from tune.adapters.schedulers import NoScheduler, SeededASHA
from tune.core.cost import Budget
from tune.core.fold import JournalWriter, StudyFold
from tune.core.goal import Goal, Objective
from tune.core.journal import Entry, StudyEnded, StudyStarted, decode_all
from tune.core.metrics import Mode
from tune.core.ports import Sampler, Scheduler
from tune.core.rules import Assignment, Rules
from tune.core.search import Search
from tune.core.space import Choice, Choose, Float, Int, Space

METRIC = "val/score"
SPACE = Space(
    (
        ("lr", Float(1e-5, 1e-1, log=True)),
        ("depth", Int(1, 8)),
        ("peft", Choose("method", (("lora", (("r", Int(4, 128, log=True)),)), ("ia3", ())))),
    )
)
GRID = Space((("lr", Choice((1e-3, 1e-2, 1e-1))), ("depth", Int(1, 4))))


class FakeClock:
    """Counts up by a second each time it is read."""

    def __init__(self, start: float = 0.0):
        self.time = start

    def now(self) -> float:
        self.time += 1.0
        return self.time


class Killed(BaseException):
    """The process is gone: nothing after the line that was being written happens."""


class MemoryStore:
    """A journal store that dies, as a SIGKILL would, right after `dies_after` lines in all."""

    def __init__(self, lines: list[str] | None = None, dies_after: int | None = None):
        self.kept = list(lines or [])
        self.dies_after = dies_after

    def append(self, line: str) -> None:
        if self.dies_after is not None and len(self.kept) >= self.dies_after:
            raise Killed
        self.kept.append(line)

    def lines(self) -> Iterator[str]:
        return iter(self.kept)

    def close(self) -> None:
        pass


def curve(point: dict, step: int) -> float:
    """A deterministic learning curve that depends on the whole point."""
    ceiling = 1.0 / (1.0 + abs(point["depth"] - 5)) + 100 * min(point["lr"], 0.01) + point.get("peft.lora.r", 0) / 1000
    return ceiling * (1 - 0.7 ** (step + 1))


def goal(metric: str = METRIC, mode: Mode = "max") -> Goal:
    return Goal((Objective(metric, mode),))


def rules_of(seed: int, slots: int, trials: int, **more: Any) -> Rules:
    return Rules(**{"goal": goal(), "seed": seed, "slots": slots, "budget": Budget(trials=trials), **more})


def make_search(
    store: MemoryStore, rules: Rules, sampler: str = "tpe", asha: bool | Scheduler = True, multivariate: bool = False
) -> Search:
    made: Sampler = (
        GridSearch(GRID)
        if sampler == "grid"
        else TruthfulOptunaSearch(
            SPACE,
            rules.goal,
            "fake",
            make_sampler(sampler, rules.seed, multivariate=multivariate, n_startup=4),
            first=[{"lr": 1e-3, "depth": 3}],
        )
    )
    scheduler: Scheduler = NoScheduler() if asha is False else asha  # type: ignore[assignment]
    if asha is True:
        scheduler = SeededASHA(rules.goal.mode, rules.seed, grace=2, factor=2, max_steps=9, brackets=2)
    return Search(rules, made, scheduler, JournalWriter(store, FakeClock(), StudyFold()))


def drive(search: Search, steps: int = 9) -> StudyEnded:
    """Run a search to its end, interleaving the steps of all slots in turn. Crashing trials are not its business."""
    running: dict[str, tuple[Assignment, int]] = {}
    while True:
        while isinstance(found := search.next(), Assignment):
            view = search.fold.trials[found.trial]
            search.started(found.trial, len(running), view.last_step)
            running[found.trial] = (found, 0 if view.last_step is None else view.last_step + 1)
        if found == "over":
            return search.end()
        for trial, (assignment, step) in list(running.items()):
            if (
                step < steps
                and search.report(trial, step, {METRIC: curve(assignment.point or {"depth": 1, "lr": 1e-3}, step)}) == "continue"
            ):
                running[trial] = (assignment, step + 1)
                continue
            search.finish(trial, {METRIC: search.fold.trials[trial].curve[-1][1][METRIC]} if step >= steps else {}, {})
            del running[trial]


def run(store: MemoryStore, rules: Rules, **kinds) -> Search:
    """Begin or resume the study in `store` and drive it to its end."""
    search = make_search(store, rules, **kinds)
    past = list(decode_all(store.lines()))
    search.replay(past)
    search.begin(None if past else StudyStarted("fake", "digest", {"metric": {"name": METRIC, "mode": "max"}}, {}), "fake")
    drive(search)
    return search


def essence(store: MemoryStore) -> list[object]:
    """What a study decided, without times, sessions and attempts: suggestions, reports, decisions and ends."""
    kept = []
    for entry in decode_all(store.lines()):
        name = type(entry.event).__name__
        if name in ("Suggested", "Reported", "Promoted", "Ended"):
            kept.append(entry.event)
    return kept


def entries(store: MemoryStore) -> list[Entry]:
    return list(decode_all(store.lines()))
