"""A study's directory: where it lies, and what stands in it besides the journal.

`journal.jsonl` is the truth; `resolved.json` and `environment.json` are for people and for reproduction; `requests/` is the inbox of
the running driver (`tune.adapters.inbox`). `trials/<id>/` belongs to the trials.
"""

from __future__ import annotations

import getpass
import importlib.metadata
import json
import os
import platform
import re
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tune.core.errors import Problem, UserError
from tune.core.secrets import masked

_VERSIONS = (
    "phasetune",
    "ray",
    "optuna",
    "torch",
    "deepspeed",
    "timm",
    "transformers",
    "peft",
    "datasets",
    "mlflow",
    "numpy",
    "scipy",
    "cmaes",
    "openai",
    "scikit-learn",
)


def create(storage: Path, name: str) -> Path:
    """A new directory `<storage>/<name>-<n>`, the next free n. Raises UserError if the storage cannot be written."""
    try:
        storage.mkdir(parents=True, exist_ok=True)
        taken = [int(m[1]) for p in storage.iterdir() if (m := re.fullmatch(re.escape(name) + r"-(\d+)", p.name))]
        n = max(taken, default=0) + 1
        while True:
            study_dir = storage / f"{name}-{n}"
            try:
                study_dir.mkdir()
                break
            except FileExistsError:  # another study of this name began at the same moment
                n += 1
        (study_dir / "trials").mkdir()
    except OSError as error:
        raise UserError(
            Problem(f"storage {storage}", f"{error.strerror or error}", "choose a folder that can be written with --storage")
        ) from None
    return study_dir.resolve()


def write_facts(study_dir: Path, resolved: Mapping[str, Any], environment: Mapping[str, Any]) -> None:
    """`resolved.json` and `environment.json`. Raises UserError if they cannot be written."""
    try:
        write_json(study_dir / "resolved.json", resolved)
        write_json(study_dir / "environment.json", environment)
    except OSError as error:
        problem = Problem(str(study_dir), f"it cannot be written: {error.strerror or error}", "free space, or choose another --storage")
        raise UserError(problem) from None


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Write whole or not at all."""
    tmp = path.with_suffix(".tmp")
    tmp.write_text(json.dumps(data, indent=2) + "\n")
    os.replace(tmp, path)


def environment(seed: int) -> dict[str, Any]:
    """What a reader needs to run the study again: commit, versions, host, command, seed. No environment variables: they hold secrets."""
    return {
        **_git(),
        "folder": os.getcwd(),
        "command": [Path(sys.argv[0]).name, *(masked(word) for word in sys.argv[1:])],
        "python": platform.python_version(),
        "versions": {name: v for name in _VERSIONS if (v := _version(name)) is not None},
        "host": socket.gethostname(),
        "user": _user(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "seed": seed,
        "job": os.environ.get("PHASETUNE_JOB"),  # by which cluster.attempt finds the study that it began
    }


def _git() -> dict[str, Any]:
    root = Path(__file__).resolve().parents[2]
    try:
        commit = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5)
        status = subprocess.run(["git", "-C", str(root), "status", "--porcelain"], capture_output=True, text=True, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return {"git_commit": None, "git_dirty": None}
    if commit.returncode != 0:  # no checkout: on a cluster, the submitter names the commit of what it sent
        return {"git_commit": os.environ.get("PHASETUNE_COMMIT"), "git_dirty": None}
    return {"git_commit": commit.stdout.strip(), "git_dirty": bool(status.stdout.strip())}


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _user() -> str | None:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user id without a name
        return None


def is_running(study_dir: Path) -> bool:
    """Whether some process holds the study's journal on this machine."""
    from filelock import FileLock, Timeout

    lock_path = study_dir / ".journal.lock"
    if not lock_path.exists():
        return False
    try:
        with FileLock(str(lock_path), timeout=0):
            return False
    except Timeout:
        return True
    except OSError:  # a folder that cannot be written has no driver here
        return False
