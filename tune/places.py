"""Where a session's trials run: worker groups on a local Ray or a cluster, or this process. Part of the composition root.

`placed` connects, refuses a trial that can never fit, and hands out a way to make an executor; when it is left, groups and Ray are
gone. `Orders` turns an assignment of the search into what a group is told to run.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainables.cache_home import cache_home
from tune.adapters.foreground import ForegroundExecutor, OnAsk, OnReport
from tune.core.errors import Problem, StopStudy, UserError
from tune.core.rules import Assignment
from tune.core.search import Search
from tune.core.shape import TrialShape
from tune.core.study import StudySpec

if TYPE_CHECKING:
    from cluster.placement import NodeFree, Placement
    from cluster.room import Room

NODES_COME_BACK_WITHIN_S = 600.0  # of a resume: what a spot instance or an autoscaler takes
_LOOK_EVERY_S = 2.0
_CLOSE_GROUPS_S = 30.0


@dataclass(frozen=True)
class Place:
    """Where trials run, in words for people too, and how to make an executor.

    slots: most trials at once, which a person may raise up to `most`. groups: of them those that there is room for now.
    """

    slots: int
    most: int
    groups: int
    shape: TrialShape
    words: str
    executor: Callable[[Search, Orders, Callable[[], None]], Any]


@contextlib.contextmanager
def placed(spec: StudySpec, address: str | None, foreground: bool, resumes: bool = False, gpus: float | None = None) -> Iterator[Place]:
    """Connect to the cluster, or not at all in the foreground; refuse a trial shape that can never fit.

    resumes: the study fitted before, so that nodes that a running cluster lacks now are waited for; so are those of a study that asks for
    nodes. gpus: of a worker, what `gpus_per_worker: auto` came to there when the study began: it does not go on without them because
    their nodes are away.
    """
    if foreground:
        _refuse(cannot_grow(spec, "in the foreground, where one trial runs at a time"))
        here = look_at_nodes(spec, None)
        shape = shape_of_trial(spec, here)
        if shape.accelerator is not None or shape.labels:
            from cluster.placement import place

            place(here, shape, 1)
        yield Place(1, 1, 1, shape, "in this process, one trial at a time", _foreground_executor)
        return
    from cluster.ray_cluster import connect, disconnect, nodes

    address = address or spec.cluster.address
    if address == "local":
        _refuse(cannot_grow(spec))
    connection = connect(address)
    try:
        wait_s = NODES_COME_BACK_WITHIN_S if (resumes or spec.cluster.autoscale) and not connection.local else 0.0
        ask = None if spec.cluster.autoscale is None else _ask_for_one
        shape, found, room = room_for(spec, nodes, wait_s, None if connection.local else gpus, ask=ask)
        grown = spec.cluster.autoscale
        slots, most = (found.slots, room) if grown is None else (grown.max_trials, grown.max_trials)
        made: list[_Groups] = []

        def ray_executor(search: Search, orders: Orders, poll: Callable[[], None]) -> Any:
            from tune.adapters.ray_tune import RayTuneExecutor
            from tune.adapters.slots import Growth

            patience_s = None if spec.cluster.elastic is None else spec.cluster.elastic.patience_s
            is_small = sum(found.per_node.values()) < shape.workers
            hang_s = 60 * spec.cluster.hang_minutes
            made.append(_Groups(shape, found.spans, orders.scratch, hang_s, patience_s or 0.0, waited=is_small))
            at_once = search.rules.slots if grown is None else min(found.slots, search.rules.slots)
            growth = None if grown is None else Growth(grown.idle_s, 0.0 if is_small else patience_s)
            return RayTuneExecutor(search, at_once, made[-1], orders.order, orders.after_step, poll, growth)

        try:
            yield Place(slots, most, found.slots, shape, found.why, ray_executor)
        finally:
            for groups in made:
                groups.close()
    finally:
        disconnect(connection)


def _ask_for_one(shape: TrialShape) -> Room:
    return _room(shape, spans=True)  # what nodes come is not known


def _room(shape: TrialShape, spans: bool) -> Room:
    from cluster.room import Room
    from trainables.adapters.worker_group import resources_of_worker

    return Room(shape, spans, resources_of_worker(shape))


def _must_span(shape: TrialShape) -> bool:
    """Whether a group of this shape fits, and in no node alone."""
    from cluster.placement import place
    from cluster.ray_cluster import nodes

    try:
        return place(nodes(), shape, 1).spans
    except UserError:  # it does not fit at present
        return False


def cannot_grow(spec: StudySpec, where: str = "on a Ray of this machine alone, to which no node can come") -> list[Problem]:
    """What is wrong if the study shall get more nodes than there are."""
    if spec.cluster.autoscale is None:
        return []
    fix = "give the address of a cluster (--address), or remove it (--set cluster.autoscale=null)"
    return [Problem("cluster.autoscale", f"max_trials {spec.cluster.max_trials} {where}", fix)]


def _refuse(problems: Sequence[Problem]) -> None:
    if problems:
        raise UserError(list(problems))


def room_for(
    spec: StudySpec,
    look: Callable[[], Sequence[NodeFree]],
    wait_s: float,
    gpus: float | None = None,
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], None] = time.sleep,
    ask: Callable[[TrialShape], Room] | None = None,
) -> tuple[TrialShape, Placement, int]:
    """The shape of a trial, its placement, and how many would fit at most. Raises UserError if none does within `wait_s`.

    A driver that was lost with its node is often back before the node is: it must not take that for a user's mistake. ask: for room for
    one trial, while there is none, from an autoscaler that may have no node yet. An elastic trial gets fewer workers after its patience.
    """
    from cluster.placement import place

    begun, told, room = clock(), False, None
    try:
        while True:
            nodes = look()
            shape = shape_of_trial(spec, nodes, gpus)
            is_patient = clock() - begun < min(wait_s, 0.0 if spec.cluster.elastic is None else spec.cluster.elastic.patience_s)
            needed = shape.of(shape.workers) if is_patient else shape
            try:
                found = place(nodes, needed, spec.cluster.concurrency, spec.cluster.max_trials)
                return shape, found, place(nodes, needed, None).slots
            except UserError as error:
                if clock() - begun >= wait_s:
                    raise
                if not told:
                    short = "; ".join(problem.got for problem in error.problems)
                    sys.stderr.write(f"waiting up to {wait_s / 60:g} minutes for nodes: {short}\n")
                    sys.stderr.flush()
                    told, room = True, None if ask is None else ask(shape)
                if room is not None and shape.min_workers is not None and not is_patient:  # all of them may be more than can ever come
                    room.withdraw()
                    room, ask = None if ask is None else ask(shape.of(shape.sizes[-1])), None
            pause(_LOOK_EVERY_S)
    finally:
        if room is not None:
            room.withdraw()


def shape_of_trial(spec: StudySpec, nodes: Sequence[NodeFree], gpus: float | None = None) -> TrialShape:
    """The trial's shape with `gpus_per_worker: auto` settled: `gpus` if given, else by what the cluster has."""
    from cluster.placement import auto_gpus

    cluster = spec.cluster
    return cluster.shape(auto_gpus(nodes, cluster.accelerator, cluster.node_labels) if gpus is None else gpus)


def look_at_nodes(spec: StudySpec, address: str | None) -> list[NodeFree]:
    """What `plan` counts on: the nodes of the cluster at `address` or in the study, else this machine, without starting Ray."""
    from cluster.placement import NodeFree

    address = address or spec.cluster.address
    if address == "local":
        sort = None if spec.cluster.accelerator is None else _sort_of_gpu()
        return [NodeFree("this machine", os.cpu_count() or 1, _n_gpus(), () if sort is None else (sort,))]
    if "://" in address and not address.startswith("ray://"):  # the dashboard, from a machine that is no node
        from cluster.jobs import reach

        return reach(address).nodes_free()
    from cluster.ray_cluster import connect, disconnect, nodes

    connection = connect(address)
    try:
        return nodes()
    finally:
        disconnect(connection)


def _n_gpus() -> int:
    import torch

    return torch.cuda.device_count()


def _sort_of_gpu() -> str | None:
    """As Ray would mark this machine."""
    from ray._private.accelerators import get_accelerator_manager_for_resource

    name: str | None = get_accelerator_manager_for_resource("GPU").get_current_node_accelerator_type()
    return name


class _Groups:
    """The worker groups of this session, one a slot, and the room that it asks for; the port `tune.adapters.slots.Groups`."""

    def __init__(self, shape: TrialShape, spans: bool, scratch: Path, hang_s: float, patience_s: float, waited: bool):
        """waited: for room for a whole elastic group, in vain."""
        from cluster.elastic import Turn
        from trainables.adapters.order import GroupLimits

        self._shape, self._spans, self._scratch, self._patience_s = shape, spans or shape.min_workers is not None, scratch, patience_s
        self._limits = GroupLimits(hang_s=hang_s)
        self._turn, self._waited = Turn(), waited
        self._made: dict[int, Any] = {}
        self._leaving: list[threading.Thread] = []

    def make(self, slot: int, room: Any) -> tuple[Any, str]:
        from cluster.elastic import GroupRoom
        from trainables.adapters.worker_group import WorkerGroup

        placement_group = None if room is None else room.placement_group
        if slot in self._made:  # its host is gone; what is left of it goes too
            self.release(slot)
        rooms = GroupRoom(self._shape, self._patience_s, self._ask, self._turn, at_once=self._waited)
        self._made[slot] = group = WorkerGroup(self._shape, self._scratch, self._limits, self._spans, placement_group, rooms)
        return group.host, group.name

    def ask(self) -> Room:
        return self._ask(self._shape)

    def _ask(self, shape: TrialShape) -> Room:
        """Over several nodes only where no node that is alive could hold it: the one that did may be lost."""
        return _room(shape, self._spans or _must_span(shape))

    def release(self, slot: int) -> None:
        self._leaving = [thread for thread in self._leaving if thread.is_alive()]
        self._leaving.append(threading.Thread(target=self._made.pop(slot).close, daemon=True))
        self._leaving[-1].start()

    def close(self) -> None:
        for slot in list(self._made):
            self.release(slot)
        for thread in self._leaving:
            thread.join(_CLOSE_GROUPS_S)


def _foreground_executor(search: Search, orders: Orders, poll: Callable[[], None]) -> ForegroundExecutor:
    from trainables.adapters.attempt import run_in_foreground

    def run_trial(assignment: Assignment, on_report: OnReport, on_ask: OnAsk) -> tuple[Any, ...]:
        message: tuple[Any, ...] = run_in_foreground(orders.order(assignment), on_report, gpus=_n_gpus() and 1, on_ask=on_ask)
        return message

    return ForegroundExecutor(search, run_trial, orders.after_step, poll)


class Orders:
    """What a group is told to run for an assignment: the recipe of its role and the trainable with the point patched in."""

    def __init__(self, spec: StudySpec, entry: Any, study_dir: Path):
        self._spec, self._trials, self.scratch = spec, study_dir / "trials", study_dir / ".groups"
        self._recipes = {
            "search": entry.recipe,
            "baseline": entry.baseline,
            "finalist": entry.recipe,
            "refit": entry.refit,
            "clone": entry.recipe,
        }
        self._cache_dir = str(cache_home())

    def order(self, assignment: Assignment) -> Any:
        from trainables.adapters.order import Order

        workdir = self._trials / assignment.trial
        try:
            workdir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            fix = "mend the storage, then resume the study"
            raise StopStudy("storage_lost", f"{workdir} cannot be made: {error.strerror or error}", fix) from None
        return Order(
            trial=assignment.trial,
            kind=self._spec.kind,
            recipe=self._recipes[assignment.role],
            spec=self._spec.trainable_at(assignment.point),
            seed=assignment.seed,
            workers=self._spec.cluster.workers,
            workdir=str(workdir),
            cache_dir=self._cache_dir,
            attempt=assignment.attempt,
        )

    def lend(self, of: str, to: str) -> int | None:
        """The port `tune.core.steer.Checkpoints`."""
        from trainables.adapters import checkpoint

        try:
            return checkpoint.lend(self._trials / of, self._trials / to)
        except OSError as error:
            got = f"its files cannot be copied: {error.strerror or error}"
            raise UserError(Problem(f"--trial {of}", got, "free space or mend the storage, or clone it with --cold")) from None

    def after_step(self, trial: str) -> int | None:
        from trainables.adapters.checkpoint import step_of

        return step_of(self._trials / trial)
