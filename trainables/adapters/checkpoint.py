"""A trial's checkpoint on disk: one folder `checkpoint` in the trial's folder, whole or absent at any moment of a crash.

A new one is written beside it, synced, and swapped in by renames; the old one goes when the new one is in place. `report.json`
in it holds the step and metrics that the checkpoint was reported with. What is in the rest of the folder is the recipe's.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from tune.core import worker_output

_LIVE, _OLD, _NEW = "checkpoint", "checkpoint.old", "checkpoint.tmp"
_REPORT = "report.json"
_TRIES = 5


def recover(workdir: Path) -> None:
    """Finish or take back a swap that a crash cut, and remove half-written checkpoints. Before any rank of the trial runs."""
    live, old = workdir / _LIVE, workdir / _OLD
    if old.exists():
        if live.exists():
            shutil.rmtree(old)
        else:
            old.rename(live)
    shutil.rmtree(workdir / _NEW, ignore_errors=True)


def last(workdir: Path) -> Path | None:
    """The last whole checkpoint."""
    for folder in (workdir / _LIVE, workdir / _OLD):
        if (folder / _REPORT).is_file():
            return folder
    return None


def reported(checkpoint: Path) -> tuple[int, dict[str, float]]:
    """The step and metrics it was reported with."""
    raw = json.loads((checkpoint / _REPORT).read_text())
    return raw["step"], raw["metrics"]


def step_of(workdir: Path) -> int | None:
    """The step after which the trial in this folder can go on, or None if it starts from the beginning."""
    checkpoint = last(workdir)
    return None if checkpoint is None else reported(checkpoint)[0]


def lend(workdir: Path, to: Path) -> int | None:
    """Make `to` the folder of a trial that goes on where the one in `workdir` is; the step after which it does, or None.

    Whatever was in `to` is gone. Files of the checkpoint, which nobody changes, are shared where the storage can; the rest is the
    recipe's and is copied, without the workers' output. The trial may be running: a copy that it overtook is made again.
    """
    for _ in range(_TRIES):
        shutil.rmtree(to, ignore_errors=True)
        source = last(workdir)
        if source is None:
            return None
        try:
            step = reported(source)[0]
            shutil.copytree(source, to / _LIVE, copy_function=_share)
            for path in workdir.iterdir():
                if path.name in (_LIVE, _OLD, _NEW) or worker_output.parsed(path.name):
                    continue
                (shutil.copytree if path.is_dir() else shutil.copy2)(path, to / path.name)
            if step_of(workdir) == step == reported(to / _LIVE)[0]:
                return step
        except (FileNotFoundError, shutil.Error):  # it put the next one in place meanwhile
            continue
    shutil.rmtree(to, ignore_errors=True)
    return None


def _share(source: str, to: str) -> None:
    try:
        os.link(source, to)
    except OSError:
        shutil.copy2(source, to)


def new(workdir: Path) -> Path:
    """The folder that every rank writes the next checkpoint into."""
    folder = workdir / _NEW
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def put_in_place(workdir: Path, step: int, metrics: Mapping[str, float]) -> None:
    """Swap in what is in `new(workdir)`. One rank calls it, after all have written."""
    live, old, fresh = workdir / _LIVE, workdir / _OLD, workdir / _NEW
    (fresh / _REPORT).write_text(json.dumps({"step": step, "metrics": dict(metrics)}, allow_nan=False))
    for folder, _, names in os.walk(fresh):
        for name in names:
            _sync(Path(folder) / name)
        _sync(Path(folder))
    if live.exists():
        live.rename(old)
    fresh.rename(live)
    _sync(workdir)
    shutil.rmtree(old, ignore_errors=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
