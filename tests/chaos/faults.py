"""What can happen to a study that runs in one process: to its driver, to its disk, to its MLflow server.

A fault strikes once, at a random event of the journal, and leaves the world whole again; the driver may be dead by then.
"""

from __future__ import annotations

import errno
import os
import random
import resource
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from tests.chaos.bad_disk import BadDisk
from tests.chaos.driving import Blow, Broken, Run
from tests.mlflow_log.server import MlflowServer

REFUSED_S = 60.0


@dataclass
class Scene:
    """A study that runs, and what a fault may touch."""

    run: Run
    rng: random.Random
    disk: BadDisk | None = None
    server: MlflowServer | None = None


@dataclass(frozen=True)
class Fault:
    """needs: what the study must have been given: a disk that goes bad on command, an MLflow server, a file system of its own, a
    bound on the size of files. cost_s: about how long a study with it takes."""

    name: str
    strike: Callable[[Scene], Blow]
    needs: Literal["nothing", "disk", "server", "mount", "file_limit"] = "nothing"


# -- the driver ---------------------------------------------------------------------------------------------------------------------


def _kill(scene: Scene) -> Blow:
    blow = scene.run.blow()
    scene.run.kill()
    return blow


def _power_cut(scene: Scene) -> Blow:
    """As a kill, and the last line has not reached the disk whole."""
    blow = _kill(scene)
    with scene.run.journal.open("ab") as journal:
        journal.write(b'{"v":2,"seq":' + str(scene.run.n_events()).encode() + b',"t":17')
    return blow


def _killed_while_it_stops(scene: Scene) -> Blow:
    blow = scene.run.blow()
    scene.run.signal(signal.SIGINT)
    time.sleep(scene.rng.uniform(0.0, 0.15))
    if scene.run.alive:
        scene.run.kill()
    return blow


def _killed_while_it_resumes(scene: Scene) -> Blow:
    blow = _kill(scene)
    scene.run.start()
    time.sleep(scene.rng.uniform(0.3, 2.0))
    scene.run.kill()
    return blow


def _hung(scene: Scene) -> Blow:
    blow = scene.run.blow(lasted_s=2.0)
    scene.run.signal(signal.SIGSTOP)
    time.sleep(2.0)
    scene.run.signal(signal.SIGCONT)
    return blow


# -- the disk -----------------------------------------------------------------------------------------------------------------------


def _stops_and_says_why(scene: Scene) -> None:
    code = scene.run.wait(REFUSED_S)
    said = scene.run.said()
    if code != 1 or "fix: " not in said or "go on with: " not in said:
        raise Broken(f"exit code {code}, where 1 and what to do were due: {said[-800:]}")


def _disk_error(number: int, below: str = "") -> Callable[[Scene], Blow]:
    def strike(scene: Scene) -> Blow:
        assert scene.disk is not None
        blow = scene.run.blow()
        scene.disk.goes_bad(number, below=below)
        _stops_and_says_why(scene)
        scene.disk.is_mended()
        return replace(scene.run.less_what_was_taken_back(blow), lasted_s=time.time() - blow.at_s)

    return strike


def _slow(scene: Scene) -> Blow:
    assert scene.disk is not None
    blow = scene.run.blow()
    scene.disk.goes_bad(late_s=0.1)
    end = time.monotonic() + 4.0
    while scene.run.alive and time.monotonic() < end:
        time.sleep(0.05)
    scene.disk.is_mended()
    return blow


def _read_only_at_resume(scene: Scene) -> Blow:
    assert scene.disk is not None
    blow = _kill(scene)
    scene.disk.goes_bad(errno.EROFS)
    scene.run.start()
    code = scene.run.wait(REFUSED_S)
    scene.disk.is_mended()
    if code != 2 or "cannot be written" not in scene.run.said():
        raise Broken(f"exit code {code}, where a refusal was due: {scene.run.said()[-800:]}")
    return replace(blow, lasted_s=time.time() - blow.at_s)


def _file_system_full(scene: Scene) -> Blow:
    """Something else fills the file system to the last byte."""
    blow, ballast = scene.run.blow(), scene.run.folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (1 << 20, 4096, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                continue
    _stops_and_says_why(scene)
    ballast.unlink()
    return replace(scene.run.less_what_was_taken_back(blow), lasted_s=time.time() - blow.at_s)


def _file_limit(scene: Scene) -> Blow:
    """The journal came to the size that no file may pass (see `files_below`)."""
    _stops_and_says_why(scene)
    blow = scene.run.blow()
    return replace(blow, at_s=blow.before[-1].t, lasted_s=time.time() - blow.before[-1].t)


def files_below(size_bytes: int) -> Callable[[], None]:
    """For a child before it becomes the driver: no file of it grows beyond this, which ends in EFBIG and not in a signal."""

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, size_bytes))

    return limit


def mounted(folder: Path, size_mb: int) -> bool:
    """A file system of its own at `folder`; False where we may not make one."""
    folder.mkdir(parents=True, exist_ok=True)
    if os.geteuid() != 0:
        return False
    command = ["mount", "-t", "tmpfs", "-o", f"size={size_mb}m", "tmpfs", str(folder)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def unmount(folder: Path) -> None:
    subprocess.run(["umount", "--lazy", str(folder)], capture_output=True, check=False)  # a process that was killed may hold it still


# -- MLflow -------------------------------------------------------------------------------------------------------------------------


def _server_restarted(scene: Scene) -> Blow:
    assert scene.server is not None
    blow = scene.run.blow()
    scene.server.kill()
    time.sleep(scene.rng.uniform(0.2, 1.0))
    scene.server.start()
    return blow


def _server_away_to_the_end(scene: Scene) -> Blow:
    assert scene.server is not None
    blow = scene.run.blow()
    scene.server.kill()
    if scene.run.wait(120) != 0:
        raise Broken(f"a study without its MLflow server did not end: {scene.run.said()[-800:]}")
    scene.server.start()
    return blow


def _server_hung(scene: Scene) -> Blow:
    assert scene.server is not None
    blow = scene.run.blow()
    scene.server.signal(signal.SIGSTOP)
    time.sleep(4.0)
    scene.server.signal(signal.SIGCONT)
    return blow


def _server_and_driver(scene: Scene) -> Blow:
    assert scene.server is not None
    blow = scene.run.blow()
    scene.server.kill()
    scene.run.kill()
    scene.server.start()
    return blow


KILL = Fault("driver: kill -9", _kill)
OF_THE_DRIVER = (
    KILL,
    Fault("driver: kill -9, half a line left", _power_cut),
    Fault("driver: kill -9 while it stops", _killed_while_it_stops),
    Fault("driver: kill -9, again while it resumes", _killed_while_it_resumes),
    Fault("driver: SIGSTOP for 2 s", _hung),
)
OF_THE_DISK = (
    Fault("disk: full (ENOSPC)", _disk_error(errno.ENOSPC), "disk"),
    Fault("disk: room for the journal alone", _disk_error(errno.ENOSPC, "trials"), "disk"),
    Fault("disk: read-only (EROFS)", _disk_error(errno.EROFS), "disk"),
    Fault("disk: broken (EIO)", _disk_error(errno.EIO), "disk"),
    Fault("disk: 100 ms a write for 4 s", _slow, "disk"),
    Fault("disk: read-only at the resume", _read_only_at_resume, "disk"),
    Fault("disk: a small file system, filled", _file_system_full, "mount"),
    Fault("disk: no file may grow further", _file_limit, "file_limit"),
)
OF_MLFLOW = (
    Fault("MLflow: killed and restarted", _server_restarted, "server"),
    Fault("MLflow: away to the end", _server_away_to_the_end, "server"),
    Fault("MLflow: SIGSTOP for 4 s", _server_hung, "server"),
    Fault("MLflow and driver: kill -9", _server_and_driver, "server"),
)
