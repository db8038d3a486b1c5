"""The suggestions that Roumeliotis et al. published come out of our search path, one after the other."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import pytest

from tests.search.fakes import FakeClock, MemoryStore, goal, rules_of
from tune.adapters.optuna_search import TruthfulOptunaSearch, make_sampler
from tune.adapters.schedulers import NoScheduler
from tune.core.fold import JournalWriter, StudyFold
from tune.core.journal import StudyStarted
from tune.core.rules import Assignment
from tune.core.search import Search
from tune.core.space import Choice, Float, Space

GOLDEN = Path(__file__).parent / "golden" / "roumeliotis2025_trials.csv"
LAST_BITS = 1e-12  # NumPy's log and exp round the last bit otherwise than in 2025; plain Optuna shows the same differences


def published(size: int) -> list[dict[str, str]]:
    with open(GOLDEN) as file:
        return [row for row in csv.DictReader(file) if row["model"] == "convnext_tiny" and row["image_size"] == str(size)]


@pytest.mark.parametrize(("size", "n"), [(100, 100), (200, 100), (400, 99)])
def test_the_published_convnext_suggestions_replay_exactly(size: int, n: int) -> None:
    space = Space(
        (
            ("optim.lr", Float(1e-6, 1e-4, log=True)),
            ("batch", Choice((8, 16, 32, 64))),
            ("image_size", Choice((size,))),
            ("optim.weight_decay", Float(1e-5, 1e-2, log=True)),
        )
    )
    sampler = TruthfulOptunaSearch(space, goal("val/f1_weighted"), "replay", make_sampler("tpe", 42))
    search = Search(
        rules_of(seed=42, slots=1, trials=n, goal=goal("val/f1_weighted")),
        sampler,
        NoScheduler(),
        JournalWriter(MemoryStore(), FakeClock(), StudyFold()),
    )
    search.begin(StudyStarted("replay", "digest", {}, {}), "one slot")
    equal = 0
    for row in published(size):
        trial = search.next()
        assert isinstance(trial, Assignment)
        search.started(trial.trial, 0)
        equal += (
            trial.point["batch"] == int(row["batch_size"])
            and trial.point["image_size"] == size
            and math.isclose(trial.point["optim.lr"], float(row["learning_rate"]), rel_tol=LAST_BITS)
            and math.isclose(trial.point["optim.weight_decay"], float(row["weight_decay"]), rel_tol=LAST_BITS)
        )
        search.report(trial.trial, 0, {"val/f1_weighted": float(row["val_f1_w"])})
        search.finish(trial.trial, {"val/f1_weighted": float(row["val_f1_w"])}, {})
    assert equal == n == len(published(size))
    assert search.next() == "over"
