"""What can happen to a study on Ray: to its workers, to the actors between them and the driver, to raylets, nodes and the head.

Faults strike one after the other in the same study, and the driver is resumed whenever it is gone.
"""

from __future__ import annotations

import contextlib
import errno
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import psutil

from tests.chaos.driving import Blow, Broken, Over, Run
from tests.chaos.far_nodes import FarNodes
from tests.chaos.faults import Scene
from tests.chaos.nodes import Nodes
from trainables.adapters.order import GroupLimits
from trainables.adapters.pulse import ALARM_S
from tune.core.journal import Entry, GroupNoted, Reported, Retried, Started

NOTICED_S = 120.0
DRAINED_WITHIN_S = 60.0


@dataclass(frozen=True)
class RayFault:
    name: str
    strike: Callable[[Scene, Nodes | None], Blow]


def _worker(scene: Scene) -> psutil.Process:
    """A worker process that trains; the journal says which there are."""

    found: list[int] = []

    def look() -> bool:
        noted = [e.event for e in scene.run.entries() if isinstance(e.event, GroupNoted) and e.event.what == "started"]
        pids = [int(pid) for event in noted for pid in re.findall(r"\d+", event.detail.partition("pids ")[2])]
        found[:] = filter(_is_of_ray, pids)
        return bool(found)

    if not scene.run.until_true(look, "a worker process", NOTICED_S):
        raise Over
    return psutil.Process(scene.rng.choice(found))


def _is_of_ray(pid: int) -> bool:
    """It lives, which a process that nobody has waited for since its raylet was killed does not."""
    try:
        return any("ray::" in word for word in psutil.Process(pid).cmdline())
    except psutil.NoSuchProcess:  # a zombie is one
        return False


def _actors(run: Run, word: str) -> list[psutil.Process]:
    """Processes of the driver's own Ray whose title holds `word`."""
    found = []
    for process in _below(run):
        with contextlib.suppress(psutil.NoSuchProcess):
            if any(word in part for part in process.cmdline()[:2]):
                found.append(process)
    return found


def _below(run: Run) -> list[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        return run.driver.children(recursive=True)
    return []


def _titles(run: Run) -> str:
    titles = set()
    for process in _actors(run, "ray::"):
        with contextlib.suppress(psutil.NoSuchProcess, IndexError):
            titles.add(process.cmdline()[0])
    return ", ".join(sorted(titles))


def _kill_worker(scene: Scene, nodes: Nodes | None) -> Blow:
    worker = _worker(scene)
    blow = scene.run.blow()
    worker.kill()
    return blow


def _hung_worker(scene: Scene, nodes: Nodes | None) -> Blow:
    worker = _worker(scene)
    blow = scene.run.blow(lasted_s=5.0)
    worker.suspend()
    time.sleep(5.0)
    worker.resume()
    return blow


def _kill_actor(title: str) -> Callable[[Scene, Nodes | None], Blow]:
    def strike(scene: Scene, nodes: Nodes | None) -> Blow:
        found: list[psutil.Process] = []

        def look() -> bool:
            found[:] = _actors(scene.run, title)
            return bool(found)

        if not scene.run.until_true(look, f"a process {title} among {_titles(scene.run)}", NOTICED_S):
            raise Over
        blow = scene.run.blow()
        scene.rng.choice(found).kill()
        return blow

    return strike


def _kill_driver(scene: Scene, nodes: Nodes | None) -> Blow:
    blow = scene.run.blow()
    scene.run.kill()
    return blow


def _kill_own_ray(word: str) -> Callable[[Scene, Nodes | None], Blow]:
    """A process of the Ray that the driver started for itself: what runs may come to its end there, nothing new can start."""

    def strike(scene: Scene, nodes: Nodes | None) -> Blow:
        found = [p for p in _below(scene.run) if word in p.name()]
        if not found:
            if scene.run.alive:
                raise Broken(f"no {word} below the driver")
            raise Over
        blow = scene.run.blow()
        found[0].kill()
        return blow

    return strike


def _full_disk(scene: Scene, nodes: Nodes | None) -> Blow:
    """Workers and driver meet it at the same time."""
    assert scene.disk is not None
    blow = scene.run.blow()
    scene.disk.goes_bad(errno.ENOSPC)
    code = scene.run.wait(NOTICED_S)
    scene.disk.is_mended()
    if code != 1 or "go on with: " not in scene.run.said():
        raise Broken(f"exit code {code}, where 1 and what to do were due: {scene.run.said()[-800:]}")
    return replace(scene.run.less_what_was_taken_back(blow), lasted_s=time.time() - blow.at_s)


def _kill_raylet(replaced_after_s: float) -> Callable[[Scene, Nodes | None], Blow]:
    def strike(scene: Scene, nodes: Nodes | None) -> Blow:
        assert nodes is not None
        worker = _worker(scene)
        blow = scene.run.blow()
        nodes.kill_raylet_above(worker)
        time.sleep(replaced_after_s)
        nodes.add()
        return blow

    return strike


def _kill_node(scene: Scene, nodes: Nodes | None) -> Blow:
    assert nodes is not None
    worker = _worker(scene)
    blow = scene.run.blow()
    nodes.kill_node(nodes.node_with(worker))
    time.sleep(2.0)
    nodes.add()
    return blow


def _node_for_good(scene: Scene, nodes: Nodes | None) -> Blow:
    """A node is lost and no other comes: its group waits, and its trial goes to the group that is left."""
    assert nodes is not None
    worker = _worker(scene)
    blow = scene.run.blow()
    nodes.kill_node(nodes.node_with(worker))

    def waits() -> list[Entry]:
        events = scene.run.entries()[len(blow.before) :]
        return [e for e in events if isinstance(e.event, GroupNoted) and e.event.what == "waits"]

    within_s = GroupLimits().silence_s + GroupLimits().empty_s + NOTICED_S
    if not scene.run.until_true(lambda: bool(waits()), "a group without a node says that it waits", within_s):
        raise Broken("the study ended before a trial of the lost node could go to another group")
    return replace(blow, seen=f"(its trial was free for another group after {waits()[0].t - blow.at_s:.1f} s)")


def _cut_off(scene: Scene, nodes: Nodes | None) -> Blow:
    """A node is off the network and lives on. Its worker ends by itself in time, and the trial begins again, elsewhere, not before that.
    When the link is back, Ray refuses the node that it took for dead; started again, it serves."""
    assert isinstance(nodes, FarNodes)
    worker = _worker(scene)
    i = nodes.node_with(worker)
    blow = scene.run.blow()

    def begun_again() -> list[Entry]:
        return [e for e in scene.run.entries()[len(blow.before) :] if isinstance(e.event, Started) and e.event.attempt > 1]

    nodes.cut(i)
    in_time_s = GroupLimits().silence_s + ALARM_S
    gone, _ = psutil.wait_procs([worker], timeout=in_time_s)
    if not gone:
        raise Broken(f"the worker that was cut off lived on for {in_time_s:g} s")
    ended_after_s = time.time() - blow.at_s
    if begun_again():
        raise Broken("the trial began again while its worker that was cut off lived")
    scene.run.until_true(begun_again, "the trial begins again", NOTICED_S)
    again_after_s = begun_again()[0].t - blow.at_s
    nodes.heal(i)
    scene.run.until_true(lambda: i not in nodes.living_nodes(), "the node that was cut off hears that it is taken for dead", NOTICED_S)
    nodes.add()
    return replace(blow, seen=f"(worker ended after {ended_after_s:.1f} s, trial began again after {again_after_s:.1f} s)")


def _preemption_notice(scene: Scene, nodes: Nodes | None) -> Blow:
    """A node will be reclaimed: its group leaves it at the next report, and comes up on another one."""
    assert nodes is not None
    worker = _worker(scene)
    blow = scene.run.blow()
    nodes.drain(nodes.node_with(worker), DRAINED_WITHIN_S)

    def told() -> list[str]:
        return [e.event.what for e in scene.run.entries()[len(blow.before) :] if isinstance(e.event, GroupNoted)]

    scene.run.until_true(lambda: told() == ["preempted", "started"] or "lost" in told(), "the group is elsewhere", DRAINED_WITHIN_S)
    if told() != ["preempted", "started"]:
        raise Broken(f"a group that was to leave its node and to come up again was {', '.join(told()) or 'not told'}")
    nodes.add()
    left = any(isinstance(e.event, Retried) for e in scene.run.entries()[len(blow.before) :])
    return replace(blow, seen=f"(the trial {'left in the middle' if left else 'had ended before'})")


def _reclaimed(scene: Scene, nodes: Nodes | None) -> Blow:
    """A node is drained, and gone before the next report: an ordinary lost node, of which the group's host must hear."""
    assert nodes is not None
    worker = _worker(scene)
    i, n = nodes.node_with(worker), len(scene.run.entries())

    def begun() -> bool:
        return any(isinstance(e.event, Reported) and e.event.step == 0 for e in scene.run.entries()[n:])

    if not scene.run.until_true(begun, "the first report of a trial", NOTICED_S):
        raise Over
    blow = scene.run.blow()
    nodes.drain(i, 1.0)
    time.sleep(1.0)
    nodes.kill_node(i)
    nodes.add()
    return blow


def _fewer_workers(scene: Scene, nodes: Nodes | None) -> Blow:
    """A node of an elastic group is lost: the trial goes on with the worker that is left, and with both when there is another node."""
    assert nodes is not None
    worker, n = _worker(scene), len(scene.run.entries())

    def shares() -> list[float]:
        return [e.event.share for e in scene.run.entries()[n:] if isinstance(e.event, GroupNoted) and e.event.what == "started"]

    blow = scene.run.blow()
    nodes.kill_node(nodes.node_with(worker))
    if not scene.run.until_true(lambda: bool(shares()), "the group is up with one worker", NOTICED_S) or shares() != [0.5]:
        raise Broken(f"a group of two that lost a node came up with shares {shares()}")
    nodes.add()
    if not scene.run.until_true(lambda: len(shares()) == 2, "the group is up with both workers", NOTICED_S) or shares() != [0.5, 1.0]:
        raise Broken(f"a group that could have both workers came up with shares {shares()}")
    began = [e.t for e in scene.run.entries()[n:] if isinstance(e.event, GroupNoted) and e.event.what == "started"]
    return replace(blow, seen=f"(one worker after {began[0] - blow.at_s:.1f} s, both after {began[1] - blow.at_s:.1f} s)")


def _restart_gcs(scene: Scene, nodes: Nodes | None) -> Blow:
    """The control plane is gone for five seconds and finds what it knew in Redis."""
    assert nodes is not None
    blow = scene.run.blow(lasted_s=5.0)
    nodes.restart_gcs(5.0)
    return blow


def _kill_head(scene: Scene, nodes: Nodes | None) -> Blow:
    """The control plane is gone with all it knew; another cluster comes up at the same address."""
    assert nodes is not None
    blow = scene.run.blow()
    nodes.kill_head()
    with contextlib.suppress(Broken):
        scene.run.wait(NOTICED_S)
    if scene.run.alive:
        raise Broken(f"the driver hung for {NOTICED_S:g} s after the head was gone: {scene.run.said()[-500:]}")
    nodes.start_again()
    return Blow(blow.before, blow.at_s, time.time() - blow.at_s)


KILL_WORKER = RayFault("worker: kill -9", _kill_worker)
HUNG_WORKER = RayFault("worker: SIGSTOP for 5 s", _hung_worker)
KILL_HOST = RayFault("group's host: kill -9", _kill_actor("ray::Host"))
KILL_CARRIER = RayFault("trial's actor: kill -9", _kill_actor("ray::LeasedTrial"))
KILL_CONTROLLER = RayFault("Train's controller: kill -9", _kill_actor("ray::TrainController"))
KILL_DRIVER = RayFault("driver on Ray: kill -9", _kill_driver)
KILL_OWN_RAYLET = RayFault("the only raylet: SIGKILL", _kill_own_ray("raylet"))
KILL_OWN_GCS = RayFault("the only GCS: SIGKILL", _kill_own_ray("gcs_server"))
FULL_DISK = RayFault("disk of workers and driver: full", _full_disk)
KILL_RAYLET = RayFault("a raylet: SIGKILL, replaced after 2 s", _kill_raylet(2.0))
KILL_RAYLET_LONG = RayFault("a raylet: SIGKILL, replaced after 20 s", _kill_raylet(20.0))
KILL_NODE = RayFault("a node, all of it: SIGKILL, replaced", _kill_node)
NODE_FOR_GOOD = RayFault("a node, all of it: SIGKILL, no other comes", _node_for_good)
CUT_OFF = RayFault("a node: off the network, later back", _cut_off)
PREEMPTION_NOTICE = RayFault("a node: drained before it is reclaimed", _preemption_notice)
RECLAIMED_EARLY = RayFault("a node: drained, gone before the next report", _reclaimed)
FEWER_WORKERS = RayFault("a node of an elastic group: SIGKILL, another later", _fewer_workers)
KILL_HEAD = RayFault("the head: SIGKILL, started anew", _kill_head)
RESTART_GCS = RayFault("the GCS with Redis: SIGKILL, back after 5 s", _restart_gcs)
