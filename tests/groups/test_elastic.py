"""How many workers an elastic group begins with, what is asked for beside it, and that its trial's batches stay what they were."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.elastic import GroupRoom, Turn
from cluster.placement import NodeFree, place
from trainables.catalog import Entry, estimated
from trainables.engine_spec import micro_batch_of
from trainables.pieces import epoch_pieces
from trainables.shared_out import shared_out
from trainables.timm_cnn.spec import TimmCnnSpec
from tune.core.errors import UserError
from tune.core.shape import TrialShape
from tune.load import load_study

FOUR = TrialShape(4, 1, min_workers=1)


@dataclass
class Cluster:
    """Room for `free` workers at a time; a look costs nothing, a pause what it says."""

    free: int
    now_s: float = 0.0
    asked: list[int] = field(default_factory=list)
    held: int = 0
    open: int = 0  # rooms that are asked for or held

    def ask(self, shape: TrialShape) -> Any:
        assert shape.min_workers is None, "room is asked for just so many"
        self.asked.append(shape.workers)
        self.open += 1
        return Room(self, shape.workers)

    def pause(self, seconds: float) -> None:
        self.now_s += seconds


@dataclass
class Room:
    cluster: Cluster
    workers: int
    has: bool = False

    @property
    def placement_group(self) -> int:
        return self.workers

    def there(self) -> bool:
        if not self.has and self.workers <= self.cluster.free - self.cluster.held:
            self.has, self.cluster.held = True, self.cluster.held + self.workers
        return self.has

    def withdraw(self) -> None:
        self.cluster.held -= self.workers * self.has
        self.cluster.open -= 1


def elastic_in(cluster: Cluster, turn: Turn | None = None, at_once: bool = False) -> GroupRoom:
    return GroupRoom(FOUR, 10.0, cluster.ask, turn or Turn(), at_once, lambda: cluster.now_s, cluster.pause)


def settle(cluster: Cluster, is_over: Any = lambda: False) -> Any:
    return elastic_in(cluster).settle(is_over)


@pytest.mark.parametrize(("free", "workers"), [(9, 4), (4, 4), (3, 2), (2, 2), (1, 1)])
def test_it_begins_with_as_many_workers_as_have_room_and_holds_no_other_room(free: int, workers: int) -> None:
    cluster = Cluster(free)
    assert settle(cluster) == (workers, workers)
    assert cluster.held == workers
    assert (cluster.now_s >= 10.0) == (workers < 4), "room for all is waited for, and room that is there is not"


@pytest.mark.parametrize("comes", [1, 2, 3, 4])
def test_without_room_for_the_fewest_it_waits_for_those_and_takes_all_that_is_there_then(comes: int) -> None:
    for at_s in (100.0, 100.3, 100.6, 101.1):
        cluster = Cluster(0)

        def over(cluster: Cluster = cluster, at_s: float = at_s) -> bool:
            cluster.free = comes if cluster.now_s > at_s else 0
            return False

        workers = {1: 1, 2: 2, 3: 2, 4: 4}[comes]
        assert settle(cluster, over) == (workers, workers) and cluster.held == workers
        assert cluster.asked[3] == 1 and len(cluster.asked) <= 7, "one wish that stays, which an autoscaler can follow"


def test_a_group_that_is_closed_while_it_waits_holds_nothing() -> None:
    cluster = Cluster(0)
    assert settle(cluster, lambda: True) is None and cluster.asked == []
    assert settle(cluster, lambda: cluster.now_s > 50.0) is None and cluster.asked and cluster.open == 0


def test_where_somebody_has_waited_for_all_in_vain_the_first_workers_begin_at_once() -> None:
    cluster = Cluster(2)
    elastic = elastic_in(cluster, at_once=True)
    assert elastic.settle(lambda: False) == (2, 2) and cluster.now_s < 2.0
    cluster.held = 0
    assert elastic.settle(lambda: False) == (2, 2) and cluster.now_s > 10.0


def test_a_group_of_fixed_size_waits_for_all_its_workers_and_asks_anew_every_minute() -> None:
    """What a node can hold may have changed since: the only node with room for a whole group may be gone."""
    cluster = Cluster(3)
    rooms = GroupRoom(TrialShape(4, 1), 0.0, cluster.ask, Turn(), False, lambda: cluster.now_s, cluster.pause)

    def over() -> bool:
        cluster.free = 4 if cluster.now_s > 1000.0 else 3
        return False

    assert rooms.settle(over) == (4, 4) and set(cluster.asked) == {4} and 15 <= len(cluster.asked) <= 18
    assert (cluster.held, cluster.open) == (4, 1) and cluster.now_s < 1001.0
    cluster.held = 0
    assert rooms.settle(lambda: cluster.now_s > 2000.0) is not None
    assert rooms.settle(lambda: cluster.now_s > 2000.0) is None and cluster.open == 2, "closed while it waits"


def test_room_that_was_asked_for_is_given_back_when_ray_does_not_answer() -> None:
    class Dumb(Room):
        def there(self) -> bool:
            super().there()
            raise OSError("no answer")

    cluster = Cluster(4)
    cluster.ask = lambda shape: Dumb(cluster, shape.workers)  # type: ignore[method-assign]
    turn = Turn()
    with pytest.raises(OSError, match="no answer"):
        elastic_in(cluster, turn).settle(lambda: False)
    assert cluster.held == 0
    assert not turn.is_anothers(object())


class Watched:
    """A group of `workers` whose watch is run until the group is over, which it is `over_s` after it was told to leave, or at `end_s`."""

    def __init__(self, cluster: Cluster, workers: int, elastic: GroupRoom, end_s: float = 60.0, up_at_s: float = 0.0):
        self.cluster, self.workers, self.elastic, self.end_s, self.up_at_s = cluster, workers, elastic, end_s, up_at_s
        self.left_at_s: float | None = None
        cluster.held += workers

    def pause(self, seconds: float | None) -> bool:
        self.cluster.now_s += self.end_s if seconds is None else seconds
        return self.cluster.now_s >= self.end_s

    def leave(self) -> bool:
        if self.cluster.now_s >= self.up_at_s:
            self.left_at_s = self.cluster.now_s
        return self.left_at_s is not None

    def watch(self) -> Watched:
        self.elastic.watch(self.workers, self.pause, self.leave)
        return self

    def again(self, noticed_after_s: float = 0.0) -> Any:
        """Its workers have left, which the cluster notices so much later; the next set."""
        gone_s = self.cluster.now_s + noticed_after_s
        here = self.workers

        def look() -> bool:
            nonlocal here
            if here and self.cluster.now_s >= gone_s:
                self.cluster.held, here = self.cluster.held - here, 0
            return False

        return self.elastic.settle(look)


def test_a_smaller_group_leaves_for_the_next_size_when_there_is_room_and_its_workers_are_up_and_is_not_kept_waiting_then() -> None:
    cluster = Cluster(3)
    group = Watched(cluster, 1, elastic_in(cluster), up_at_s=20.0).watch()
    assert set(cluster.asked) == {1}, "one more makes two, the next size of four"
    assert group.left_at_s is not None and 20.0 <= group.left_at_s < 25.0
    assert cluster.held == 1, "what was reserved is given back when the workers have left"
    began_s = cluster.now_s
    assert group.again() == (2, 2)
    assert cluster.now_s - began_s < 3.0, "the patience of a start is not due"


@pytest.mark.parametrize("noticed_after_s", [0.5, 5.0, 15.0])
def test_what_it_left_for_is_waited_for_where_a_busy_cluster_is_slow_to_notice_that_its_workers_are_gone(noticed_after_s: float) -> None:
    cluster = Cluster(2)
    group = Watched(cluster, 1, elastic_in(cluster)).watch()
    began_s = cluster.now_s
    assert group.again(noticed_after_s) == (2, 2)
    assert cluster.now_s - began_s < noticed_after_s + 3.0


def test_without_room_it_stays_and_at_the_end_nothing_is_asked_for_any_more() -> None:
    cluster = Cluster(1)
    group = Watched(cluster, 1, elastic_in(cluster)).watch()
    assert group.left_at_s is None and cluster.held == 1 and cluster.open == 0


def test_one_that_gained_nothing_by_leaving_asks_again_after_a_rest_that_doubles() -> None:
    cluster, rests = Cluster(2), []
    elastic = elastic_in(cluster)
    for _ in range(3):
        began_s = cluster.now_s
        group = Watched(cluster, 1, elastic, end_s=began_s + 200.0).watch()
        assert group.left_at_s is not None
        rests.append(group.left_at_s - began_s)
        cluster.free = 1  # somebody else was quicker
        assert group.again() == (1, 1)
        cluster.held, cluster.free = 0, 2
    assert rests[0] < 6.0 and rests[1] >= 20.0 and rests[2] >= 40.0


def test_while_one_group_leaves_for_more_another_asks_for_nothing() -> None:
    cluster, turn, other = Cluster(4), Turn(), object()
    assert turn.take(other)
    group = Watched(cluster, 2, elastic_in(cluster, turn)).watch()
    assert (cluster.asked, group.left_at_s) == ([], None)
    turn.give_back(other)
    assert Watched(cluster, 0, group.elastic, end_s=cluster.now_s + 60.0).watch().left_at_s is not None


def test_a_cluster_too_small_for_all_workers_holds_one_group_of_fewer() -> None:
    found = place([NodeFree("a", 1), NodeFree("b", 2)], FOUR, None)
    assert (found.groups, found.slots, found.spans, found.per_node) == (1, 1, False, {"b": 2})
    assert found.why == "3 CPU on 2 nodes hold 1 group of 2 workers x 1 CPU; 4 workers when there is room for them"
    assert place([NodeFree("a", 9)], FOUR, None).groups == 2, "whole ones where they fit"


def test_a_cluster_too_small_for_the_fewest_is_refused_by_those() -> None:
    with pytest.raises(
        UserError, match=r"a trial needs 2 CPU \(2 workers x 1 CPU\), the cluster has 1: 1 short\n.*cluster.elastic.min_workers"
    ):
        place([NodeFree("a", 1)], TrialShape(4, 1, min_workers=2), None)


@given(st.integers(1, 64), st.integers(1, 64))
def test_sizes_divide_all_workers_and_are_no_fewer_than_the_least(workers: int, least: int) -> None:
    sizes = TrialShape(workers, 1, min_workers=min(workers, least)).sizes
    assert sizes[0] == workers and list(sizes) == sorted(set(sizes), reverse=True)
    assert all(workers % size == 0 and size >= min(workers, least) for size in sizes)


STUDY = """
study: {name: elastic}
metric: {name: val/loss, mode: min}
budget: {trials: 1}
cluster: {workers: 6}
trainable: {kind: timm_cnn, batch: 36}
space: {optim.lr: {float: [1e-3, 1e-1], log: true}}
"""


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        (("cluster.elastic.min_workers=6",), "6 of 6 workers, where fewer can be 3, 2, 1, which divide 6"),
        (("cluster.elastic.min_workers=4",), "use at most 3, or remove cluster.elastic"),
        (("cluster.elastic.min_workers=1", "cluster.workers=1"), "min_workers 1, and a trial has 1 worker"),
    ],
)
def test_a_least_number_of_workers_that_can_make_no_difference_is_refused(tmp_path: Path, sets: tuple[str, ...], said: str) -> None:
    (tmp_path / "study.yaml").write_text(STUDY)
    with pytest.raises(UserError) as refused:
        load_study(tmp_path / "study.yaml", sets)
    assert said in str(refused.value)
    assert load_study(tmp_path / "study.yaml", ("cluster.elastic.min_workers=2",)).spec.cluster.least_workers == 2


@dataclass
class Place:
    rank: int
    world_size: int


@given(st.sampled_from([4, 2, 1]), st.sampled_from([1, 2, 3]), st.integers(24, 100))
def test_fewer_workers_compute_the_same_pieces_of_the_same_batches(at_work: int, accumulation: int, n_rows: int) -> None:
    spec = TimmCnnSpec.model_validate({"batch": 24, "engine": {"accumulation": accumulation}})

    def pieces(world_size: int) -> list[list[list[int]]]:
        """The pieces of each batch, in the order of the rows."""
        engine = shared_out(spec, 4, world_size).engine
        places: list[Any] = [Place(rank, world_size) for rank in range(world_size)]
        by_rank = [list(epoch_pieces(np.arange(n_rows), 24, engine.accumulation, place, 7)) for place in places]
        n = engine.accumulation
        batches = zip(*([one[i : i + n] for i in range(0, len(one), n)] for one in by_rank), strict=True)
        return [sorted(sorted(piece.rows.tolist()) for share in batch for piece in share) for batch in batches]

    assert pieces(at_work) == pieces(4)


def test_memory_is_estimated_for_the_fewest_workers_with_the_pieces_that_they_then_do() -> None:
    entry = Entry("", "", "", "", estimate="tests.groups.test_elastic:pieces_of", estimate_by_workers=True)
    for engine in ({}, {"micro_batch": 4}, {"micro_batch": 2, "accumulation": 2}, {"accumulation": 2}):
        spec = TimmCnnSpec.model_validate({"batch": 32, "engine": engine})
        rows, at_work = (estimated(entry, spec, 8, least).message for least in (8, 2)), (8, 2)
        assert list(rows) == [f"{micro_batch_of(32, 8, spec.engine)} rows at once on {n}" for n in at_work]


def pieces_of(spec: TimmCnnSpec, workers: int) -> Any:
    """An estimate that tells what it was asked."""
    return SimpleNamespace(message=f"{micro_batch_of(spec.batch, workers, spec.engine)} rows at once on {workers}")


def test_what_has_no_engine_is_left_as_it_is() -> None:
    spec = object()
    assert shared_out(spec, 4, 2) is spec
