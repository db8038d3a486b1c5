"""A study that grows on a cluster whose nodes Ray's own autoscaler (version 2) starts and ends: raylets here, but its decisions are real.

    python -m tests.cluster.autoscaled                       # two minutes
    python -m tests.cluster.autoscaled --dir DIR             # keep the study and Ray's logs of the autoscaler

There is one node of one CPU and the autoscaler may have two; the study asks for three trials at a time. A line as soon as something
happens: a node comes or goes, a group is asked for, comes up or is let go. Exit code 1 if a promise is broken: the study ends done, it
ran two trials at a time, and the second node was given back while the study still ran.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
import ray._private.services

from tests.cluster.grown import Grown, at_once, states
from tests.cluster.machines import Machines, until
from tune.core.journal import Entry, GroupNoted, Started

STUDY = """
study: {name: autoscaled, seed: 3}
metric: {name: val/score, mode: max}
budget: {trials: 6}
cluster: {gpus_per_worker: 0, autoscale: {max_trials: 3, idle_s: 3}}
sampler: {kind: random}
scheduler: {kind: asha, grace: 5, factor: 4}
trainable: {kind: curve, epochs: 40, step_seconds: 1}
space:
  lr: {float: [1e-5, 1e-1], log: true}
first: [{lr: 1e-3}, {lr: 5e-5}, {lr: 4e-5}, {lr: 3e-5}, {lr: 2e-5}, {lr: 1e-2}]  # good: the first and the last, which then runs alone
"""
IDLE_MINUTES = 0.1  # after which the autoscaler takes a node that nobody uses
PROVIDER = (
    "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"  # as `fake_multinode`, whose defaults the wheel lacks
)
HEAD = "f" * 51 + "0" * 5  # the id that this provider of nodes gives to the head


class Autoscaled(Machines):
    """A head without CPUs whose autoscaler keeps `least` nodes of one CPU and starts up to `most`."""

    def __init__(self, least: int, most: int):
        super().__init__(workers=[])
        provider = {"type": "external", "module": PROVIDER, "gcs_address": f"{ray._private.services.get_node_ip_address()}:{self._port}"}
        types = {
            "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "node": {"resources": {"CPU": 1}, "node_config": {}, "min_workers": least, "max_workers": most},
        }
        config = {
            "cluster_name": "fake",
            "max_workers": most,
            "idle_timeout_minutes": IDLE_MINUTES,
            "upscaling_speed": 1.0,
            "provider": provider | {"launch_multiple": True, "head_node_id": HEAD},
            "available_node_types": types,
            "head_node_type": "ray.head.default",
            "auth": {},
            "docker": {},
            "file_mounts": {},
            "cluster_synced_files": [],
            "file_mounts_sync_continuously": False,
            "rsync_exclude": [],
            "rsync_filter": [],
            "initialization_commands": [],
            "setup_commands": [],
            "head_setup_commands": [],
            "worker_setup_commands": [],
            "head_start_ray_commands": [],
            "worker_start_ray_commands": [],
        }
        (self.folder / "autoscaling.json").write_text(json.dumps(config))
        self._head_environment = {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
        ids = {"RAY_CLOUD_INSTANCE_ID": HEAD, "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD}
        self._head_environment |= {"RAY_enable_autoscaler_v2": "1", **ids}

    def _head_words(self) -> list[str]:
        return [*super()._head_words(), "--autoscaling-config", str(self.folder / "autoscaling.json")]

    def n_nodes(self) -> int:
        """Nodes besides the head."""
        raylets = 0
        for child in self._processes[0].children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                raylets += child.name() == "raylet" and child.status() != psutil.STATUS_ZOMBIE
        return raylets - 1

    def keep_logs(self, folder: Path) -> None:
        for log in (self.folder / "head").glob("session_2*/logs/monitor*"):
            shutil.copy(log, folder)


def _news(past: Sequence[Entry]) -> list[str]:
    told = []
    for entry in past:
        match entry.event:
            case GroupNoted(slot, what, detail) if what != "started":
                told.append(f"group {slot} {what}: {detail}")
            case Started(trial, _, slot):
                told.append(f"{trial} begins on group {slot}")
    return told


def play(machines: Autoscaled, folder: Path) -> list[str]:
    """The study from its start until the nodes are as few as before it. Returns the promises that were broken."""
    began, broken = time.monotonic(), list[str]()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - began:5.1f} s] {text}", flush=True)

    until(lambda: machines.n_nodes() == 1, "the autoscaler's first node", 60)
    say("1 node is up")
    nodes, most, n_told, given_back = 1, 1, 0, False
    with Grown(machines, STUDY, folder) as grown:
        while (code := grown.exit_code()) is None:
            news, now = _news(grown.entries()), machines.n_nodes()
            for text in news[n_told:]:
                say(text)
            n_told = max(n_told, len(news))
            if now != nodes:
                say(f"{now} node{'s' if now != 1 else ''} up")
                given_back |= now < nodes
                nodes, most = now, max(most, now)
            if time.monotonic() - began > 300:
                return ["the study did not end within 300 s"]
            time.sleep(0.2)
        past = grown.entries()
        say(f"the study ends with exit code {code}: {', '.join(states(past))}; at most {at_once(past)} trials at a time on {most} nodes")
    if code or len(states(past)) != 6:
        broken.append(f"the study did not end well: {grown.said()[-2000:]}")
    if at_once(past) != 2 or most != 2:
        broken.append(f"{at_once(past)} trials at a time on {most} nodes instead of 2 on 2")
    if not given_back:
        broken.append("the second node was not given back while the study ran")
    until(lambda: machines.n_nodes() == 1, "the second node is given back", 60)
    say("1 node is up after the study")
    return broken


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "python -m tests.cluster.autoscaled", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dir", type=Path, help="keep the study and logs there; else they are gone at the end")
    args = parser.parse_args(words)
    with tempfile.TemporaryDirectory(prefix="autoscaled-") as folder, Autoscaled(1, 2) as machines:
        kept = (args.dir or Path(folder)).resolve()
        try:
            broken = play(machines, kept)
        finally:
            kept.mkdir(parents=True, exist_ok=True)
            machines.keep_logs(kept)
    for promise in broken:
        print(f"BROKEN {promise}")
    print(f"{len(broken)} promises broken")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
