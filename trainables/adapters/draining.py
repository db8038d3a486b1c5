"""Which nodes of the cluster are about to go away: those that Ray was told to drain (`ray drain-node`, an autoscaler, KubeRay on a
cloud's notice that a spot instance is reclaimed). Ray starts nothing new there; what runs may go on until the deadline.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping

import ray
import ray.exceptions

Draining = Mapping[str, float | None]  # node id -> unix time of its end, None where nobody has said
AskDraining = Callable[[], Awaitable[Draining]]


async def no_node_is_drained() -> Draining:
    return {}


async def draining_nodes() -> Draining:
    """One small question to the control plane. Nothing while that is away; then nodes are not drained either."""
    try:
        deadlines_ms = await asyncio.to_thread(lambda: ray._private.state.state.get_draining_nodes())
    except (ray.exceptions.RayError, RuntimeError):
        return {}
    return {node: deadline_ms / 1000 if deadline_ms else None for node, deadline_ms in deadlines_ms.items()}


def said_of(node: str, deadline: float | None) -> str:
    until = "" if deadline is None else f" and goes away at {time.strftime('%H:%M:%S', time.localtime(deadline))}"
    return f"node {node[-6:]} is drained{until}"
