"""Which node holds how many groups, and what a node that holds none is short of; as `plan --address` prints it."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.placement import NodeFree, auto_gpus, fits, node_of, place
from tune.core.errors import UserError
from tune.core.shape import TrialShape
from tune.load import load_study
from tune.places import cannot_grow, placed
from tune.plan import plan, plan_text

SMOKE = Path(__file__).resolve().parents[2] / "configs" / "studies" / "smoke.yaml"
FOUR_GPUS = TrialShape(4, 1, 1, memory_gb_per_worker=8)


@pytest.mark.parametrize(
    ("node", "groups", "why"),
    [
        (NodeFree("a", 16, 8), 2, ""),
        (NodeFree("b", 16, 2), 0, "GPU: a group needs 4, it has 2"),
        (NodeFree("c", 2, 8), 0, "CPU: a group needs 4, it has 2"),
        (NodeFree("e", 4, 4, memory_gb=31), 0, "GB: a group needs 32, it has 30.999"),
        (NodeFree("d", 2, 1), 0, "GPU: a group needs 4, it has 1; CPU: a group needs 4, it has 2"),
    ],
)
def test_a_node_holds_whole_groups_or_says_what_is_short(node: NodeFree, groups: int, why: str) -> None:
    [fit] = fits([node], FOUR_GPUS)
    assert (fit.groups, fit.why) == (groups, why)


def test_a_node_whose_sums_would_do_says_that_its_pieces_do_not() -> None:
    [fit] = fits([NodeFree("a", 3, 0)], TrialShape(2, 1.5))
    assert fit.groups == 1
    [fit] = fits([NodeFree("a", 8, 3)], TrialShape(4, 1, 0.75))
    assert fit.groups == 0 and fit.why == "its pieces: 3 of 4 workers of 1 CPU and 0.75 GPU fit"


@pytest.mark.parametrize("fewest", [None, 2])
def test_where_no_node_holds_a_whole_group_each_says_what_part_of_one_it_holds(fewest: int | None) -> None:
    shape = TrialShape(4, 1, min_workers=fewest)
    found = fits([NodeFree("a", 2), NodeFree("b", 1), NodeFree("c", 0.5), NodeFree("d", 1)], shape)
    assert [fit.groups for fit in found] == [0, 0, 0, 0]
    assert found[0].why == "a group of 4 workers reaches over several nodes: 2 of them fit here"
    assert found[2].why == "CPU: a group needs 4, it has 0.5"
    too_few = fits([NodeFree("a", 1), NodeFree("b", 0.5)], shape)
    assert [fit.why for fit in too_few] == ["CPU: a group needs 4, it has 1", "CPU: a group needs 4, it has 0.5"]


@pytest.mark.parametrize(
    ("cpus", "whys"),
    [
        ((2, 1), ["a group of 2 workers, fewer than 4, fits here", "CPU: a group needs 4, it has 1"]),
        ((1, 1), ["a group of 2 workers reaches over several nodes: 1 of them fit here"] * 2),
    ],
)
def test_of_an_elastic_group_it_is_the_size_that_will_begin_that_is_told(cpus: tuple[int, int], whys: list[str]) -> None:
    shape, nodes = TrialShape(4, 1, min_workers=2), [NodeFree("a", cpus[0]), NodeFree("b", cpus[1])]
    assert [fit.why for fit in fits(nodes, shape)] == whys
    placed = place(nodes, shape, None)
    assert placed.spans == ("reaches" in whys[0]) and sum(placed.per_node.values()) == 2


SPOT, SAFE, BARE = NodeFree("a", 4, 4, labels={"market": "spot"}), NodeFree("b", 4, labels={"market": "on-demand"}), NodeFree("c", 4)


@pytest.mark.parametrize(
    ("value", "holds", "said"),
    [
        (
            "spot",
            [2, 0, 0],
            ["", "a group needs market=spot, it has market=on-demand", "a group needs market=spot, it has no label market"],
        ),
        ("!spot", [0, 2, 2], ["a group needs market=!spot, it has market=spot", "", ""]),
    ],
)
def test_workers_go_to_nodes_of_their_labels_alone(value: str, holds: list[int], said: list[str]) -> None:
    shape, nodes = TrialShape(2, 1, labels=(("market", value),)), [SPOT, SAFE, BARE]
    assert [(fit.groups, fit.why) for fit in fits(nodes, shape)] == list(zip(holds, said, strict=True))
    found = place(nodes, shape, None)
    assert set(found.per_node) == {node.name for node, n in zip(nodes, holds, strict=True) if n} and f"on market={value}" in found.why


def test_labels_that_no_node_has_are_refused_with_those_that_they_have() -> None:
    with pytest.raises(UserError) as refused:
        place([SPOT, SAFE, BARE], TrialShape(1, 1, labels=(("market", "reserved"),)), None)
    assert "market=reserved; the cluster has market=on-demand; market=spot; no label market" in str(refused.value)
    with pytest.raises(UserError, match="the nodes with market=spot have 4: 4 short"):
        place([SPOT, SAFE, BARE], TrialShape(1, 8, labels=(("market", "spot"),)), None)


def test_a_gpu_for_each_worker_is_taken_where_the_nodes_of_its_labels_have_some() -> None:
    assert [auto_gpus([SPOT, SAFE], None, labels) for labels in ((), (("market", "spot"),), (("market", "!spot"),))] == [1, 1, 0]


@pytest.mark.parametrize(
    ("labels", "ok"), [("{market: spot, ray.io/node-group: gpu-4}", True), ("{market: 'in(a,b)'}", False), ("{'a b': c}", False)]
)
def test_labels_of_a_study_are_names_and_plain_values(tmp_path: Path, labels: str, ok: bool) -> None:
    study = f"{SMOKE.read_text()}\ncluster: {{labels: {labels}}}\n"
    assert "\ncluster:" not in SMOKE.read_text()
    (tmp_path / "study.yaml").write_text(study)
    if ok:
        shape = load_study(tmp_path / "study.yaml").spec.cluster.shape(0)
        assert shape.labels == (("market", "spot"), ("ray.io/node-group", "gpu-4"))
    else:
        with pytest.raises(UserError, match=r"cluster\.labels"):
            load_study(tmp_path / "study.yaml")


def test_the_sort_of_gpu_and_the_memory_are_read_from_what_ray_counts() -> None:
    marked = {"CPU": 8, "GPU": 4, "memory": 64e9, "accelerator_type:A100-80G": 1.0, "accelerator_type:A100": 1.0, "node:10.0.0.1": 1.0}
    assert node_of("a", marked) == NodeFree("a", 8, 4, ("A100", "A100-80G"), memory_gb=64)
    assert node_of("b", {"CPU": 8}, {"market": "spot"}) == NodeFree("b", 8, labels={"market": "spot"})


def test_plan_names_every_node_with_its_gpus_and_the_one_that_holds_no_group() -> None:
    nodes = [NodeFree("a", 16, 8, ("A100",), 16, 4), NodeFree("b", 16, 2, ("T4",)), NodeFree("c", 8)]
    loaded = load_study(SMOKE, ("cluster.workers=4", "cluster.gpus_per_worker=1"))
    planned = plan(loaded, nodes)
    assert [(node["name"], node["groups"]) for node in planned["nodes"]] == [("a", 2), ("b", 0), ("c", 0)]
    text = plan_text(planned)
    assert "16 CPU, 8 GPU (A100), idle now 16 CPU, 4 GPU: 2 groups" in text
    assert "16 CPU, 2 GPU (T4): 0 groups (GPU: a group needs 4, it has 2)" in text
    assert "8 CPU: 0 groups (GPU: a group needs 4, it has 0)" in text


def test_plan_says_which_nodes_have_another_sort_of_gpu() -> None:
    nodes = [NodeFree("a", 16, 8, ("A100",)), NodeFree("b", 16, 2, ("T4",)), NodeFree("c", 8)]
    planned = plan(load_study(SMOKE, ("cluster.accelerator=T4",)), nodes)
    text = plan_text(planned)
    assert planned["concurrency"]["slots"] == 2
    assert "2 at a time: 16 CPU and 2 T4 GPU on 1 node hold 2 groups of 1 worker x 1 CPU, 1 T4 GPU" in text
    assert "8 GPU (A100): 0 groups (a group needs T4, it has A100)" in text
    assert "8 CPU: 0 groups (a group needs T4, it has no GPU of a named sort)" in text


def test_plan_counts_the_memory_of_nodes_where_it_is_known() -> None:
    loaded = load_study(SMOKE, ("cluster.memory_gb_per_worker=6",))
    planned = plan(loaded, [NodeFree("a", 16, memory_gb=25), NodeFree("b", 16, memory_gb=5)])
    text = plan_text(planned)
    assert "4 at a time: 32 CPU on 2 nodes with 30.0 GB hold 4 groups of 1 worker x 1 CPU, 6 GB" in text
    assert "16 CPU, 5.0 GB: 0 groups (GB: a group needs 6, it has 4.999)" in text
    assert "2 at a time: 2 CPU on 1 node (memory of 1 not known, not counted) hold 2 groups" in plan_text(plan(loaded, [NodeFree("a", 2)]))


def test_plan_says_how_many_groups_fit_now_and_how_many_are_asked_for_from_the_autoscaler() -> None:
    loaded = load_study(SMOKE, ("cluster.autoscale={max_trials: 16}", "cluster.workers=2"))
    planned = plan(loaded, [NodeFree("a", 5)])
    assert planned["concurrency"]["slots"] == 2 and planned["concurrency"]["max_trials"] == 16
    said = "; as trials wait, up to 14 more are asked for from the autoscaler, each 2 workers x 1 CPU on one node"
    assert "2 at a time: 5 CPU on 1 node hold 2 groups of 2 workers x 1 CPU" + said in plan_text(planned)
    few = plan(load_study(SMOKE, ("cluster.autoscale={max_trials: 2}",)), [NodeFree("a", 5)])
    assert "2 at a time: 5 CPU on 1 node hold 5 groups of 1 worker x 1 CPU; 2 asked for" in plan_text(few)


def test_a_study_that_asks_for_nodes_is_refused_where_none_can_come() -> None:
    loaded = load_study(SMOKE, ("cluster.autoscale={max_trials: 16}",))
    here = "got: max_trials 16 on a Ray of this machine alone, to which no node can come"
    assert here in plan_text(plan(loaded, [NodeFree("a", 5)], known=cannot_grow(loaded.spec)))
    with pytest.raises(UserError, match="on a Ray of this machine alone"), placed(loaded.spec, None, foreground=False):
        pass
    with pytest.raises(UserError, match="in the foreground, where one trial runs at a time"), placed(loaded.spec, None, foreground=True):
        pass
