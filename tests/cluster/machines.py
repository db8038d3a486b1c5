"""A Ray cluster of several nodes on this machine, each with processes of its own that can be killed: head, workers, dashboard, token.

Nothing is shared with another Ray here: own ports, own folder, own token. Only processes that were started here are ever killed.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import psutil

ROOT = Path(__file__).resolve().parents[2]
# A dead node is noticed within two seconds instead of Ray's twenty.
QUICK = {"RAY_health_check_initial_delay_ms": "0", "RAY_health_check_period_ms": "500", "RAY_health_check_failure_threshold": "3"}
WITHIN_S = 240.0  # on a machine that is busy with other things
Found = TypeVar("Found")
M = TypeVar("M", bound="Machines")


class Machines:
    """A head without CPUs and a worker node for each entry of `workers` (its CPUs); a context manager."""

    def __init__(self, workers: Sequence[int], resources: str = "{}"):
        self.folder = Path(tempfile.mkdtemp(prefix="pt-", dir="/tmp"))  # socket paths must be short
        self.token = secrets.token_hex(32)
        self._workers, self._resources = workers, resources
        self._head_environment: dict[str, str] = {}
        self._host = "127.0.0.1"
        self._held: list[socket.socket] = []
        self._port, self._dashboard_port = self._ports(2)
        self.url = f"http://127.0.0.1:{self._dashboard_port}"
        self._processes: list[psutil.Process] = []
        self._nodes: list[psutil.Process] = []
        self._n_started = 0

    @property
    def address(self) -> str:
        """Of the head, for `ray.init`."""
        return f"{self._host}:{self._port}"

    @property
    def environment(self) -> dict[str, str]:
        """For whoever talks to this cluster; `python` and `ray` are this test's own."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "PHASETUNE_"))}
        path = f"{Path(sys.executable).parent}{os.pathsep}{kept.get('PATH', '')}"
        ours = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token, "RAY_USAGE_STATS_ENABLED": "0"}
        return kept | ours | {"PATH": path, "RAY_worker_niceness": "0"}  # 15 is Ray's: its workers starve beside other tests

    def __enter__(self: M) -> M:
        try:
            dashboard = ["--dashboard-host", "127.0.0.1", "--dashboard-port", str(self._dashboard_port)]
            self._start("head", [*self._head_words(), *dashboard, "--num-cpus", "0"], self._head_environment)
            until(self._dashboard_answers, "the dashboard answers", WITHIN_S)
            self._n_started = 0
            for cpus in self._workers:
                self._start_node(cpus)
            for i in range(self._n_started):
                self._wait_for(f"node{i}")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for process in reversed(self._processes):
            kill_tree(process)
        for one in self._held:
            one.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def run(
        self, *words: str, environment: Mapping[str, str] | None = None, timeout_s: float = WITHIN_S
    ) -> subprocess.CompletedProcess[str]:
        """`python -m tune ...` on this machine, in the checkout."""
        command = [sys.executable, "-m", "tune", *words]
        given = self.environment if environment is None else dict(environment)
        return subprocess.run(command, cwd=ROOT, env=given, capture_output=True, text=True, timeout=timeout_s, check=False)

    def node_with(self, process: psutil.Process) -> int:
        """The number of the worker node of which `process` is a part."""
        above = {parent.pid for parent in process.parents()}
        [i] = [i for i, node in enumerate(self._nodes) if node.pid in above]
        return i

    def kill_node(self, i: int) -> None:
        """Kill a worker node, all of it, as a lost machine."""
        kill_tree(self._nodes[i])

    def living_nodes(self) -> list[int]:
        """Numbers of the worker nodes that have not been killed."""
        return [i for i, node in enumerate(self._nodes) if node.is_running() and node.status() != psutil.STATUS_ZOMBIE]

    def add(self, cpus: int = 1) -> None:
        """A further worker node."""
        self._wait_for(self._start_node(cpus))

    def processes(self, *words: str) -> list[psutil.Process]:
        """Those of the worker nodes whose command line holds all of `words`."""
        found = []
        for node in self._nodes:
            with contextlib.suppress(psutil.NoSuchProcess):
                for child in node.children(recursive=True):
                    with contextlib.suppress(psutil.NoSuchProcess):
                        line = child.cmdline()
                        if all(word in line for word in words):
                            found.append(child)
        return found

    def _head_words(self) -> list[str]:
        return ["--head", "--port", str(self._port)]

    def _place(self) -> tuple[list[str], list[str]]:
        """Of the next worker node: words before its command, and further ones of `ray start`."""
        return [], []

    def _start_node(self, cpus: int) -> str:
        name = f"node{self._n_started}"
        before, more = self._place()
        words = ["--address", self.address, "--num-cpus", str(cpus), "--resources", self._resources, *more]
        self._nodes.append(self._start(name, words, before=before))
        self._n_started += 1
        return name

    def _wait_for(self, name: str) -> None:
        log = self.folder / f"{name}.log"
        until(lambda: "Ray runtime started" in log.read_text(errors="replace"), f"{name} is up", WITHIN_S)

    def _start(self, name: str, words: list[str], more: Mapping[str, str] | None = None, before: Sequence[str] = ()) -> psutil.Process:
        ray = str(Path(sys.executable).parent / "ray")
        agent = ["--dashboard-agent-listen-port", str(self._ports(1)[0])]  # by default all nodes of a machine would share one
        disk = ["--temp-dir", str(self.folder / name)]  # nor do machines unpack an archive into the same folder at the same time
        command = [*before, ray, "start", "--block", "--disable-usage-stats", *agent, *disk, *words]
        with (self.folder / f"{name}.log").open("w") as log:
            started = subprocess.Popen(
                command,
                env=self.environment | QUICK | dict(more or {}),
                cwd=self.folder,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._processes.append(psutil.Process(started.pid))
        return self._processes[-1]

    def _ports(self, n: int) -> list[int]:
        held = hold_ports(n)
        self._held += held
        return [one.getsockname()[1] for one in held]

    def _dashboard_answers(self) -> bool:
        try:
            urllib.request.urlopen(f"{self.url}/api/version", timeout=2).close()
        except urllib.error.HTTPError:
            return True  # it asks for the token
        except OSError:
            return False
        return True


def until(look: Callable[[], Found], what: str, timeout_s: float) -> Found:
    """What `look` finds once it finds something."""
    end = time.monotonic() + timeout_s
    while not (found := look()):
        if time.monotonic() > end:
            raise AssertionError(f"not within {timeout_s:g} s: {what}")
        time.sleep(0.1)
    return found


def kill_tree(process: psutil.Process) -> None:
    """SIGKILL to a process and everything below it."""
    tree = []
    with contextlib.suppress(psutil.NoSuchProcess):
        tree = [process, *process.children(recursive=True)]
    for one in tree:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
    psutil.wait_procs(tree, timeout=5)


def hold_ports(n: int) -> list[socket.socket]:
    """Bound to different free ports of this machine's loopback, and not listening: until one is closed, the kernel gives its port to
    nobody who asks for any, while who asks for this very one (with SO_REUSEADDR, as servers do) gets it."""
    held = []
    for _ in range(n):
        held.append(socket.socket())
        held[-1].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held[-1].bind(("127.0.0.1", 0))
    return held
