"""A sound study: what is loaded, from where each value comes, what stays the same when it is read again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.check.kinds import KINDS, STUDY, edited, load_text
from tune.core.errors import UserError
from tune.core.space import Choice, Float
from tune.load import load_resolved


def test_a_study_is_loaded_with_its_types(tmp_path: Path) -> None:
    spec = load_text(tmp_path, STUDY).spec
    assert spec.space.params[0] == ("optim.lr", Float(1e-6, 1e-3, log=True))
    assert spec.space.params[1] == ("batch", Choice((8, 16, 32)))
    assert spec.trainable["optim"]["lr"] == 3e-4
    assert (spec.sampler.kind, spec.scheduler.kind, spec.cluster.address, spec.kind) == ("tpe", "asha", "local", "toy")
    assert spec.first == ({"optim.lr": 3e-4, "batch": 32},)


def test_every_value_says_where_it_comes_from(tmp_path: Path) -> None:
    origins = load_text(tmp_path, STUDY, "trainable.optim.lr=1e-4", "space.batch={choice: [8, 32]}").origins
    name = str(tmp_path / "study.yaml")
    assert origins["study.seed"] == f"{name}:1"
    assert origins["trainable.data"] == f"{name}:9"
    assert origins["trainable.optim.lr"] == "--set"
    assert origins["space.batch"] == "--set"
    assert origins["space.optim.lr"] == f"{name}:13"
    assert origins["trainable.optim.kind"] == origins["budget.usd"] == origins["cluster.workers"] == "default"
    assert origins["cluster.address"] == f"{name}:6"
    assert origins["first"] == f"{name}:17"


def test_the_resolved_study_is_json_and_read_back_equal(tmp_path: Path) -> None:
    loaded = load_text(tmp_path, STUDY)
    again = load_resolved(json.loads(json.dumps(loaded.resolved)), kinds=KINDS)
    assert again.spec == loaded.spec
    assert again.resolved == loaded.resolved
    assert again.spec.digest == loaded.spec.digest
    assert list(again.spec.space.places()) == list(loaded.spec.space.places())


def test_a_resolved_study_of_another_shape_is_refused_by_name() -> None:
    with pytest.raises(UserError, match=r"resolved\.json: study\n +got: nothing"):
        load_resolved({"budget": {"trials": 1}}, kinds=KINDS)


def test_the_trainable_keeps_to_what_was_written_and_complete_adds_its_defaults(tmp_path: Path) -> None:
    loaded = load_text(tmp_path, STUDY)
    assert "batch" not in loaded.resolved["trainable"]
    assert loaded.complete["trainable"]["batch"] == 32
    assert loaded.complete["trainable"]["optim"] == {"kind": "adam", "lr": 3e-4, "momentum": None}


@pytest.mark.parametrize(
    ("sets", "changes"),
    [
        ("study.name=other", False),
        ("budget.trials=64", False),
        ("cluster.concurrency=3", False),
        ("study.seed=43", True),
        ("trainable.batch=16", True),
        ("trainable.batch=32", False),  # its default, written out
        ("sampler.n_startup=6", True),
        ("scheduler.grace=6", True),
        ("space.batch={choice: [32, 16, 8]}", True),
        ("first=[{batch: 16}]", True),
    ],
)
def test_the_digest_is_of_what_may_not_change_on_resume(tmp_path: Path, sets: str, changes: bool) -> None:
    assert (load_text(tmp_path, STUDY, sets).spec.digest != load_text(tmp_path, STUDY).spec.digest) is changes


def test_a_point_switches_branches_of_the_trainable(tmp_path: Path) -> None:
    spec = load_text(tmp_path, STUDY).spec
    point = {"schedule.kind": "cosine", "schedule.cosine.t_max": 9, "peft.method": "lora", "peft.lora.r": 4}
    assert spec.trainable_at(point)["schedule"] == {"kind": "cosine", "t_max": 9}
    full = spec.spec_at(point)
    assert (full.schedule.t_max, full.peft.lora.r, full.optim.lr) == (9, 4, 3e-4)
    assert spec.spec_at({"peft.method": "ia3"}).peft.method == "ia3"


def test_a_ladder_without_max_is_as_long_as_the_longest_trial(tmp_path: Path) -> None:
    text = edited(", max: 50", "")
    assert load_text(tmp_path, text).spec.scheduler.max == 50
    assert load_text(tmp_path, text, "trainable.epochs=20").spec.scheduler.max == 20
    assert load_text(tmp_path, text, "space.epochs={int: [10, 80]}").spec.scheduler.max == 80


def test_whole_numbers_of_first_become_the_numbers_of_the_space(tmp_path: Path) -> None:
    text = edited("{float: [1e-6, 1e-3], log: true}", "{float: [0.5, 1]}").replace("first: [{optim.lr: 3e-4,", "first: [{optim.lr: 1,")
    (point,) = load_text(tmp_path, text).spec.first
    assert isinstance(point["optim.lr"], float)


def test_the_kind_table_takes_any_key_and_any_metric(tmp_path: Path) -> None:
    text = """\
study: {name: replay}
metric: {name: accuracy, mode: max}
budget: {trials: 300}
scheduler: {kind: asha, grace: 5, max: 50}
trainable: {kind: table}
space: {lr: {float: [1e-6, 1e-3], log: true}, any.thing.at.all: {choice: [a, b]}}
"""
    loaded = load_text(tmp_path, text)
    assert loaded.spec.trainable_spec is None
    assert loaded.spec.digest == load_resolved(loaded.resolved, kinds=KINDS).spec.digest


# -- clusters by name ---------------------------------------------------------------------------------------------------------


def test_the_name_of_a_cluster_stands_for_its_file_and_set_goes_on_top(tmp_path: Path) -> None:
    clusters = tmp_path / "clusters"
    clusters.mkdir()
    (clusters / "lab.yaml").write_text("address: head:6379\nworkers: 4\n")
    loaded = load_text(tmp_path, edited("cluster: local", "cluster: lab"), "cluster.workers=2", clusters=clusters)
    assert (loaded.spec.cluster.address, loaded.spec.cluster.workers) == ("head:6379", 2)
    assert loaded.origins["cluster.address"] == "configs/clusters/lab.yaml:1"
    assert loaded.origins["cluster.workers"] == "--set"
    assert load_text(tmp_path, STUDY, "cluster=lab", clusters=clusters).spec.cluster.workers == 4


# -- --set --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sets", "section", "expected"),
    [
        (("space.optim.lr={float: [0.1, 0.2]}", "first=[]"), "space.optim.lr", {"float": [0.1, 0.2]}),
        (("space.optim.lr.log=false",), "space.optim.lr", {"float": [1e-6, 1e-3]}),
        (("space.batch=null", "first=[]"), "space.batch", None),
        (("space.depth={choice: [head, all]}",), "space.depth", {"choice": ["head", "all"]}),
        (("scheduler.kind=none",), "scheduler", {"kind": "none", "finalists": None}),
        (("sampler.kind=random",), "sampler", {"kind": "random"}),
        (("first.0.batch=16",), "first", [{"optim.lr": 3e-4, "batch": 16}]),
        (("trainable.schedule.kind=constant",), "trainable.schedule", {"kind": "constant"}),
        (("trainable.peft.lora.r=4",), "trainable.peft", {"lora": {"r": 4}}),
        (("trainable.data='007'",), "trainable.data", "007"),
        (("budget.trials=8", "budget.trials=9"), "budget.trials", 9),
    ],
)
def test_set_reaches_every_part_of_a_study(tmp_path: Path, sets: tuple[str, ...], section: str, expected: object) -> None:
    resolved = load_text(tmp_path, STUDY, *sets).resolved
    head, _, rest = section.partition(".")
    found = resolved[head] if not rest else resolved[head].get(rest)
    assert found == expected
