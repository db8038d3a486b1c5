"""ASHA's ladder on a 0-based axis, against Optuna's own halving, and what the stock class gets wrong."""

from __future__ import annotations

import numpy as np
import optuna
import pytest
from ray.tune.schedulers import ASHAScheduler

from tune.adapters.schedulers import NoScheduler, SeededASHA


def asha(brackets: int = 1, seed: int = 1) -> SeededASHA:
    return SeededASHA("max", seed, grace=5, factor=4, max_steps=50, brackets=brackets)


def stops(scheduler: SeededASHA, values: list[float]) -> dict[int, int]:
    """Trial -> number of epochs it ran, trials one after the other, each with a constant value."""
    ran = {}
    for trial_i, value in enumerate(values):
        scheduler.add(f"t{trial_i}")
        for epoch in range(50):
            ran[trial_i] = epoch + 1
            if scheduler.decide(f"t{trial_i}", epoch, (value,)).action == "stop":
                break
        scheduler.remove(f"t{trial_i}")
    return ran


def test_trials_stop_after_epoch_6_or_21_or_run_all_50() -> None:
    rng = np.random.default_rng(0)
    ran = stops(asha(), list(rng.random(200)))
    assert set(ran.values()) == {6, 21, 50}


def test_the_rungs_are_those_of_optunas_successive_halving() -> None:
    """Epochs after which Optuna's pruner (min_resource 5, reduction 4) writes a rung = epochs at which ours does."""
    study = optuna.create_study(pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=5, reduction_factor=4), direction="maximize")
    trial, optunas = study.ask(), []
    for epoch in range(50):
        trial.report(1.0, epoch)
        trial.should_prune()
        rungs = sum(key.startswith("completed_rung") for key in study.trials[0].system_attrs)
        if rungs > len(optunas):
            optunas.append(epoch + 1)
    scheduler, ours = asha(), []
    scheduler.add("t0")
    for epoch in range(50):
        before = sum(len(r) for rungs in scheduler.rungs().values() for rung in rungs for r in rung.values())
        scheduler.decide("t0", epoch, (1.0,))
        after = sum(len(r) for rungs in scheduler.rungs().values() for rung in rungs for r in rung.values())
        if after > before:
            ours.append(epoch + 1)
    assert ours == optunas == [6, 21]


def test_recalled_reports_leave_the_rungs_as_deciding_did() -> None:
    rng = np.random.default_rng(4)
    live, recalled = asha(3), asha(3)
    for trial_i in range(60):
        name = f"t{trial_i}"
        live.add(name)
        recalled.add(name)
        for epoch in range(50):
            value = float(rng.random())
            verdict = live.decide(name, epoch, (value,))
            recalled.recall(name, epoch, (value,), verdict)
            if verdict.action == "stop":
                break
        live.remove(name)
        recalled.remove(name)
    assert recalled.rungs() == live.rungs()


def test_brackets_depend_on_the_seed_alone_where_the_stock_class_follows_the_global_generator() -> None:
    def brackets(scheduler: SeededASHA) -> list[int]:
        for i in range(40):
            scheduler.add(f"t{i}")
        return [scheduler._brackets.index(scheduler._trial_info[f"t{i}"]) for i in range(40)]

    np.random.seed(0)
    first = brackets(asha(3))
    np.random.seed(1)
    assert brackets(asha(3)) == first
    assert brackets(asha(3, seed=2)) != first
    assert len(set(first)) == 3

    def stock() -> list[int]:
        scheduler = ASHAScheduler(time_attr="t", metric="m", mode="max", grace_period=5, reduction_factor=4, max_t=50, brackets=3)
        for i in range(40):
            scheduler.on_trial_add(None, type("Trial", (), {"trial_id": str(i)}))
        return [scheduler._brackets.index(scheduler._trial_info[str(i)]) for i in range(40)]

    np.random.seed(0)
    once = stock()
    np.random.seed(1)
    assert stock() != once, "Ray has seeded its brackets: SeededASHA.on_trial_add may go"


def test_a_misspelt_time_attribute_switches_the_stock_class_off_and_cannot_be_said_to_ours() -> None:
    stock = ASHAScheduler(time_attr="epok", metric="m", mode="max", grace_period=1, reduction_factor=2, max_t=9)
    stub = type("Trial", (), {"trial_id": "a"})
    stock.on_trial_add(None, stub)
    assert {stock.on_trial_result(None, stub, {"epoch": e, "m": 0.0}) for e in range(20)} == {"CONTINUE"}
    with pytest.raises(TypeError):
        SeededASHA("max", 1, grace=1, factor=2, max_steps=9, time_attr="epok")  # type: ignore[call-arg]


def test_without_a_scheduler_nothing_is_stopped() -> None:
    scheduler = NoScheduler()
    scheduler.add("t0")
    assert {scheduler.decide("t0", e, (-1e9,)).action for e in range(100)} == {"continue"}
