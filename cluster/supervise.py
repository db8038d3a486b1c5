"""The entry point of a submitted study: keeps a driver at work on it, wherever in the cluster, until the study says that it is over.

It runs where Ray puts a job without resources, on the head, and does nothing but start the driver as a job of its own, pass on what
that prints, and start the next one when the driver's node or process is lost or it could not be started (`cluster.attempt` then
resumes). A dashboard that is away is waited for. What the study itself says is final: done, failed, a user's mistake, stopped by a
person. Ends with the driver's exit code.

    python -m cluster.supervise --job NAME --attempts 5 [--entry-cpus 1] -- python -m cluster.attempt ...
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from cluster.jobs import Job, JobState, NodeState, Said, Say, UnknownJob, reach_from_job
from tune.core.errors import UserError

_INTERRUPTED = 3
_FINAL_CODES = (0, 1, 2)
_NEVER_AGAIN = ("RUNTIME_ENV_SETUP_FAILURE", "JOB_SUPERVISOR_ACTOR_UNSCHEDULABLE", "JOB_ENTRYPOINT_COMMAND_START_ERROR")
_NODE_LEAVES_WITHIN_S = 10.0  # of the SIGTERM that it gave its processes
_PAUSE_S = 2.0
_DASHBOARD_BACK_S = 20.0  # after it refused to start a driver: time for a restart
_DRIVER_GONE_S = 10.0  # after a driver was told to stop: Ray kills it in 3
_SENT_WITH_THE_JOB = ("working_dir", "env_vars", "pip")


class JobServer(Protocol):
    def start(self, job: Job) -> str: ...

    def hear(self, job_id: str, say: Say) -> JobState: ...

    def stop(self, job_id: str) -> None: ...

    def nodes(self) -> list[NodeState]: ...


@dataclass(frozen=True)
class Fate:
    """What an ended driver means: `code` to end with, or None to start the next one; `why` for people; whether it `started` at all."""

    code: int | None
    why: str
    started: bool = True


class Supervisor:
    """Drives attempts of one job. `pause(seconds)` waits; a test's does not."""

    def __init__(self, jobs: JobServer, job: Job, attempts: int, say: Say, pause: Callable[[float], None] = time.sleep):
        self._jobs, self._job, self._attempts, self._say, self._pause = jobs, job, attempts, say, pause
        self._now = ""
        self._told_to_stop = threading.Event()

    def run(self) -> int:
        """The exit code of design.md section 3."""
        for attempt in range(1, self._attempts + 1):
            fate = self._driver(attempt)
            if fate.code not in (0, _INTERRUPTED):
                self._say(f"[supervisor] {fate.why}\n")
            if fate.code is not None:
                return fate.code
            if fate.started:
                self._pause(_PAUSE_S)
            else:
                self._be_sure_of_none()
        self._say(f"[supervisor] {self._attempts} drivers were lost; go on with: phasetune submit --resume DIR\n")
        return _INTERRUPTED

    def stop(self) -> None:
        """Stop the driver, at a signal to this process, whatever `run` is at; the study stays resumable."""
        self._told_to_stop.set()
        if self._now:
            self._jobs.stop(self._now)

    def _driver(self, attempt: int) -> Fate:
        """One driver from its start to its end."""
        if self._told_to_stop.is_set():  # while there was none
            return Fate(_INTERRUPTED, "stopped")
        self._now = f"{self._job.id}-driver{attempt}"
        job = self._job
        try:
            self._jobs.start(Job(self._now, job.entrypoint, job.runtime_env, job.metadata, job.cpus, job.resources))
        except UserError as error:
            why = "; ".join(problem.got for problem in error.problems)
            self._jobs.stop(self._now)
            return Fate(
                _INTERRUPTED if self._told_to_stop.is_set() else None,
                f"the driver was not started ({why}); it is tried again",
                started=False,
            )
        if self._told_to_stop.is_set():  # while it was being started, when there was nothing to stop yet
            self._jobs.stop(self._now)
        self._say(f"[supervisor] driver {attempt} of at most {self._attempts}: {self._now}\n")
        return self._to_its_end()

    def _be_sure_of_none(self) -> None:
        """A driver whose start was refused may run all the same, where only the answer was lost: two of one study there must not be."""
        self._pause(_DASHBOARD_BACK_S)
        self._jobs.stop(self._now)
        self._pause(_DRIVER_GONE_S)

    def _to_its_end(self) -> Fate:
        said = Said(self._say)
        while True:
            try:
                state = self._jobs.hear(self._now, said.hear)
                break
            except UnknownJob as error:
                return Fate(_INTERRUPTED, "stopped") if self._told_to_stop.is_set() else Fate(None, f"the driver was lost ({error})")
            except OSError as error:
                self._say(f"[supervisor] {error}; listening on\n")
                said.from_the_start()
                if self._told_to_stop.is_set():
                    self._jobs.stop(self._now)
        fate = self._fate(state)
        if fate.code not in (0, _INTERRUPTED) and state.message and not said.anything:
            self._say(f"{state.message}\n")
        return fate

    def _fate(self, state: JobState) -> Fate:
        if self._told_to_stop.is_set() or state.status == "STOPPED":
            return Fate(_INTERRUPTED, "stopped")
        if state.status == "SUCCEEDED":
            return Fate(0, "done")
        if state.exit_code in _FINAL_CODES:
            return Fate(state.exit_code, f"the driver ended with exit code {state.exit_code}")
        if state.error in _NEVER_AGAIN:
            return Fate(1, f"the driver could not start: {state.error}: {state.message}")
        if state.exit_code == _INTERRUPTED and not self._loses(state.node):
            return Fate(_INTERRUPTED, "interrupted")
        message = (state.message.splitlines() or [""])[0][:200]
        lost = f"exit code {state.exit_code}" if state.exit_code is not None else f"{state.error}: {message}"
        return Fate(None, f"the driver was lost ({lost}); it is started again and resumes")

    def _loses(self, node_id: str | None) -> bool:
        """A driver that was interrupted: by a person, or by its node on the way out?"""
        for _ in range(int(_NODE_LEAVES_WITHIN_S)):
            with contextlib.suppress(OSError, ValueError, KeyError):
                if not any(node.alive and node.id == node_id for node in self._jobs.nodes()):
                    return True
            self._pause(1.0)
        return False


def sent_with_this_job(environment: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """The part of this job's runtime environment that its driver gets as well: the archive, the named variables, the packages."""
    own = json.loads(environment.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")).get("runtime_env", {})
    return {name: own[name] for name in _SENT_WITH_THE_JOB if name in own}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m cluster.supervise", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--job", required=True)
    parser.add_argument("--attempts", required=True, type=int)
    parser.add_argument("--entry-cpus", type=float)
    parser.add_argument("--entry-resource", action="append", default=[], metavar="NAME=AMOUNT")
    parser.add_argument("words", nargs="+", metavar="-- COMMAND")
    given = parser.parse_args()
    resources = {name: float(amount) for name, amount in (text.split("=", 1) for text in given.entry_resource)}
    job = Job(given.job, shlex.join(given.words), sent_with_this_job(), {"phasetune": given.job}, given.entry_cpus, resources)

    def say(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    supervisor = Supervisor(reach_from_job(), job, given.attempts, say)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: supervisor.stop())
    return supervisor.run()


if __name__ == "__main__":
    sys.exit(main())
