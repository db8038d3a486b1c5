"""A resume waits for the nodes that the study had; a new study is refused at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.placement import NodeFree
from tests.search.fake_groups import FakeRoom
from tune.core.errors import UserError
from tune.core.shape import TrialShape
from tune.core.study import StudySpec
from tune.load import load_study
from tune.places import room_for

STUDY = """
study: {name: wide}
metric: {name: val/score, mode: max}
budget: {trials: 2}
cluster: {workers: 2}
trainable: {kind: curve, epochs: 2}
space: {lr: {float: [1e-3, 1e-1], log: true}}
"""


SMALL = NodeFree("b", 1)


class Cluster:
    """The second node is there from the look of this number on; a look costs a second, a pause what it says."""

    def __init__(self, second_at: int, second: NodeFree = SMALL):
        self.second_at, self.second, self.looks, self.now_s = second_at, second, 0, 0.0

    def look(self) -> list[NodeFree]:
        self.looks += 1
        self.now_s += 1.0
        return [NodeFree("a", 1), self.second] if self.looks >= self.second_at else [NodeFree("a", 1)]

    def clock(self) -> float:
        return self.now_s

    def pause(self, seconds: float) -> None:
        self.now_s += seconds


@pytest.fixture
def spec(tmp_path: Path) -> StudySpec:
    path = tmp_path / "study.yaml"
    path.write_text(STUDY)
    return load_study(path).spec


def test_a_resume_goes_on_when_the_node_is_back_and_says_once_what_it_waits_for(spec: StudySpec, capfd: pytest.CaptureFixture[str]) -> None:
    cluster = Cluster(second_at=4)
    shape, found, most = room_for(spec, cluster.look, 600.0, None, cluster.clock, cluster.pause)
    assert (shape.workers, found.groups, found.spans, most, cluster.looks) == (2, 1, True, 1, 4)
    said = capfd.readouterr().err
    assert said == "waiting up to 10 minutes for nodes: a trial needs 2 CPU (2 workers x 1 CPU), the cluster has 1: 1 short\n"


def test_a_study_that_had_gpus_does_not_go_on_without_them_because_their_node_is_away(spec: StudySpec) -> None:
    cluster = Cluster(second_at=3, second=NodeFree("b", 8, 2))
    shape, found, _ = room_for(spec, cluster.look, 600.0, 1, cluster.clock, cluster.pause)
    assert (shape.gpus_per_worker, dict(found.per_node), cluster.looks) == (1, {"b": 2}, 3)


def test_a_resume_is_refused_when_the_node_stays_away(spec: StudySpec) -> None:
    cluster = Cluster(second_at=1000)
    with pytest.raises(UserError, match="1 short"):
        room_for(spec, cluster.look, 60.0, None, cluster.clock, cluster.pause)
    assert 60 <= cluster.now_s < 70


def test_a_study_that_asks_for_nodes_asks_once_for_room_for_a_trial_and_withdraws_it_when_there_is_some(spec: StudySpec) -> None:
    cluster, asked = Cluster(second_at=3), list[FakeRoom]()

    def ask(shape: TrialShape) -> FakeRoom:
        asked.append(FakeRoom())
        assert shape.workers == 2
        return asked[-1]

    _, found, _ = room_for(spec, cluster.look, 600.0, None, cluster.clock, cluster.pause, ask)  # type: ignore[arg-type]
    assert found.groups == 1 and [room.withdrawn for room in asked] == [True]
    with pytest.raises(UserError, match="1 short"):
        room_for(spec, Cluster(second_at=1000).look, 0.0, ask=ask)  # type: ignore[arg-type]
    assert len(asked) == 1, "it is refused at once"


def test_a_new_study_is_refused_at_once(spec: StudySpec) -> None:
    cluster = Cluster(second_at=2)
    with pytest.raises(UserError, match="1 short"):
        room_for(spec, cluster.look, 0.0, None, cluster.clock, cluster.pause)
    assert cluster.looks == 1
