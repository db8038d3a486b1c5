"""Ends a worker's process and makes sure of it, on the worker's own node: Ray's word that an actor is dead may come before the end of
its process, and comes for all actors of a node that cannot be reached, where they live on.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any

import psutil
import ray
import ray.exceptions
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

_ENDS_WITHIN_S = 5.0
_SAME_WITHIN_S = 2.0  # of two readings: the machine's clock may have been set between them
_ANSWERS_WITHIN_S = 60.0  # a node that lives: a process has to start there, on a machine that may be busy


async def end_worker(worker: dict[str, Any]) -> bool:
    """Kill it. `worker`: pid, began, node, actor, as it joined with them.

    True: its process has ended, as was seen on its node. False: nobody there answered, or it cannot be killed just now. Ray is told
    as well, so that what waits for the actor need not wait for the node.
    """
    there = NodeAffinitySchedulingStrategy(worker["node"], soft=False)
    try:
        ray.kill(worker["actor"])
        if worker["node"] == ray.get_runtime_context().get_node_id():
            return await asyncio.to_thread(end_process, worker["pid"], worker["began"])
        ended = _end_process.options(scheduling_strategy=there).remote(worker["pid"], worker["began"])
        return bool(await asyncio.wait_for(ended, _ANSWERS_WITHIN_S))
    except (ray.exceptions.RayError, asyncio.TimeoutError):
        return False


def end_process(pid: int, began: float) -> bool:
    """SIGKILL to the process of this number that began at that unix time, if there is one. Whether there is none any more."""
    until_s = time.monotonic() + _ENDS_WITHIN_S
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        if abs(process.create_time() - began) > _SAME_WITHIN_S:
            return True
        process.kill()
        while process.status() != psutil.STATUS_ZOMBIE:
            if time.monotonic() > until_s:
                return False
            time.sleep(0.01)
    return True


_end_process = ray.remote(num_cpus=0, max_retries=0)(end_process)
