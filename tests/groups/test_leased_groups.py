"""Real worker groups on Ray: trials lease them, workers die and come back, and closing gives every CPU back. No dashboard."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.groups.recipes import order_of
from tune.core.shape import TrialShape

pytestmark = [pytest.mark.ray, pytest.mark.slow]
CPUS = 8.0
FREE_WITHIN_S = 300.0
WAITS_S = 600.0  # for a group to come up and for a trial's next message, on a machine that is busy with other things


class Lessee:
    """What a trial's actor does, in the test's own process."""

    def __init__(self, group: Any, folder: Path):
        self.group, self.folder = group, folder
        self.notes: list[tuple[Any, ...]] = []

    def lease(self, trial: str, recipe: str, attempt: int = 0, **spec: object) -> None:
        import ray

        ray.get(self.group.host.run.remote(order_of(self.folder, trial, recipe, attempt, **spec)))

    def next(self, trial: str) -> tuple[Any, ...]:
        """The next message that is not a note. Fails if none comes within `WAITS_S`."""
        import ray

        deadline = time.monotonic() + WAITS_S
        while time.monotonic() < deadline:
            message = ray.get(self.group.host.next.remote(trial, 100))
            if message is not None and message[0] == "note":
                self.notes.append(message)
            elif message is not None:
                return message
        pytest.fail(f"no message of {trial} within {WAITS_S:g} s; notes: {self.notes}")

    def answer(self, trial: str, decision: str) -> None:
        import ray

        ray.get(self.group.host.answer.remote(trial, decision))

    def run(self, trial: str, recipe: str, stop_at: int | None = None, attempt: int = 0, **spec: object) -> list[tuple[Any, ...]]:
        """All messages of one attempt."""
        self.lease(trial, recipe, attempt, **spec)
        messages = []
        while True:
            messages.append(self.next(trial))
            if messages[-1][0] != "report":
                return messages
            self.answer(trial, "stop" if messages[-1][1] == stop_at else "continue")


def make_group(folder: Path, workers: int, hang_s: float = 60, silence_s: float = 20, **more: Any) -> Any:
    from trainables.adapters.order import GroupLimits
    from trainables.adapters.worker_group import WorkerGroup

    limits = GroupLimits(hang_s=hang_s, straggle_s=2, rss_growth_bytes=64 << 20, silence_s=silence_s)
    return WorkerGroup(TrialShape(workers, 1, **more), folder / "groups", limits)


def ends(group: Any) -> bool:
    """Whether the group's supervisor ends, which it may do a moment after what it was told to do is done."""
    deadline = time.monotonic() + FREE_WITHIN_S
    while group.alive and time.monotonic() < deadline:
        time.sleep(0.05)
    return not group.alive


def free_cpus() -> float:
    import ray

    return ray.available_resources().get("CPU", 0.0)


def all_cpus_come_free(*groups: Any) -> bool:
    """Ray tells of what is free with a delay, so it is asked until it does; says who holds what when too long has passed."""
    deadline = time.monotonic() + FREE_WITHIN_S
    while free_cpus() != CPUS and time.monotonic() < deadline:
        time.sleep(0.05)
    if free_cpus() == CPUS:
        return True
    pytest.fail(f"{CPUS - free_cpus()} CPUs are held after {FREE_WITHIN_S} s: {holders(groups)}")


def holders(groups: tuple[Any, ...]) -> str:
    from ray.util import placement_group_table

    held = [f"placement group {key[:8]} {facts['state']}" for key, facts in placement_group_table().items() if facts["state"] != "REMOVED"]
    stacks = sys._current_frames()
    for thread in threading.enumerate():
        if any(thread.name.startswith(group.name) for group in groups):
            held.append(f"{thread.name}:\n" + "".join(traceback.format_stack(stacks[thread.ident or 0])[-6:]))
    return "\n".join(held)


@contextlib.contextmanager
def lessee_of(folder: Path, workers: int, **more: Any) -> Iterator[Lessee]:
    """Of a group that is up, and is closed in the end."""
    group = make_group(folder, workers, **more)
    try:
        group.ready(WAITS_S)
        yield Lessee(group, folder)
    finally:
        group.close()


@pytest.fixture(scope="module")
def one(ray_session: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lessee]:
    """A group of one worker, shared by the tests of this file that leave it in order."""
    with lessee_of(tmp_path_factory.mktemp("one"), 1) as lessee:
        yield lessee


@pytest.fixture(scope="module")
def two(ray_session: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lessee]:
    with lessee_of(tmp_path_factory.mktemp("two"), 2, accelerator="H100", memory_gb_per_worker=0.1) as lessee:
        yield lessee


def test_a_trial_streams_reports_and_ends_with_its_outcome(one: Lessee):
    *reports, end = one.run("t0000", "steps", epochs=3)
    assert [report[1] for report in reports] == [0, 1, 2]
    assert end[:3] == ("done", {"val/score": 1.0}, {"started_at": "0"})
    assert "step 2 on rank 0" in (one.folder / "t0000" / "worker-0.log").read_text()


def test_a_stop_lands_between_two_steps(one: Lessee):
    assert one.run("t0001", "steps", stop_at=1, epochs=9)[-1][:3] == ("done", {"val/score": 1 / 9}, {"stopped": "here"})


def test_the_same_process_serves_trial_after_trial(one: Lessee):
    before = one.group.ready()["pids"]
    assert [one.run(f"t01{i:02}", "nothing")[-1][0] for i in range(20)] == ["done"] * 20
    assert one.run("t0120", "raises")[-1][:2] == ("failed", "value_error")
    assert one.group.ready()["pids"] == before


def test_a_killed_worker_ends_the_trial_by_name_and_the_next_attempt_goes_on_from_its_checkpoint(one: Lessee):
    one.lease("t0002", "steps", epochs=4)
    for step in range(2):
        assert one.next("t0002")[1] == step
        if step < 1:
            one.answer("t0002", "continue")
    os.kill(one.group.ready()["pids"][0], signal.SIGKILL)
    kind, reason, detail = one.next("t0002")
    assert (kind, reason) == ("retry", "worker_lost")
    assert detail.startswith("rank 0: ")
    *reports, end = one.run("t0002", "steps", attempt=1, epochs=4)
    assert [report[1] for report in reports] == [1, 2, 3]
    assert end[:3] == ("done", {"val/score": 1.0}, {"started_at": "2"})
    assert [note[1] for note in one.notes[-2:]] == ["lost", "started"]


def test_a_recipe_that_ends_the_process_costs_one_attempt(one: Lessee):
    assert one.run("t0003", "exits")[-1][:2] == ("retry", "worker_lost")
    assert one.run("t0003", "exits", attempt=1)[-1][0] == "done"


def test_workers_that_grew_are_recycled_before_the_next_trial(one: Lessee):
    one.run("t0004", "nothing")
    before = one.group.ready()["pids"]
    assert one.run("t0005", "leaks", epochs=200)[-1][0] == "done"
    assert one.run("t0006", "nothing")[-1][0] == "done"
    assert one.group.ready()["pids"] != before
    assert "recycled" in [note[1] for note in one.notes]


def test_a_trial_whose_actor_died_leaves_the_slot_to_the_next(one: Lessee):
    import ray

    @ray.remote(num_cpus=0)
    class Trial:
        def step(self, host: Any, order: Any) -> tuple[Any, ...]:
            ray.get(host.run.remote(order))
            while (message := ray.get(host.next.remote(order.trial, 100))) is None or message[0] == "note":
                pass
            return message

    trial = Trial.remote()
    order = order_of(one.folder, "t0007", "forever")
    assert ray.get(trial.step.remote(one.group.host, order), timeout=WAITS_S)[0] == "report"
    ray.kill(trial)
    assert one.run("t0008", "nothing")[-1][0] == "done"


def test_a_group_holds_the_memory_and_the_mark_of_its_sort_of_gpu_on_its_node(two: Lessee):
    from ray.util import placement_group_table

    created = [facts["bundles"] for facts in placement_group_table().values() if facts["state"] == "CREATED"]
    a_worker = {"CPU": 1.0, "memory": 1e8, "accelerator_type:H100": 0.001}
    assert [bundles for bundles in created if len(bundles) == 2] == [{0: a_worker, 1: a_worker}]


def test_ranks_compute_together(two: Lessee):
    assert two.run("t0000", "all_reduce")[-1][:2] == ("done", {"val/score": 3.0})


def test_all_ranks_save_into_one_checkpoint(two: Lessee):
    two.run("t0001", "steps", epochs=2)
    saved = sorted(path.name for path in (two.folder / "t0001" / "checkpoint").iterdir())
    assert saved == ["rank-0.json", "rank-1.json", "report.json"]


def test_a_bad_metric_on_one_rank_fails_the_trial_and_keeps_the_workers(two: Lessee):
    before = two.group.ready()["pids"]
    assert two.run("t0002", "reports_nan")[-1][:2] == ("failed", "not_finite")
    assert two.run("t0003", "all_reduce")[-1][0] == "done"
    assert two.group.ready()["pids"] == before


def test_an_exception_on_one_rank_fails_the_trial_and_the_next_one_computes_right(two: Lessee):
    assert two.run("t0004", "raises")[-1][:2] == ("failed", "value_error")
    assert two.run("t0005", "all_reduce")[-1][:2] == ("done", {"val/score": 3.0})


def test_a_rank_that_dies_while_the_other_waits_ends_the_trial(two: Lessee):
    assert two.run("t0006", "exits")[-1][:2] == ("retry", "worker_lost")
    assert two.run("t0006", "exits", attempt=1)[-1][0] == "done"


def test_a_device_that_fails_in_a_step_makes_the_workers_anew_and_the_trial_goes_on_with_them(two: Lessee):
    before = two.group.ready()["pids"]
    kind, reason, detail = two.run("t0010", "loses_its_device", epochs=3)[-1]
    assert (kind, reason) == ("retry", "device_fault") and "uncorrectable ECC error" in detail
    assert two.run("t0010", "loses_its_device", attempt=1, epochs=3)[-1][0] == "done"
    assert not set(two.group.ready()["pids"]) & set(before)


def test_a_hung_rank_ends_the_trial_by_name_and_the_next_one_works(ray_session: str, tmp_path: Path):
    """With a group of its own: the limit is that of gloo's rendezvous as well."""
    with lessee_of(tmp_path, 2, hang_s=15) as lessee:
        kind, reason, detail = lessee.run("t0000", "hangs")[-1]
        assert (kind, reason, detail) == ("retry", "worker_hung", "rank 1 did not reach report of step 0 within 15 s of the others")
        assert lessee.run("t0001", "all_reduce")[-1][0] == "done"


def test_closing_gives_the_cpus_back_and_kills_what_is_still_in_a_step(one: Lessee, two: Lessee):
    one.lease("t0009", "sleeps")
    assert one.next("t0009")[0] == "report"
    one.answer("t0009", "continue")
    began = time.monotonic()
    one.group.close(grace_s=1)
    assert time.monotonic() - began >= 1
    two.group.close()
    assert ends(one.group) and ends(two.group)
    assert all_cpus_come_free(one.group, two.group)


def test_a_group_whose_host_is_killed_gives_the_cpus_back_by_itself(ray_session: str, tmp_path: Path):
    import ray

    group = make_group(tmp_path, 1)
    lessee = Lessee(group, tmp_path)
    lessee.lease("t0000", "sleeps")
    assert lessee.next("t0000")[0] == "report"
    assert free_cpus() < CPUS
    ray.kill(group.host)
    assert all_cpus_come_free(group)
    group.close()
    assert ends(group)
    assert not (tmp_path / "groups" / group.name).exists()


def test_a_worker_that_is_stopped_is_lost_after_its_silence_killed_and_its_trial_goes_on(ray_session: str, tmp_path: Path):
    import psutil

    group = make_group(tmp_path, 1, silence_s=8)
    lessee = Lessee(group, tmp_path)
    lessee.lease("t0000", "steps", epochs=3)
    assert lessee.next("t0000")[0] == "report"
    [pid] = group.ready()["pids"]
    worker = psutil.Process(pid)
    worker.suspend()
    kind, reason, detail = lessee.next("t0000")
    assert (kind, reason) == ("retry", "worker_silent") and re.fullmatch(r"rank 0 was not heard for \d+ s", detail)
    worker.wait(60)
    *_, end = lessee.run("t0000", "steps", attempt=1, epochs=3)
    assert end[:3] == ("done", {"val/score": 1.0}, {"started_at": "1"})
    group.close()


def test_a_group_closed_while_it_starts_gives_the_cpus_back(ray_session: str, tmp_path: Path):
    group = make_group(tmp_path, 1)
    group.close(grace_s=45)  # starting takes its time on a busy machine
    assert ends(group)
    assert all_cpus_come_free(group)


def test_a_group_given_up_while_it_starts_leaves_by_itself_when_it_is_up(ray_session: str, tmp_path: Path):
    group = make_group(tmp_path, 1)
    group.close(grace_s=0.1)
    assert all_cpus_come_free(group)
