"""What each worker process of a group does: wait for an order, run it, say how it ended, wait for the next.

The loop is Ray Train's train function. It ends when the host says so (recycling, closing) and the process ends with it; if the
host itself dies, the process leaves at once, in the middle of a step if need be, so that nothing holds a CPU or GPU for nobody; if it
cannot be heard, within `GroupLimits.silence_s` (pulse.py).
"""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainables.adapters.attempt import Abandoned, InStep, attempt, free_memory
from trainables.adapters.machine import Gauge
from trainables.adapters.order import End, Order
from trainables.adapters.output import output_in
from trainables.adapters.pulse import hold
from trainables.adapters.reporter import Channel, ChannelReporter, Failure
from tune.core.errors import RetryTrial
from tune.core.ports import Answer, Decision, Question

_HOST_LOST, _DEVICE_SILENT = 71, 72  # exit statuses
_DEVICE_ANSWERS_WITHIN_S = 120.0


def work(config: dict[str, Any]) -> None:
    """`config`: host (actor handle), generation, cpus_per_worker, gpus_per_worker, silence_s."""
    import psutil
    import ray
    import ray.train
    import ray.train.torch
    import torch

    from trainables.adapters.resident import RESIDENT
    from trainables.torchvision_ops import ensure_torchvision_ops

    host, generation = config["host"], config["generation"]
    context = ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    device = str(ray.train.torch.get_device())
    _see_that_it_answers(device)
    keep_to_share(device, config["gpus_per_worker"])
    torch.set_num_threads(max(1, int(config["cpus_per_worker"])))
    ensure_torchvision_ops()
    threading.Thread(target=_leave_with, args=(host, generation, rank, config["silence_s"]), daemon=True).start()
    process, gauge = psutil.Process(), Gauge(device)
    runtime = ray.get_runtime_context()
    facts = {
        "pid": process.pid,
        "began": process.create_time(),
        "node": runtime.get_node_id(),
        "actor": runtime.current_actor,
        "placement_group": ray.util.get_current_placement_group(),
    }
    gc.collect()
    gc.freeze()  # what was imported stays; cleaning up after a trial need not walk it again
    ray.get(host.join.remote(generation, rank, facts))
    order: Order | None
    while (order := ray.get(host.take.remote(generation, rank))) is not None:
        with output_in(Path(order.workdir), rank, _head(order, rank)):
            end = watched(order, _HostChannel(host, generation, rank, gauge), gauge, rank, world_size, device)
            free_memory()
        ray.get(host.end.remote(generation, rank, end, process.memory_info().rss - RESIDENT.held_bytes()))


def keep_to_share(device: str, share: float) -> None:
    """Of a GPU that several trials share: more of its memory than this process has of it is not to be had, here or by `auto` sizes."""
    import torch

    if device.startswith("cuda") and 0 < share < 1:
        torch.cuda.set_per_process_memory_fraction(share, device)


def _head(order: Order, rank: int) -> str:
    """The line that an attempt's output begins with; a trial of several attempts has them one after the other."""
    return f"== {order.trial}, attempt {order.attempt}, rank {rank}, {time.strftime('%Y-%m-%d %H:%M:%S %z')}"


def watched(order: Order, channel: Channel, gauge: Gauge, rank: int, world_size: int, device: str) -> End:
    """The attempt, its GPU looked at all the while; in a frame of its own, so that nothing of it lives on when memory is freed."""
    with gauge.watch():
        return attempt(order, ChannelReporter(order, channel, rank, world_size, device))


class _HostChannel:
    """The ranks of a trial meet at the group's host."""

    def __init__(self, host: Any, generation: int, rank: int, gauge: Gauge):
        self._host, self._generation, self._rank = host, generation, rank
        self._gauge = gauge

    def meet(self, what: str, failure: Failure | None) -> None:
        import ray

        self._heard(ray.get(self._host.meet.remote(self._generation, self._rank, what, failure)))

    def report(self, step: int, metrics: Mapping[str, float], failure: Failure | None) -> Decision:
        import ray

        reading = self._gauge.read()
        return self._heard(ray.get(self._host.report.remote(self._generation, self._rank, step, dict(metrics), failure, reading)))

    def ask(self, question: Question) -> Answer:
        import ray

        answer = ray.get(self._host.ask.remote(self._generation, self._rank, question))
        if answer == ("leave",):
            raise Abandoned("abandoned", "the trial was let go")
        return answer[0]

    def _heard(self, answer: tuple[Any, ...]) -> Decision:
        match answer:
            case ("decision", decision):
                return decision
            case ("fail", reason, detail, True):
                raise InStep(reason, detail)
            case ("fail", reason, detail, False):  # another rank's end, which says how grave it is
                raise RetryTrial(reason, detail)
            case ("moves", reason, detail):
                raise Abandoned(reason, detail)
        raise Abandoned("abandoned", "the trial was let go")


def _see_that_it_answers(device: str) -> None:
    """A device that computes nothing, or does not come back, is no worker's: the process ends."""
    import torch

    timer = threading.Timer(_DEVICE_ANSWERS_WITHIN_S, os._exit, (_DEVICE_SILENT,))
    timer.daemon = True
    timer.start()
    torch.ones(1, device=device).sum().item()
    timer.cancel()


def _leave_with(host: Any, generation: int, rank: int, silence_s: float) -> None:
    """End this process when its host is gone, has given it up, or cannot be heard."""
    import ray

    stay = host.stay.remote(generation)

    def beat(within_s: float) -> bool:
        try:
            return bool(ray.get(host.beat.remote(generation, rank), timeout=within_s))
        except ray.exceptions.RayError:  # a timeout is one
            return False

    def pause(seconds: float) -> bool:
        gone, _ = ray.wait([stay], timeout=seconds)
        return not gone

    hold(beat, pause, silence_s)
    os._exit(_HOST_LOST)
