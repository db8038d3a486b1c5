"""Concurrency is computed from cluster and trial shape; what can never fit is refused with the gap."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.placement import NodeFree, place
from tune.core.errors import UserError
from tune.core.shape import TrialShape


def test_groups_fill_each_node_and_stay_on_it():
    found = place([NodeFree("a", 8), NodeFree("b", 5)], TrialShape(2, 2), None)
    assert (found.groups, found.slots, found.spans) == (3, 3, False)
    assert found.per_node == {"a": 4, "b": 2}


def test_gpus_bound_the_groups_when_they_are_scarcer_than_cpus():
    assert place([NodeFree("a", 64, 4)], TrialShape(1, 2, 1), None).groups == 4


def test_a_share_of_a_gpu_is_never_cut_from_two_devices():
    assert place([NodeFree("a", 64, 2)], TrialShape(1, 1, 0.6), None).groups == 2
    assert place([NodeFree("a", 64, 2)], TrialShape(1, 1, 0.5), None).groups == 4


def test_a_group_spans_nodes_only_when_no_node_holds_one():
    found = place([NodeFree("a", 4, 4), NodeFree("b", 4, 4)], TrialShape(8, 1, 1), None)
    assert (found.groups, found.spans, found.per_node) == (1, True, {"a": 4, "b": 4})
    assert "over several nodes because none holds one whole" in found.why
    assert not place([NodeFree("a", 4), NodeFree("b", 9)], TrialShape(8, 1), None).spans


def test_want_lowers_the_number_of_groups_and_never_raises_it():
    nodes = [NodeFree("a", 8)]
    assert place(nodes, TrialShape(1, 2), 3).groups == 3
    too_many = place(nodes, TrialShape(1, 2), 9)
    assert too_many.groups == 4
    assert "9 asked for is more than fits" in too_many.why


def test_the_reason_names_what_the_cluster_holds():
    assert place([NodeFree("a", 2)], TrialShape(1, 1), None).why == "2 CPU on 1 node hold 2 groups of 1 worker x 1 CPU"


MIXED = [NodeFree("a", 16, 4, ("A100", "A100-80G")), NodeFree("b", 16, 8, ("H100",)), NodeFree("c", 64)]


def test_a_sort_of_gpu_is_served_by_its_nodes_alone():
    found = place(MIXED, TrialShape(2, 1, 1, "H100"), None)
    assert (found.groups, found.per_node) == (4, {"b": 8})
    assert found.why == "16 CPU and 8 H100 GPU on 1 node hold 4 groups of 2 workers x 1 CPU, 1 H100 GPU"


def test_memory_bounds_the_groups_when_it_is_scarcest_and_a_byte_of_tunes_own_is_kept():
    assert place([NodeFree("a", 64, memory_gb=9)], TrialShape(2, 1, memory_gb_per_worker=2), None).groups == 2
    assert place([NodeFree("a", 64, memory_gb=8)], TrialShape(2, 1, memory_gb_per_worker=2), None).groups == 1
    assert place([NodeFree("a", 64)], TrialShape(2, 1, memory_gb_per_worker=2), None).groups == 32


def test_a_node_may_be_marked_with_a_finer_sort():
    assert place(MIXED, TrialShape(1, 1, 1, "A100-80G"), None).per_node == {"a": 4}
    assert place(MIXED, TrialShape(1, 1, 1), None).groups == 12


def refusal(nodes: list[NodeFree], shape: TrialShape, want: int | None = None) -> str:
    with pytest.raises(UserError) as caught:
        place(nodes, shape, want)
    return str(caught.value)


def test_too_few_gpus_are_refused_with_the_gap():
    text = refusal([NodeFree("a", 16, 2)], TrialShape(4, 1, 1))
    assert text.startswith("cluster.gpus_per_worker\n")
    assert "a trial needs 4 GPU (4 workers x 1 CPU, 1 GPU), the cluster has 2: 2 short" in text
    assert "fix: lower cluster.workers or cluster.gpus_per_worker, or add 2 GPU" in text


def test_too_few_cpus_and_gpus_are_refused_together():
    text = refusal([NodeFree("a", 2, 0)], TrialShape(2, 2, 1))
    assert "cluster.cpus_per_worker" in text
    assert "cluster.gpus_per_worker" in text


def test_workers_larger_than_any_node_are_refused_although_the_sums_would_do():
    text = refusal([NodeFree("a", 4), NodeFree("b", 4)], TrialShape(1, 6))
    assert text.startswith("cluster.workers\n")
    assert "a: 4 CPU 0 GPU, b: 4 CPU 0 GPU): 1 short" in text


def test_a_sort_of_gpu_that_no_node_has_is_refused_with_those_that_there_are():
    text = refusal(MIXED, TrialShape(1, 1, 1, "H200"))
    assert text.startswith("cluster.accelerator\n")
    assert "got: H200 (did you mean 'H100'?); the cluster has A100 on 1 node, A100-80G on 1 node, H100 on 1 node" in text
    assert "use one that it has, leave it out to take any, or add nodes with H200" in text
    assert "the cluster has no GPU of a named sort" in refusal([NodeFree("a", 64, 8)], TrialShape(1, 1, 1, "H200"))


def test_too_few_of_a_sort_are_refused_although_others_would_do():
    assert "a trial needs 6 GPU (6 workers x 1 CPU, 1 A100 GPU), the nodes with A100 have 4" in refusal(MIXED, TrialShape(6, 1, 1, "A100"))


def test_too_little_memory_is_refused_with_the_gap():
    text = refusal([NodeFree("a", 64, memory_gb=5), NodeFree("b", 64, memory_gb=5)], TrialShape(2, 1, memory_gb_per_worker=16))
    assert text.startswith("cluster.memory_gb_per_worker\n")
    assert "a trial needs 32 GB (2 workers x 1 CPU, 16 GB), the cluster has 9.998: 22.002 short" in text


def test_an_empty_cluster_is_refused():
    assert "the cluster has 0: 1 short" in refusal([], TrialShape(1, 1))


@pytest.mark.parametrize(
    ("shape", "want", "where"),
    [
        (TrialShape(0, 1), None, "cluster.workers"),
        (TrialShape(1, 0), None, "cluster.cpus_per_worker"),
        (TrialShape(1, 1, 1.5), None, "cluster.gpus_per_worker"),
        (TrialShape(1, 1, memory_gb_per_worker=0), None, "cluster.memory_gb_per_worker"),
        (TrialShape(1, 1), 0, "cluster.concurrency"),
    ],
)
def test_a_shape_that_means_nothing_is_refused(shape: TrialShape, want: int | None, where: str):
    assert refusal([NodeFree("a", 8, 8)], shape, want).startswith(where)


@given(
    cpus=st.lists(st.integers(0, 32), min_size=1, max_size=5),
    gpus=st.lists(st.integers(0, 8), min_size=5, max_size=5),
    workers=st.integers(1, 6),
    cpus_per_worker=st.sampled_from([0.1, 0.5, 1, 3]),
    gpus_per_worker=st.sampled_from([0, 0.25, 0.3, 1, 2]),
)
def test_no_node_is_ever_given_more_than_it_has(cpus, gpus, workers, cpus_per_worker, gpus_per_worker):
    nodes = [NodeFree(f"n{i}", cpu, gpu) for i, (cpu, gpu) in enumerate(zip(cpus, gpus, strict=False))]
    shape = TrialShape(workers, cpus_per_worker, gpus_per_worker)
    try:
        found = place(nodes, shape, None)
    except UserError:
        return
    assert sum(found.per_node.values()) == found.groups * workers
    for node in nodes:
        assert found.per_node.get(node.name, 0) * cpus_per_worker <= node.cpus + 1e-3
        assert found.per_node.get(node.name, 0) * gpus_per_worker <= node.gpus + 1e-3
