"""A cluster of several nodes on this machine that loses raylets, nodes and its head, and gets new ones."""

from __future__ import annotations

import subprocess
import sys
import time

import psutil

from tests.cluster.machines import Machines, free_ports, kill_tree

_DRAIN = """
import sys, time
from ray._raylet import GcsClient
from ray.core.generated.autoscaler_pb2 import DrainNodeReason

address, folder, within_s = sys.argv[1], sys.argv[2], float(sys.argv[3])
gcs = GcsClient(address=address)
[node] = [key for key, node in gcs.get_all_node_info().items() if f"/{folder}/" in node.raylet_socket_name and node.state == 0]
preemption = DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
accepted, why_not = gcs.drain_node(node.hex(), preemption, "reclaimed", round((time.time() + within_s) * 1000))
sys.exit(0 if accepted else why_not)
"""


class Nodes(Machines):
    """`Machines` whose parts can be lost and replaced. Every node has so many CPUs; the head has none."""

    def __init__(self, n: int, cpus: int = 1, with_redis: bool = False):
        """with_redis: the control plane keeps what it knows in a Redis of its own, so that it may be started again."""
        super().__init__([cpus] * n)
        self._beside: list[psutil.Process] = []
        self._redis_port = free_ports(1)[0] if with_redis else None

    def __enter__(self) -> Nodes:
        if self._redis_port is not None and not self._beside:
            bare = ["--port", str(self._redis_port), "--bind", "127.0.0.1", "--save", "", "--dir", str(self.folder)]
            redis = subprocess.Popen(["redis-server", *bare], stdout=subprocess.DEVNULL, start_new_session=True)
            self._beside.append(psutil.Process(redis.pid))
            self._head_environment["RAY_REDIS_ADDRESS"] = f"127.0.0.1:{self._redis_port}"
        return super().__enter__()

    def __exit__(self, *what: object) -> None:
        for process in self._beside:
            kill_tree(process)
        super().__exit__(*what)

    def kill_raylet_above(self, worker: psutil.Process) -> None:
        """SIGKILL of the raylet alone that `worker` belongs to."""
        [raylet] = [parent for parent in worker.parents() if parent.name() == "raylet"]
        raylet.kill()

    def drain(self, i: int, within_s: float) -> None:
        """Tell the control plane, as a cloud's notice does, that the worker node of this number goes away in so many seconds."""
        words = [sys.executable, "-c", _DRAIN, self.address, f"node{i}", str(within_s)]
        subprocess.run(words, env=self.environment, check=True, timeout=60)

    def kill_head(self) -> None:
        kill_tree(self._processes[0])

    def restart_gcs(self, away_s: float) -> None:
        """SIGKILL of the control plane's process alone; the same command again after `away_s`."""
        head = self._processes[0]
        head.suspend()  # `ray start --block` would end the head's other processes
        [gcs] = [child for child in head.children() if child.name() == "gcs_server"]
        command, environment = gcs.cmdline(), gcs.environ()
        gcs.kill()
        time.sleep(away_s)
        with (self.folder / "gcs.log").open("w") as log:
            again = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        self._beside.append(psutil.Process(again.pid))

    def start_again(self) -> None:
        """All of it anew, at the same address."""
        for process in reversed(self._processes):
            kill_tree(process)
        self._processes.clear()
        self._nodes.clear()
        self.__enter__()
