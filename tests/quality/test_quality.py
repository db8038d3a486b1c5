"""The proof itself is judged: regret, incumbent, intervals, equal clocks, and files that may not run code. No downloads."""

from __future__ import annotations

import csv
import io
import math
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest

from tests.quality import report
from tests.quality.__main__ import COLUMNS
from tests.quality.final_tables import _PlainDataOnly
from tests.quality.lcdb_curves import LEVELS, MEMBER, N_STEPS, _levels, _reduce
from tests.quality.problems import Problem, run_of
from tests.quality.searches import METHODS, WITH_CURVES, Method, ours
from tests.quality.studies import SHARES, SLOTS, _regrets, run_study
from tune.core.ports import Point
from tune.core.space import Float, Space

AS_OPTUNA = Method("ours", "phasetune", True, ours({"kind": "tpe", "constant_liar": False}, {"kind": "none"}))


def made_problem(n_steps: int) -> Problem:
    """The best point is x = 0.3; a curve rises to its height; a step takes a second."""
    height = lambda point: 1 - abs(point["x"] - 0.3)  # noqa: E731 - one expression
    return Problem(
        name="made/one",
        family="made",
        space=Space((("x", Float(0.0, 1.0)),)),
        mode="max",
        n_steps=n_steps,
        run=lambda point, seed: run_of(np.array([height(point) * (1 - 0.5 ** (s + 1)) for s in range(n_steps)]), np.ones(n_steps)),
        whole_seconds=lambda point, seed: float(n_steps),
        truth=height,
        best=1.0,
        median=0.7,
        full_seconds=float(n_steps),
        whole_trials=40,
    )


@pytest.mark.parametrize(("x", "regret"), [(0.3, 0.0), (0.45, 0.5), (0.6, 1.0), (1.0, 1.0)])
def test_regret_is_0_at_the_best_and_1_from_the_median_on(x: float, regret: float) -> None:
    assert made_problem(1).regret({"x": x}) == pytest.approx(regret)


def test_the_incumbent_is_the_best_at_the_highest_step_so_far() -> None:
    near, far = {"x": 0.36}, {"x": 0.48}
    reports: list[tuple[float, str, Point, int, float]] = [
        (1, "a", far, 0, 0.9),
        (2, "b", near, 1, 0.2),
        (3, "c", far, 0, 1.0),
        (4, "d", far, 1, 0.3),
    ]
    assert _regrets(made_problem(2), reports, [0.5, 1, 2, 3, 4]) == pytest.approx((1.0, 0.6, 0.2, 0.2, 0.6))


def test_without_curves_and_constant_liar_ours_optuna_and_ray_try_the_same_points() -> None:
    methods = (AS_OPTUNA, METHODS["Optuna, halving pruner"], METHODS["Ray, OptunaSearch + ASHA"])
    found = [run_study(made_problem(1), method, seed=5).regrets for method in methods]
    assert found[0] == found[1] == found[2]
    assert found[0][-1] < found[0][0]


@pytest.mark.parametrize("name", [name for name in WITH_CURVES if not name.startswith("Syne")])
def test_every_search_keeps_to_the_budget_of_virtual_time(name: str) -> None:
    problem = made_problem(N_STEPS)
    found = run_study(problem, METHODS[name], seed=1)
    assert len(found.regrets) == len(SHARES)
    if not METHODS[name].curves:
        assert problem.whole_trials - SLOTS <= found.whole <= problem.whole_trials
    else:
        assert found.trials > problem.whole_trials > found.whole


def test_an_interval_covers_the_mean_and_shrinks_with_seeds() -> None:
    rng = np.random.default_rng(0)
    few, many = rng.normal(0.5, 0.1, (3, 5, 1)), rng.normal(0.5, 0.1, (3, 500, 1))
    widths = []
    for cube in (few, many):
        low, high = report._interval(cube)
        assert low[0] < cube.mean() < high[0]
        widths.append(high[0] - low[0])
    assert widths[1] < widths[0] / 3


def test_the_report_names_a_difference_only_if_its_interval_leaves_out_0(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    with open(tmp_path / "results.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for seed in range(20):
            noise = rng.normal(0, 0.01, len(SHARES))
            for name, level in (("ours, no scheduler", 0.2), ("Optuna, halving pruner", 0.2), ("ours, stopping ASHA", 0.1)):
                regrets = level + noise + rng.normal(0, 0.01, len(SHARES))
                writer.writerow(["lcdb/x", name, seed, 9, 9, 0.1, " ".join(map(str, regrets))])
    table = report._differences(report.cubes_of(report.read_results(tmp_path / "results.csv"), ["lcdb/x"]))
    lines = {line.partition(":")[0]: line for line in table.splitlines()}
    assert "(better)" in lines["- ours, stopping ASHA minus ours, no scheduler"]
    assert "(worse)" not in table


def test_a_pickle_with_a_class_in_it_is_refused() -> None:
    with pytest.raises(pickle.UnpicklingError, match="dicts, lists and numbers only"):
        _PlainDataOnly(io.BytesIO(pickle.dumps(Path("x")))).load()
    assert _PlainDataOnly(io.BytesIO(pickle.dumps({"0": {"val_acc": [0.5]}}))).load() == {"0": {"val_acc": [0.5]}}


def test_a_level_is_the_nearest_anchor_and_splits_that_never_got_there_are_left_out() -> None:
    sizes = [round(16 * math.sqrt(2) ** k) for k in range(20)]
    whole = {size: [float(size), 0.5, 0.6] for size in sizes}
    [levels] = _levels({("0", "0"): whole, ("0", "1"): {16: [1.0, 0.5, 0.6]}}, max(sizes))
    found = [level[0] / max(sizes) for level in levels]
    assert found == pytest.approx(list(LEVELS.values()), rel=0.2)


def test_small_data_sets_are_left_out_of_the_curves(tmp_path: Path) -> None:
    head = "openmlid,learner,size_train,size_test,outer_seed,inner_seed,traintime,score_train,score_valid,score_test\n"
    text = (head + "3,SVC_linear,16,461,0,0,0.1,0.9,0.8,0.7\n").encode()
    with tarfile.open(tmp_path / "lcdb.tar.gz", "w:gz") as archive:
        member = tarfile.TarInfo(MEMBER)
        member.size = len(text)
        archive.addfile(member, io.BytesIO(text))
    assert _reduce(tmp_path / "lcdb.tar.gz") == {}
