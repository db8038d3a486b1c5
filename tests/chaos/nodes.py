"""A cluster of several nodes on this machine that loses raylets, nodes and its head, and gets new ones."""

from __future__ import annotations

import psutil

from tests.cluster.machines import Machines, kill_tree, until


class Nodes(Machines):
    """`Machines` whose parts can be lost and replaced. Every node has so many CPUs; the head has none."""

    def __init__(self, n: int, cpus: int = 1):
        super().__init__([cpus] * n)
        self._cpus, self._n_started = cpus, n

    def __enter__(self) -> Nodes:
        super().__enter__()
        try:
            for i in range(len(self._workers)):
                self._wait_for(f"node{i}")
        except BaseException:
            self.__exit__()
            raise
        return self

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._port}"

    def add(self) -> None:
        """A further worker node."""
        words = ["--address", self.address, "--num-cpus", str(self._cpus), "--resources", self._resources]
        name = f"node{self._n_started}"
        self._nodes.append(self._start(name, words))
        self._n_started += 1
        self._wait_for(name)

    def kill_raylet_above(self, worker: psutil.Process) -> None:
        """SIGKILL of the raylet alone that `worker` belongs to."""
        [raylet] = [parent for parent in worker.parents() if parent.name() == "raylet"]
        raylet.kill()

    def kill_head(self) -> None:
        kill_tree(self._processes[0])

    def start_again(self) -> None:
        """All of it anew, at the same address."""
        n = len(self._workers)
        for process in reversed(self._processes):
            kill_tree(process)
        self._processes.clear()
        self._nodes.clear()
        self.__enter__()
        self._n_started = n

    def _wait_for(self, name: str) -> None:
        log = self.folder / f"{name}.log"
        until(lambda: "Ray runtime started" in log.read_text(errors="replace"), f"{name} is up", 60)
