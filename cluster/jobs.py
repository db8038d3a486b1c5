"""Ray's job server, as the client here and the supervisor there use it: reach it, start a job, hear it to its end, stop it.

Whatever keeps it from being reached (nothing listens, no token, a wrong token, something that is not Ray, another version of Ray) is a
UserError with the fix, found before anything is sent. A dashboard that restarts while a job is heard is waited for.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray

from cluster import auth
from cluster.placement import NodeFree, node_of
from tune.core.errors import Problem, UserError
from tune.core.secrets import masked

_ANSWER_WITHIN_S = 15.0
_LAST_WORDS_S = 5.0  # for what a job that has ended still has to say
_GONE_AFTER_S = 120.0  # without an answer of the dashboard
_NOT_KNOWN = "status code 404"  # of Ray's client, which has one error for all that is refused
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_OVERRIDES = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")  # Ray's client takes these instead of the address that it is given
Say = Callable[[str], None]


@dataclass(frozen=True)
class JobState:
    """Where a job stands. `exit_code` is None if its process was lost, `error` is Ray's name for how."""

    status: str
    exit_code: int | None = None
    error: str | None = None
    message: str = ""
    node: str | None = None

    @property
    def ended(self) -> bool:
        return self.status in ("SUCCEEDED", "FAILED", "STOPPED")


@dataclass(frozen=True)
class NodeState:
    """A node as the dashboard knows it."""

    id: str
    name: str
    alive: bool
    head: bool
    resources: Mapping[str, float] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Job:
    """What is started. `entrypoint` is a shell command; without `cpus` and `resources` it runs on the head."""

    id: str
    entrypoint: str
    runtime_env: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    cpus: float | None = None
    resources: Mapping[str, float] = field(default_factory=dict)


class Jobs:
    """The job server at `url`. Make one with `reach` (from outside) or `reach_from_job` (inside a job).

    look_every_s: how often a job that is heard is asked for its state. gone_after_s: how long it may stay without an answer.
    """

    def __init__(self, url: str, client: Any, look_every_s: float = 1.0, gone_after_s: float = _GONE_AFTER_S):
        self.url, self._client, self._look_every_s, self._gone_after_s = url, client, look_every_s, gone_after_s

    def start(self, job: Job) -> str:
        """Start it and return its id. Raises UserError if the cluster refuses it."""
        try:
            return str(
                self._client.submit_job(
                    entrypoint=job.entrypoint,
                    submission_id=job.id,
                    runtime_env=dict(job.runtime_env),
                    metadata=dict(job.metadata),
                    entrypoint_num_cpus=job.cpus,
                    entrypoint_resources=dict(job.resources) or None,
                )
            )
        except (RuntimeError, ValueError, OSError) as error:
            fix = "see the head's dashboard log; a job of the same id is deleted with `ray job delete`"
            raise UserError(Problem(self.url, f"it refused the job: {str(error).strip().splitlines()[-1]}", fix)) from None

    def upload(self, archive: Path) -> str:
        """Send a zip unless the cluster has it. Returns the URI under which every node gets it."""
        environment = {"working_dir": str(archive)}
        try:
            self._client._upload_working_dir_if_needed(environment)
        except (RuntimeError, ValueError, OSError) as error:
            problem = Problem(self.url, f"the archive was not taken: {str(error).strip()}", "send less (--dry-run lists it), or try again")
            raise UserError(problem) from None
        return environment["working_dir"]

    def state(self, job_id: str) -> JobState:
        """Raises OSError while the dashboard does not answer, RuntimeError if it does not know the job."""
        info = self._client.get_job_info(job_id)
        return JobState(str(info.status.value), info.driver_exit_code, info.error_type, info.message or "", info.driver_node_id)

    def stop(self, job_id: str) -> None:
        """Ask it to stop; nothing happens if it has ended."""
        with contextlib.suppress(RuntimeError, OSError):
            self._client.stop_job(job_id)

    def nodes(self) -> list[NodeState]:
        """Every node that this cluster has had, dead ones too."""
        answer = json.loads(_get(self.url, "/api/v0/nodes?detail=1&limit=10000"))
        rows = answer["data"]["result"]["result"]
        return [
            NodeState(
                row["node_id"],
                f"{row['node_name']}:{row['node_id'][-6:]}",
                row["state"] == "ALIVE",
                bool(row.get("is_head_node")),
                row.get("resources_total") or {},
                row.get("labels") or {},
            )
            for row in rows
        ]

    def nodes_free(self) -> list[NodeFree]:
        """The living nodes as placement sees them; what is idle there the dashboard does not say."""
        return [node_of(node.name, node.resources, node.labels) for node in self.nodes() if node.alive]

    def hear(self, job_id: str, say: Say) -> JobState:
        """Pass on what the job prints until it ends.

        Raises OSError if the dashboard stays away for two minutes, UnknownJob if it answers all that time, and knows no such job.
        """
        return asyncio.run(self._hear(job_id, say))

    async def _hear(self, job_id: str, say: Say) -> JobState:
        said = Said(say)
        tail: asyncio.Task[None] | None = None
        answered = time.monotonic()
        while True:
            if tail is None or tail.done():
                if tail is not None:
                    tail.exception()  # taken note of: the tail is begun again
                tail = asyncio.create_task(self._tail(job_id, said))
            try:
                state = await asyncio.to_thread(self.state, job_id)
                answered = time.monotonic()
            except (OSError, RuntimeError) as error:
                if time.monotonic() - answered > self._gone_after_s:
                    tail.cancel()
                    if _NOT_KNOWN in str(error):
                        raise UnknownJob(f"{self.url} knows no job {job_id}") from None
                    raise OSError(f"{self.url} does not answer any more: {error}") from None
                state = JobState("UNKNOWN")
            if state.ended:
                await asyncio.wait([tail], timeout=_LAST_WORDS_S)
                if tail.done():
                    tail.exception()
                else:
                    tail.cancel()
                return state
            await asyncio.wait([tail], timeout=self._look_every_s)
            if tail.done():
                await asyncio.sleep(self._look_every_s)

    async def _tail(self, job_id: str, said: Said) -> None:
        said.from_the_start()
        async for chunk in self._client.tail_job_logs(job_id):
            said.hear(chunk)


class UnknownJob(OSError):
    """The job server has no such job, or has it no more: its end was missed."""


class Said:
    """A job's log always comes from its first character; what was passed on already is not passed on again."""

    def __init__(self, say: Say):
        self._say, self._passed, self._heard = say, 0, 0

    @property
    def anything(self) -> bool:
        """Whether the job has printed anything."""
        return self._passed > 0

    def from_the_start(self) -> None:
        self._heard = 0

    def hear(self, chunk: str) -> None:
        new = chunk[max(0, self._passed - self._heard) :]
        self._heard += len(chunk)
        if new:
            self._passed = self._heard
            self._say(new)


def reach(address: str, any_version: bool = False) -> Jobs:
    """The job server of the dashboard at `address` (http://HOST:PORT), seen to answer, to take our token and to be the Ray we have."""
    url = _url(address)
    mode = auth.for_running_cluster()
    _knock(url)
    theirs = _version(url)
    if theirs != ray.__version__ and not any_version:
        got = f"the cluster runs Ray {theirs}, this is Ray {ray.__version__}"
        fix = f"use an image with ray=={ray.__version__} (cluster/manifests), or `pip install ray=={theirs}` here; --any-versions goes on"
        raise UserError(Problem(f"--address {url}", got, fix))
    auth.set_environment(mode | dict.fromkeys(_OVERRIDES))
    return Jobs(url, _client(url))


def reach_from_job() -> Jobs:
    """The job server of the cluster that this process is a job of. Raises OSError if its dashboard does not answer from here."""
    from ray.dashboard.utils import get_address_for_submission_client

    auth.set_environment(auth.for_running_cluster())
    url = get_address_for_submission_client(None)
    return Jobs(url, _client(url))


def token_in_the_clear(url: str) -> bool:
    """A token goes to this address over plain HTTP and over a network."""
    parts = urllib.parse.urlsplit(url)
    return parts.scheme == "http" and parts.hostname not in _LOOPBACK and auth.token() is not None


def _client(url: str) -> Any:
    from ray.job_submission import JobSubmissionClient

    for name in ("ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk"):
        logging.getLogger(name).setLevel(logging.WARNING)  # what it uploads and when it hangs up is not for our users
    return JobSubmissionClient(url)


def _url(address: str) -> str:
    url = address if "://" in address else f"http://{address}"
    parts = urllib.parse.urlsplit(url)
    fix = "give the dashboard of the head: http://HOST:8265"
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.password:
        raise UserError(Problem("--address", f"'{masked(address)}'", f"{fix}; a token goes into {auth.TOKEN}"))
    try:
        port = parts.port or (443 if parts.scheme == "https" else 8265)
    except ValueError:
        raise UserError(Problem("--address", f"'{masked(address)}' has no such port", fix)) from None
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}:{port}"


def _knock(url: str) -> None:
    parts = urllib.parse.urlsplit(url)
    try:
        socket.create_connection((str(parts.hostname), int(parts.port or 0)), timeout=_ANSWER_WITHIN_S).close()
    except OSError as error:
        fix = (
            "is the head up, with its dashboard? It listens on the head's loopback unless told otherwise: forward it with "
            "`ssh -N -L 8265:127.0.0.1:8265 HEAD` or `kubectl port-forward svc/NAME-head-svc 8265`, then --address http://127.0.0.1:8265"
        )
        raise UserError(Problem(f"--address {url}", f"nothing answers: {error.strerror or error}", fix)) from None


def _version(url: str) -> str:
    try:
        return str(json.loads(_get(url, "/api/version"))["ray_version"])
    except urllib.error.HTTPError as error:
        if error.code == 401:
            raise UserError(Problem(f"--address {url}", "it asks for a token and got none", auth.HOW_TO_GIVE_IT)) from None
        if error.code == 403:
            raise UserError(Problem(f"--address {url}", "it does not take this token", auth.HOW_TO_GIVE_IT)) from None
        got = f"HTTP {error.code} for /api/version: no Ray dashboard"
    except (ValueError, KeyError, TypeError):
        got = "an answer that is not that of a Ray dashboard"
    except OSError as error:
        got = f"no answer: {error}"
    raise UserError(Problem(f"--address {url}", got, "give the dashboard of the head: http://HOST:8265, not its port 6379 or 10001"))


def _get(url: str, path: str) -> bytes:
    headers = {} if auth.token() is None or os.environ.get(auth.MODE) == "disabled" else {"Authorization": f"Bearer {auth.token()}"}
    request = urllib.request.Request(url + path, headers=headers)
    with urllib.request.urlopen(request, timeout=_ANSWER_WITHIN_S) as answer:
        body: bytes = answer.read()
    return body
