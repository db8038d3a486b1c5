"""Sends a study to a cluster: what travels, in which environment, under which command; then starts it and listens.

`prepare` looks at this machine alone (`--dry-run` shows what it found); `send` uploads and starts. Only variables that are named travel.
The command on the cluster is `cluster.supervise`, which keeps a driver (`cluster.attempt`) at work on the study.
"""

from __future__ import annotations

import os
import re
import secrets
import shlex
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from cluster import auth
from cluster.archive import Packed, choose, write
from cluster.attempt import versions
from tune.core.errors import Problem, UserError
from tune.core.secrets import has_password, masked

ROOT = Path(__file__).resolve().parents[1]
_CODE = ("tune", "trainables", "cluster", "configs")  # found beside each other, in a checkout and in an installed wheel alike
_COMPARED = ("python", "ray", "optuna", "torch", "deepspeed", "transformers", "peft", "timm", "datasets", "mlflow", "pydantic", "numpy")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PINNED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(\[[A-Za-z0-9,._-]+\])?==[A-Za-z0-9][A-Za-z0-9.!+_-]*(\s*;.*)?")
_SETUP_TIMEOUT_S = 1800  # of packages on a node


@dataclass(frozen=True)
class Wish:
    """What the user asked for. `words`: the command after `python -m tune`, its paths as they are inside the working directory."""

    name: str
    words: tuple[str, ...]
    working_dir: Path
    storage: str | None = None
    env: tuple[str, ...] = ()
    attempts: int = 5
    entry_cpus: float | None = None
    entry_resources: Mapping[str, float] = field(default_factory=dict)
    requirements: Path | None = None
    max_bytes: int | None = None
    any_version: bool = False


@dataclass(frozen=True)
class Parcel:
    """All that travels. `environment` holds values of secrets: `shown` is for people."""

    job: str
    packed: Packed
    command: tuple[str, ...]
    environment: Mapping[str, str]
    packages: tuple[str, ...]

    @property
    def entrypoint(self) -> str:
        return shlex.join(self.command)

    def runtime_env(self, archive: str) -> dict[str, Any]:
        found: dict[str, Any] = {
            "working_dir": archive,
            "env_vars": dict(self.environment),
            "config": {"setup_timeout_seconds": _SETUP_TIMEOUT_S},
        }
        return found | ({"pip": {"packages": list(self.packages), "pip_check": False}} if self.packages else {})

    def shown(self) -> str:
        """What `--dry-run` prints: every file, the names of variables without their values, packages, the command."""
        lines = [self.packed.listing(), f"variables   {', '.join(self.environment) or 'none'}"]
        lines += [f"packages    {', '.join(self.packages) or 'those of the image'}", f"command     {self.entrypoint}"]
        return "\n".join(lines)


def prepare(wish: Wish, environment: Mapping[str, str] = os.environ) -> Parcel:
    """Raises UserError with everything that keeps the study from leaving this machine."""
    problems = [*_wrong_storage(wish), *_passwords(wish.words), *_wrong_env(wish.env, environment)]
    packages: tuple[str, ...] = ()
    packed: Packed | None = None
    try:
        packages = _packages(wish.requirements)
    except UserError as error:
        problems += error.problems
    try:
        hidden = tuple(filter(None, (auth.token(), *(environment.get(name) for name in wish.env))))
        bound = {} if wish.max_bytes is None else {"max_total_bytes": wish.max_bytes}
        packed = choose(wish.working_dir, {name: ROOT / name for name in _CODE}, hidden=hidden, **bound)
    except UserError as error:
        problems += error.problems
    if problems or packed is None:
        raise UserError(problems)
    job = f"{wish.name}-{secrets.token_hex(4)}"
    sent = {name: environment[name] for name in wish.env}
    return Parcel(job, packed, _command(job, wish), sent, packages)


def send(jobs: Any, parcel: Parcel) -> str:
    """Upload and start; the id of the job. `jobs` is a `cluster.jobs.Jobs`."""
    from cluster.jobs import Job

    with tempfile.TemporaryDirectory() as folder:
        uri = jobs.upload(write(parcel.packed, Path(folder) / "phasetune.zip"))
    started: str = jobs.start(Job(parcel.job, parcel.entrypoint, parcel.runtime_env(uri), {"phasetune": parcel.job}))
    return started


def check_storage(storage: str | None, resumes: bool, n_nodes: int) -> None:
    """Several nodes need a storage that all of them see, and only a person can say where that is."""
    if storage is None and not resumes and n_nodes > 1:
        fix = "--storage DIR: a folder that all nodes see (NFS, a shared volume), such as /shared/studies"
        raise UserError(Problem("--storage", f"none, and the cluster has {n_nodes} nodes", fix))


# -- the parts ----------------------------------------------------------------------------------------------------------------


def _command(job: str, wish: Wish) -> tuple[str, ...]:
    attempt = ["python", "-m", "cluster.attempt", "--job", job, *(["--storage", wish.storage] if wish.storage else [])]
    if not wish.any_version:
        attempt += [word for name, version in _expected().items() for word in ("--expect", f"{name}=={version}")]
    commit = _commit(wish.working_dir)
    attempt += [] if commit is None else ["--commit", commit]
    supervise = ["python", "-m", "cluster.supervise", "--job", job, "--attempts", str(wish.attempts)]
    if wish.entry_cpus:
        supervise += ["--entry-cpus", f"{wish.entry_cpus:g}"]
        attempt += ["--entry-cpus", f"{wish.entry_cpus:g}"]
    for name, amount in wish.entry_resources.items():
        supervise += ["--entry-resource", f"{name}={amount:g}"]
    return (*supervise, "--", *attempt, "--", *wish.words)


def _expected() -> dict[str, str]:
    """The versions here that those of the cluster have to be; a build's own mark (`+cpu`) is left out."""
    return {name: version.split("+")[0] for name, version in versions(_COMPARED).items() if version is not None}


def _commit(folder: Path) -> str | None:
    try:
        said = subprocess.run(["git", "-C", str(folder), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return said.stdout.strip() if said.returncode == 0 else None


def _wrong_storage(wish: Wish) -> list[Problem]:
    resumed = [("--resume", wish.words[1])] if wish.words[:1] == ("resume",) else []
    problems = []
    for option, text in [*resumed, *([("--storage", wish.storage)] if wish.storage is not None else [])]:
        path = PurePosixPath(text)
        if not path.is_absolute() or ".." in path.parts:
            problems.append(Problem(option, f"'{masked(text)}'", "give the folder as the nodes see it: an absolute path without .."))
    return problems


def _passwords(words: tuple[str, ...]) -> list[Problem]:
    """A job's command is shown to everybody who sees its cluster: in `ray job list`, on the dashboard, among a node's processes."""
    problems = []
    for before, word in zip(("", *words), words, strict=False):
        if has_password(word):
            fix = "leave the password out of it"
            if before == "--tracking-uri":
                fix = "export MLFLOW_TRACKING_URI and give --env MLFLOW_TRACKING_URI: it then stays out of the job's command"
            problems.append(Problem(before or "submit", f"a password in '{masked(word)}'", fix))
    return problems


def _wrong_env(names: tuple[str, ...], environment: Mapping[str, str]) -> list[Problem]:
    problems = []
    for name in dict.fromkeys(names):
        if "=" in name:
            short = name.split("=", 1)[0]
            fix = f"export {short}=... and give its name alone, --env {short}: a value on a command line is seen by everybody here"
            problems.append(Problem("--env", f"a value for {short}", fix))
        elif not _VARIABLE.fullmatch(name):
            problems.append(Problem("--env", f"'{name}'", "give the name of a variable"))
        elif name.startswith("RAY_"):
            problems.append(Problem("--env", name, "leave it out: the nodes have their own Ray variables and their own token"))
        elif name not in environment:
            problems.append(Problem("--env", f"{name}, which is not set here", f"export {name}=... first"))
    return problems


def _packages(requirements: Path | None) -> tuple[str, ...]:
    if requirements is None:
        return ()
    try:
        lines = requirements.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UserError(Problem(f"--requirements {requirements}", str(error.strerror), "name a file of pins")) from None
    except UnicodeDecodeError:
        raise UserError(Problem(f"--requirements {requirements}", "it is not UTF-8 text", "name a file of pins")) from None
    wanted = {i: line.split("#")[0].strip() for i, line in enumerate(lines, start=1)}
    wrong = [
        Problem(f"{requirements}:{i}", line, "pin it exactly: name==version")
        for i, line in wanted.items()
        if line and not _PINNED.fullmatch(line)
    ]
    if wrong:
        raise UserError(wrong)
    return tuple(filter(None, wanted.values()))
