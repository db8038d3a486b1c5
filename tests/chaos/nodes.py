"""A cluster of several nodes on this machine that loses raylets, nodes and its head, and gets new ones."""

from __future__ import annotations

import contextlib
import select
import subprocess
import sys
import time

import psutil

from tests.cluster.machines import WITHIN_S, Machines, kill_tree

# Of its own, since Ray keeps the first token that a process sees; there before it is needed, since importing Ray takes seconds.
_DRAINER = """
import sys, time
from ray._raylet import GcsClient
from ray.core.generated.autoscaler_pb2 import DrainNodeReason

def drain(address, folder, within_s):
    gcs = GcsClient(address=address)
    [node] = [key for key, node in gcs.get_all_node_info().items() if f"/{folder}/" in node.raylet_socket_name and node.state == 0]
    preemption = DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    accepted, why_not = gcs.drain_node(node.hex(), preemption, "reclaimed", round((time.time() + float(within_s)) * 1000))
    return "drained" if accepted else why_not

print("ready", flush=True)
for line in sys.stdin:
    print(drain(*line.split()), flush=True)
"""


class Nodes(Machines):
    """`Machines` whose parts can be lost and replaced. Every node has so many CPUs; the head has none."""

    def __init__(self, n: int, cpus: int = 1, with_redis: bool = False):
        """with_redis: the control plane keeps what it knows in a Redis of its own, so that it may be started again."""
        super().__init__([cpus] * n)
        self._beside: list[psutil.Process] = []
        self._redis_port = self._ports(1)[0] if with_redis else None
        self._drainer: subprocess.Popen[str] | None = None

    def __enter__(self) -> Nodes:
        if self._redis_port is not None and not self._beside:
            bare = ["--port", str(self._redis_port), "--bind", "127.0.0.1", "--save", "", "--dir", str(self.folder)]
            redis = subprocess.Popen(["redis-server", *bare], stdout=subprocess.DEVNULL, start_new_session=True)
            self._beside.append(psutil.Process(redis.pid))
            self._head_environment["RAY_REDIS_ADDRESS"] = f"127.0.0.1:{self._redis_port}"
        is_new = self._drainer is None  # not if all is started again
        self._drainer = self._drainer or self._start_drainer()
        super().__enter__()
        try:
            if is_new:
                self._drainer_says("ready")
        except BaseException:
            Nodes.__exit__(self)
            raise
        return self

    def __exit__(self, *what: object) -> None:
        if self._drainer is not None:
            self._drainer.kill()
            self._drainer.communicate()  # closes the pipes, and waits
            self._drainer = None
        for process in self._beside:
            kill_tree(process)
        super().__exit__(*what)

    def kill_raylet_above(self, worker: psutil.Process) -> None:
        """SIGKILL of the raylet alone that `worker` belongs to."""
        [raylet] = [parent for parent in worker.parents() if parent.name() == "raylet"]
        raylet.kill()

    def drain(self, i: int, within_s: float) -> None:
        """Tell the control plane, as a cloud's notice does, that the worker node of this number goes away in so many seconds."""
        assert self._drainer is not None and self._drainer.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # what it said last tells why
            self._drainer.stdin.write(f"{self.address} node{i} {within_s}\n")
            self._drainer.stdin.flush()
        self._drainer_says("drained")

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

    def _start_drainer(self) -> subprocess.Popen[str]:
        """It drains a node for each line "address node0 seconds" that it is given."""
        with (self.folder / "drainer.log").open("w") as log:
            words = [sys.executable, "-c", _DRAINER]
            pipe = subprocess.PIPE
            return subprocess.Popen(words, env=self.environment, stdin=pipe, stdout=pipe, stderr=log, text=True, start_new_session=True)

    def _drainer_says(self, word: str) -> None:
        """Wait for its next line, which is to be this one."""
        assert self._drainer is not None and self._drainer.stdout is not None
        there, _, _ = select.select([self._drainer.stdout], [], [], WITHIN_S)
        said = self._drainer.stdout.readline().strip() if there else f"nothing within {WITHIN_S:g} s"
        assert said == word, f"the drainer said {said!r}: {(self.folder / 'drainer.log').read_text(errors='replace')[-2000:]}"
