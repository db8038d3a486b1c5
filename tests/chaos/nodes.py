"""A cluster of several nodes on this machine that loses raylets, nodes and its head, and gets new ones."""

from __future__ import annotations

import psutil

from tests.cluster.machines import Machines, kill_tree


class Nodes(Machines):
    """`Machines` whose parts can be lost and replaced. Every node has so many CPUs; the head has none."""

    def __init__(self, n: int, cpus: int = 1):
        super().__init__([cpus] * n)

    def kill_raylet_above(self, worker: psutil.Process) -> None:
        """SIGKILL of the raylet alone that `worker` belongs to."""
        [raylet] = [parent for parent in worker.parents() if parent.name() == "raylet"]
        raylet.kill()

    def kill_head(self) -> None:
        kill_tree(self._processes[0])

    def start_again(self) -> None:
        """All of it anew, at the same address."""
        for process in reversed(self._processes):
            kill_tree(process)
        self._processes.clear()
        self._nodes.clear()
        self.__enter__()
