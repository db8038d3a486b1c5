"""Room that is asked of a real Ray, and groups that start in it: what they hold, and that nothing is left when they go."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.groups.recipes import order_of
from tests.groups.test_leased_groups import Lessee, all_cpus_come_free
from tune.core.shape import TrialShape

pytestmark = [pytest.mark.ray, pytest.mark.slow]
WITHIN_S = 60.0


def ask(shape: TrialShape) -> Any:
    from cluster.room import Room
    from trainables.adapters.worker_group import resources_of_worker

    return Room(shape, False, resources_of_worker(shape))


def comes(room: Any) -> bool:
    deadline = time.monotonic() + WITHIN_S
    while not room.there() and time.monotonic() < deadline:
        time.sleep(0.05)
    return bool(room.there())


def held() -> dict[str, str]:
    """Placement groups that are pending or have their place, with their states."""
    from ray.util import placement_group_table

    return {key: facts["state"] for key, facts in placement_group_table().items() if facts["state"] != "REMOVED"}


def test_room_that_no_node_has_is_pending_and_gone_when_it_is_withdrawn(ray_session: str) -> None:
    before = held()
    room = ask(TrialShape(1, 64))
    time.sleep(0.5)
    assert not room.there() and list(held().values()).count("PENDING") == list(before.values()).count("PENDING") + 1
    room.withdraw()
    assert held() == before


@pytest.mark.parametrize("workers", [1, 2])
def test_room_is_on_nodes_of_its_labels_alone(ray_session: str, workers: int) -> None:
    import ray

    here, before = ray.get_runtime_context().get_node_id(), held()
    rooms = [ask(TrialShape(workers, 1, labels=(("ray.io/node-id", value),))) for value in (here, f"!{here}")]
    assert comes(rooms[0]) and not rooms[1].there()
    for room in rooms:
        room.withdraw()
    assert held() == before


def test_a_group_moves_into_its_room_and_its_next_workers_into_room_of_their_own(ray_session: str, tmp_path: Path) -> None:
    from trainables.adapters.worker_group import WorkerGroup

    before, shape = set(held()), TrialShape(2, 1, accelerator="H100", memory_gb_per_worker=0.1)
    room = ask(shape)
    assert comes(room)
    mine = set(held()) - before
    group = WorkerGroup(shape, tmp_path / "groups", room=room.placement_group)
    pids = group.ready(120)["pids"]
    assert set(held()) - before == mine == {room.placement_group.id.hex()}, "it makes none beside the one that it was given"
    lessee = Lessee(group, tmp_path)
    assert lessee.run("t0000", "all_reduce")[-1][:2] == ("done", {"val/score": 3.0})
    os.kill(pids[0], signal.SIGKILL)
    if lessee.run("t0001", "all_reduce")[-1][0] == "retry":  # it was given out before the loss was noticed
        assert lessee.run("t0001", "all_reduce", attempt=1)[-1][:2] == ("done", {"val/score": 3.0})
    theirs = set(held()) - before
    assert theirs.isdisjoint(mine) and len(theirs) == 1
    group.close()
    assert not group.alive and set(held()) - before == set()
    assert all_cpus_come_free(group)


def test_a_group_that_is_closed_before_it_moves_in_leaves_no_room_behind(ray_session: str, tmp_path: Path) -> None:
    from trainables.adapters.worker_group import WorkerGroup

    before, shape = set(held()), TrialShape(1, 1)
    room = ask(shape)
    assert comes(room)
    group = WorkerGroup(shape, tmp_path / "groups", room=room.placement_group)
    group.close(grace_s=45)
    assert set(held()) - before == set()
    assert all_cpus_come_free(group)


def test_a_group_waits_for_its_room_longer_than_ray_train_would_and_hands_back_its_trial(
    ray_session: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    from cluster.elastic import GroupRoom, Turn
    from trainables.adapters.order import GroupLimits
    from trainables.adapters.worker_group import WorkerGroup

    monkeypatch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "0.5")
    before, every_cpu = set(held()), TrialShape(1, int(ray.cluster_resources()["CPU"]))
    other = ask(every_cpu)
    assert comes(other)
    rooms = GroupRoom(every_cpu, 0.0, ask, Turn())
    group = WorkerGroup(every_cpu, tmp_path / "groups", GroupLimits(empty_s=4.0), rooms=rooms)
    ray.get(group.host.run.remote(order_of(tmp_path, "t0000", "steps")))
    said = [ray.get(group.host.next.remote("t0000", 30)) for _ in range(2)]
    assert [message[:2] for message in said] == [("note", "waits"), ("retry", "no_workers")]
    assert group.alive and "error" in ray.get(group.host.ready.remote(0)), "it waits on"
    other.withdraw()
    assert len(group.ready(120)["pids"]) == 1
    group.close()
    assert not group.alive and set(held()) - before == set()
    assert all_cpus_come_free(group)
