"""A worker group: long-lived Ray Train workers that trials lease, and the supervisor that keeps them running.

The driver's `WorkerGroup` starts one host actor (no CPU) and, in a thread, one TorchTrainer after another: the first at once, the
next when the workers left to be recycled or were lost. The trainer runs in the driver and not in the host, because Ray gives a
placement group back when its creator *ends in order*: a host that dies takes the workers with it through their own watch
(worker.py), the trainer's controller notices and releases the CPUs, whether the dashboard is on or not. When the host dies the
group is over; make another one. The host lives on the driver's own node and on no other: a lost node of workers never takes it along.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import ray
import ray.exceptions
import ray.util
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from trainables.adapters.draining import draining_nodes
from trainables.adapters.group_host import Host
from trainables.adapters.lean_trainer import lean_trainer
from trainables.adapters.order import GroupLimits
from trainables.adapters.worker import work
from trainables.adapters.worker_end import end_worker
from tune.core.errors import StopStudy
from tune.core.shape import TrialShape

_MAX_STARTS_IN_A_ROW = 3  # that came to nothing
_LOOK_AGAIN_S = 5.0  # for room for more workers, after Ray's control plane did not answer
_TRAIN_SETTINGS = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.25",  # how soon a dead worker is noticed
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # one process less a group: the host looks itself
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # a recipe's print goes to its trial's log
    "RAY_TRAIN_ENABLE_CONTROLLER_STRUCTURED_LOGGING": "0",
    "RAY_TRAIN_ENABLE_WORKER_STRUCTURED_LOGGING": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths of a spec mean the same as in the driver
}


class Rooms(Protocol):
    """Where the workers of a group go, set after set; see `cluster.elastic`."""

    def settle(self, is_over: Callable[[], bool]) -> tuple[int, PlacementGroup] | None: ...

    def watch(self, workers: int, pause: Callable[[float | None], bool], leave: Callable[[], bool]) -> None: ...

    def close(self) -> None: ...


class WorkerGroup:
    """Returns at once; the workers come up in the background. `host` is the actor that trials talk to, `name` its Ray name.

    scratch: a folder that all nodes see, for Ray Train's own (small) files. spans: the group may reach over several nodes.
    room: a placement group of this shape that has its place already, for the first workers; it is the group's from here on.
    rooms: where each further set of workers goes, how many it has, and when there is room for more; None: all of them, wherever Ray Train
    puts them, which fails where that takes long.
    The host is on this driver's node: it must neither go with a worker's node nor keep one from being given back.
    """

    def __init__(
        self,
        shape: TrialShape,
        scratch: Path,
        limits: GroupLimits | None = None,
        spans: bool = False,
        room: PlacementGroup | None = None,
        rooms: Rooms | None = None,
    ):
        self.shape, self._spans, self._room, self._rooms = shape, spans, room, rooms
        self.name = f"phasetune-group-{uuid.uuid4().hex[:12]}"
        self._limits = limits or GroupLimits()
        self._scratch = Path(scratch) / self.name
        for name, value in _TRAIN_SETTINGS.items():
            os.environ.setdefault(name, value)
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self.host = _HostActor.options(name=self.name, scheduling_strategy=here).remote(shape, self._limits, end_worker, draining_nodes)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._supervise, name=self.name, daemon=True)
        self._thread.start()

    def ready(self, timeout_s: float | None = None) -> dict[str, Any]:
        """Wait for the workers: their start's seconds, pids, node. Raises StopStudy if they cannot be brought up."""
        facts = ray.get(self.host.ready.remote(timeout_s))
        if "error" in facts:
            fix = "look at the cluster's free CPUs and GPUs and at Ray's worker logs, then resume"
            raise StopStudy("group_start_failed", facts["error"], fix)
        return facts

    def close(self, grace_s: float = 10.0) -> None:
        """Let the workers go; those that are still in a step after `grace_s` are killed. Returns when their CPUs are free, or
        after twice `grace_s` if they have not come up yet: then they leave by themselves when they do, and the host goes last."""
        self._closing.set()
        with contextlib.suppress(ray.exceptions.RayActorError):
            ray.get(self.host.close.remote())
            self._thread.join(grace_s)
            if self._thread.is_alive() and ray.is_initialized():  # a call would start a Ray of its own
                ray.get(self.host.kill_workers.remote())
        self._thread.join(grace_s)
        if not self._thread.is_alive():
            self._kill_host()

    def _kill_host(self) -> None:
        if ray.is_initialized():  # a call would start a Ray of its own
            ray.kill(self.host)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def _supervise(self) -> None:
        generation = fruitless = 0
        is_told = False
        try:
            while fruitless < _MAX_STARTS_IN_A_ROW:
                generation += 1
                size = self._settle()
                if size is None or not ray.get(self.host.begin.remote(generation, size)):
                    is_told = True
                    return
                with self._watch_for_room(generation, size):
                    reason, detail = self._train(generation, size)
                if not ray.is_initialized():  # a call would start a Ray of its own
                    return
                fate = ray.get(self.host.ended.remote(generation, reason, detail))
                if reason is not None:
                    _release(fate["placement_groups"])
                fruitless = 0 if fate["was_up"] else fruitless + 1
            ray.get(self.host.give_up.remote(f"{fruitless} starts failed, the last with {detail}"))
            is_told = True
        except ray.exceptions.RayActorError:  # the host is gone, and with it the group
            pass
        finally:
            if not is_told and ray.is_initialized():
                self.host.give_up.remote("the group's supervisor ended by an error of its own, which the driver's output has")
            if self._rooms is not None:
                self._rooms.close()
            _release([self._room])
            shutil.rmtree(self._scratch, ignore_errors=True)
            if self._closing.is_set():
                self._kill_host()

    def _settle(self) -> int | None:
        """How many workers are next, and room for them, however long that takes. None: it is closed meanwhile."""
        if self._rooms is None or self._room is not None:
            return self.shape.workers
        while True:
            try:
                settled = self._rooms.settle(lambda: self._closing.is_set() or not ray.is_initialized())
            except ray.exceptions.RayActorError:
                raise
            except ray.exceptions.RayError:  # the control plane is away for a moment
                self._closing.wait(_LOOK_AGAIN_S)
                continue
            if settled is None:
                return None
            workers, self._room = settled
            return workers

    @contextlib.contextmanager
    def _watch_for_room(self, generation: int, size: int) -> Iterator[None]:
        """While the body runs, have the group leave for more workers, if it is short of some, when there is room for them."""
        rooms, over = self._rooms, threading.Event()
        if rooms is None or size == self.shape.workers:
            yield
            return
        why = f"there is room for more than {size} of {self.shape.workers} workers"

        def leave() -> bool:
            return bool(ray.get(self.host.regroup.remote(generation, why)))

        def watch() -> None:
            while not over.is_set():
                try:
                    rooms.watch(size, over.wait, leave)
                except ray.exceptions.RayActorError:  # the host is gone, and with it the group
                    return
                except ray.exceptions.RayError:  # the control plane is away for a moment
                    over.wait(_LOOK_AGAIN_S)

        watching = threading.Thread(target=watch, name=f"{self.name}-room", daemon=True)
        watching.start()
        try:
            yield
        finally:
            over.set()
            watching.join()

    def _train(self, generation: int, size: int) -> tuple[str | None, str]:
        """One set of workers, from start to end. (None, "") if they left because they were told to."""
        from ray.train import TrainingFailedError

        room, self._room = self._room, None  # Ray Train gives it back with the workers
        try:
            self._trainer(generation, size, room).fit()
        except TrainingFailedError as error:
            return _reason(error), _what_happened(error)
        except ray.exceptions.RayError as error:  # the controller itself
            return "worker_lost", _what_happened(error)
        finally:
            _release([room])
        return None, ""

    def _trainer(self, generation: int, size: int, room: PlacementGroup | None) -> Any:
        """For one set of workers. That it is made anew after any loss is the supervisor's business alone, of which the host is told."""
        from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig

        shape = self.shape
        return lean_trainer(room)(
            work,
            train_loop_config={
                "host": self.host,
                "generation": generation,
                "cpus_per_worker": shape.cpus_per_worker,
                "gpus_per_worker": shape.gpus_per_worker,
                "silence_s": self._limits.silence_s,
            },
            torch_config=_torch_config(self._limits.hang_s),
            scaling_config=ScalingConfig(
                num_workers=size,
                use_gpu=shape.gpus_per_worker > 0,
                resources_per_worker=resources_of_worker(shape),
                accelerator_type=shape.accelerator,
                label_selector=dict(shape.labels) or None,
                placement_strategy="PACK" if self._spans else "STRICT_PACK",
            ),
            run_config=RunConfig(
                name=str(generation),
                storage_path=str(self._scratch),
                failure_config=FailureConfig(max_failures=0, max_preemption_failures=0, controller_failure_limit=2),
                logging_config=LoggingConfig(log_level="ERROR"),
            ),
        )


def resources_of_worker(shape: TrialShape) -> dict[str, float]:
    """What Ray counts for a worker, without the mark of its sort of GPU."""
    resources: dict[str, float] = {"CPU": shape.cpus_per_worker}
    if shape.gpus_per_worker:
        resources["GPU"] = shape.gpus_per_worker
    if shape.memory_gb_per_worker is not None:
        resources["memory"] = round(shape.memory_gb_per_worker * 1e9)
    return resources


_HostActor = ray.remote(num_cpus=0, max_restarts=0)(Host)


def _torch_config(timeout_s: float) -> Any:
    from ray.train.torch import TorchConfig

    return TorchConfig(timeout_s=int(timeout_s))


def _release(placement_groups: list[Any]) -> None:
    """Give back what is not given back already."""
    for placement_group in placement_groups:
        if placement_group is not None and ray.is_initialized():
            ray.util.remove_placement_group(placement_group)


def _reason(error: Exception) -> str:
    """Ray's memory monitor kills under a text of its own; the kernel's killer cannot be told from any other SIGKILL."""
    return "out_of_memory" if "low on memory" in str(error) or "OutOfMemoryError" in str(error) else "worker_lost"


def _what_happened(error: Exception) -> str:
    """The ranks and how their processes ended, without the frames of Ray's own code."""
    failures = getattr(error, "worker_failures", {})
    if not failures:
        return _telling(str(error))
    return "; ".join(f"rank {rank}: {_telling(str(failure))}" for rank, failure in sorted(failures.items()))


def _telling(text: str) -> str:
    found = re.search(r"Worker exit detail: (.*?)(?: Some common causes|$)", text, re.DOTALL)
    lines = [line.strip() for line in (found.group(1) if found else text).splitlines() if line.strip()]
    words = [line for line in lines if not re.fullmatch(r"\w+: \S+", line)]  # ids of the actor follow what happened to it
    return (words or lines or ["no word from Ray"])[-1][:300]
