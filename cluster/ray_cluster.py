"""Starts a Ray on this machine or joins a running one; says what its nodes have; leaves no trace.

Authentication is explicit in every mode. A local Ray has token authentication with a token that lives in this process's
environment only, so no token file is left to change a later `ray start`. A running Ray is joined with the token that Ray itself
would find, or without one. Packages at the repository root import on every worker without being installed.
"""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray

from cluster.auth import for_running_cluster, set_environment
from cluster.placement import NodeFree, node_of
from tune.core.errors import Problem, UserError

ROOT = Path(__file__).resolve().parents[1]
_PACKAGES = ("tune", "trainables", "cluster")
_KNOCK_S = 10.0
_TOKEN = secrets.token_hex(32)  # one a process: Ray's loader keeps the first that it sees


@dataclass(frozen=True)
class Connection:
    """`local`: this process started the Ray and ends it. `environment`: what `disconnect` puts back."""

    local: bool
    address: str
    environment: Mapping[str, str | None]


def connect(address: str | None, cpus: float | None = None, gpus: float | None = None, dashboard: bool = False) -> Connection:
    """Start a Ray here (address None or "local"; `cpus` and `gpus` bound what it may use) or join the one at `address`.

    Raises UserError when nothing answers at `address`, or when bounds are given for a cluster that is already running.
    """
    local = address in (None, "local")
    _refuse(address, cpus, gpus, local)
    environment = set_environment(_local_environment() if local else for_running_cluster())
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": True}
    if local:
        options |= {"address": "local", "num_cpus": cpus, "num_gpus": gpus, "include_dashboard": dashboard}
    else:
        options |= {"address": address}
        if "RAY_JOB_CONFIG_JSON_ENV_VAR" not in os.environ:  # a submitted job brings its working directory
            options["runtime_env"] = {"py_modules": [str(ROOT / name) for name in _PACKAGES]}
    try:
        _knock(address)
        context = ray.init(**options)
    except OSError as error:  # ConnectionError is one
        set_environment(environment)
        fix = "start a cluster there (`ray start --head`), give its address, or use `cluster: local`"
        raise UserError(Problem("cluster.address", f"{address}: {str(error).splitlines()[0]}", fix)) from None
    return Connection(local, context.address_info["address"] or str(address), environment)


def nodes() -> list[NodeFree]:
    """The living nodes with the CPUs and GPUs that a study may use on them, in a stable order.

    That is what Ray counts there, less the CPUs that this driver holds for itself as a job (`phasetune submit --entry-cpus`): they would
    never come free for a group. Nodes that are drained are left out: Ray starts nothing there any more.
    """
    mine = os.environ.get("PHASETUNE_ENTRY_CPUS")
    here = ray.get_runtime_context().get_node_id()
    idle = ray._private.state.available_resources_per_node()
    drained = ray._private.state.state.get_draining_nodes()
    found = []
    for node in ray.nodes():
        if node["Alive"] and node["NodeID"] not in drained:
            name, resources = f"{node['NodeManagerHostname']}:{node['NodeID'][-6:]}", node["Resources"]
            held = float(mine) if mine and node["NodeID"] == here else 0.0
            now = idle.get(node["NodeID"])
            whole = node_of(name, resources, node["Labels"])
            found.append(replace(whole, cpus=max(0.0, whole.cpus - held)))
            if now is not None:
                found[-1] = replace(found[-1], idle_cpus=now.get("CPU", 0), idle_gpus=now.get("GPU", 0))
    return sorted(found, key=lambda node: node.name)


def disconnect(connection: Connection) -> None:
    """Leave the cluster (a local one ends) and put the environment back. Does nothing the second time."""
    if ray.is_initialized():
        ray.shutdown()
        set_environment(connection.environment)


def _refuse(address: str | None, cpus: float | None, gpus: float | None, local: bool) -> None:
    problems = []
    if not local and (cpus is not None or gpus is not None):
        fix = "remove cluster.cpus and cluster.gpus, or use `cluster: local`"
        problems.append(Problem("cluster.cpus", f"a bound for the running cluster {address}", fix))
    if address is not None and address.startswith("ray://"):
        fix = "submit the study as a job, or give the address of the cluster's head without ray://"
        problems.append(Problem("cluster.address", f"{address} (a Ray Client address)", fix))
    if ray.is_initialized():
        problems.append(Problem("cluster", "this process is connected to a Ray already", "disconnect first"))
    if problems:
        raise UserError(problems)


def _knock(address: str | None) -> None:
    """Raises OSError at once where Ray would try for minutes."""
    host, _, port = (address or "").rpartition(":")
    if port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_KNOCK_S).close()


def _local_environment() -> dict[str, str]:
    paths = [str(ROOT), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    ours = {"PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)), "RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS": "0"}
    if "RAY_AUTH_MODE" not in os.environ:
        ours |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": _TOKEN}
    return ours
