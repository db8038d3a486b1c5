"""`plan`: what it counts, what it estimates, and what it says is missing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.placement import NodeFree
from tests.check.kinds import STUDY, ToySpec, edited, load_text
from trainables.catalog import Entry, Estimate
from tune.core.errors import Problem, UserError
from tune.plan import plan, plan_text

NODES = [NodeFree("a", cpus=4), NodeFree("b", cpus=2)]
HERE = "tests.check.test_plan"


def estimate(spec: ToySpec) -> Estimate:
    """A kind's estimate whose figures can be told from the spec."""
    trained = spec.peft.lora.r * 100 if spec.peft.lora is not None else 50
    return Estimate(trained, 10_000, spec.batch * 2**20, 60.0, 0.5)


def estimate_without_weights(spec: ToySpec) -> Estimate:
    raise UserError(Problem("trainable.data", "no weights", "download them"))


def look(spec: ToySpec, seed: int) -> dict[str, object]:
    return {"rows": {"train": 800, "val": 200}, "classes": ["a", "b"], "digest": "0123456789abcdef", "warnings": [f"seed {seed}"]}


def look_in_vain(spec: ToySpec, seed: int) -> dict[str, object]:
    raise UserError(Problem("trainable.data", f"{spec.data}: no such folder", "name a folder of pictures"))


TOY = Entry(spec="-", recipe="-", metrics="-", help="toy")


@pytest.fixture
def catalog() -> dict[str, Entry]:
    return {"toy": replace(TOY, estimate=f"{HERE}:estimate", preflight=f"{HERE}:look")}


def test_a_plan_is_json_with_a_row_for_the_base_each_branch_and_corner(tmp_path: Path, catalog: dict[str, Entry]) -> None:
    planned = plan(load_text(tmp_path, STUDY), NODES, catalog)
    assert json.loads(json.dumps(planned)) == planned
    roles = [point["role"] for point in planned["points"]]
    assert roles[0] == "base" and roles.count("branch") == 3 and roles.count("corner") > 8
    for point in planned["points"]:
        assert {"point", "trainable_parameters", "total_parameters", "trainable_share", "peak_memory_bytes", "seconds", "usd"} < set(point)
    base, *others = planned["points"]
    assert (base["point"], base["trainable_share"], base["seconds"], base["usd"]) == ({}, 0.005, 60.0, 0.5)
    largest = next(p for p in others if p["point"].get("peft.lora.r") == 128)
    assert largest["trainable_parameters"] == 12_800


def test_branches_stay_as_near_to_the_base_as_they_can(tmp_path: Path, catalog: dict[str, Entry]) -> None:
    planned = plan(load_text(tmp_path, STUDY), NODES, catalog)
    branches = [point["point"] for point in planned["points"] if point["role"] == "branch"]
    assert [(point["schedule.kind"], point["peft.method"]) for point in branches] == [
        ("constant", "lora"),
        ("cosine", "lora"),
        ("constant", "ia3"),
    ]
    assert all(point["optim.lr"] == 3e-4 and point["batch"] == 32 for point in branches)


def test_rungs_concurrency_and_totals_follow_from_the_study(tmp_path: Path, catalog: dict[str, Entry]) -> None:
    planned = plan(load_text(tmp_path, STUDY, "cluster.cpus_per_worker=2"), NODES, catalog)
    assert planned["scheduler"]["rungs"] == [5, 20]
    assert planned["trials"] == 32
    assert planned["concurrency"]["slots"] == 3
    share = (6 + 15 / 4 + 29 / 16) / 50
    assert planned["scheduler"]["expected_share"] == pytest.approx(share)
    assert planned["total"]["wall_seconds"] == pytest.approx(60 * share * 11)
    assert planned["total"]["usd"] == pytest.approx(0.5 * share * 32)


def test_a_grid_ends_before_its_budget(tmp_path: Path, catalog: dict[str, Entry]) -> None:
    text = edited("{kind: tpe, n_startup: 5}", "{kind: grid}")
    planned = plan(load_text(tmp_path, text, "space={batch: {choice: [8, 16]}}", "first=[]"), NODES, catalog)
    assert (planned["trials"], planned["space_size"]) == (2, 2)


def test_what_is_missing_is_listed_once_and_stops_nothing(tmp_path: Path) -> None:
    catalog = {"toy": replace(TOY, estimate=f"{HERE}:estimate_without_weights", preflight=f"{HERE}:look_in_vain")}
    planned = plan(load_text(tmp_path, STUDY, "cluster.workers=8"), [NodeFree("a", cpus=2)], catalog)
    assert [problem["got"] for problem in planned["missing"]] == [
        "no weights",
        "a trial needs 8 CPU (8 workers x 1 CPU), the cluster has 2: 6 short",
        "pictures: no such folder",
    ]
    assert planned["concurrency"]["slots"] == 0
    assert planned["points"][0]["seconds"] is None
    assert planned["total"] == {"wall_seconds": None, "usd": None}
    assert "    fix: name a folder of pictures" in plan_text(planned)


def test_the_text_says_rungs_from_one_and_shares_in_percent(tmp_path: Path, catalog: dict[str, Entry]) -> None:
    text = plan_text(plan(load_text(tmp_path, STUDY), NODES, catalog))
    assert "rungs        after 6, 21 of 50 epochs; at each, about 1 in 4 goes on" in text
    assert "base       50 / 10,000 (0.50%)               0.03 GiB     1 min 00 s   $0.50" in text
    assert "data         800 train, 200 val; 2 classes; digest 0123456789ab" in text
    assert "warning      seed 42" in text
    assert text.endswith("missing      nothing")


def test_a_cluster_that_was_not_asked_and_a_kind_without_estimate_leave_nulls(tmp_path: Path) -> None:
    planned = plan(load_text(tmp_path, STUDY, "scheduler.kind=none"), None, {"toy": TOY})
    assert planned["concurrency"] == {"slots": None, "max_trials": None, "why": "the cluster was not asked"}
    assert planned["data"] is None
    assert planned["scheduler"]["words"] == "none: every trial runs to its end (50 epochs)"
    text = plan_text(planned)
    assert "one trial    no estimate of parameters, memory, time or cost (see missing, or this kind gives none)" in text
    assert "concurrency  not known: the cluster was not asked" in text


def test_a_person_reads_points_of_equal_needs_once_with_the_settings_that_tell_them_apart(
    tmp_path: Path, catalog: dict[str, Entry]
) -> None:
    planned = plan(load_text(tmp_path, STUDY), NODES, catalog)
    text = plan_text(planned)
    table = [line for line in text.splitlines() if " MiB" in line or " GiB" in line]
    assert len({line.split("$")[0][13:] for line in table[1:]}) == len(table) - 1 < len(planned["points"]) - 1
    assert "optim.lr" not in text and "peft.lora.r=128" in text
