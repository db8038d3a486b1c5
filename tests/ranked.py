"""A recipe's reporter for one rank of two in a folder that both see, lives that end by SIGKILL, and what an export answers.

What lies on the disk before the last report is set aside: the checkpoint before it, and all that the recipe has written since. A kill
at the last moment would leave just that, so going on from there is what a resumed trial does.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file

from trainables.kept import BEST
from tune.core.metrics import MetricSet
from tune.core.ports import Answer, Decision, Question

REPORTS = 2  # of each trial: the checkpoint of the first is gone on from


class Ranked:
    """killed_at: the step in whose report rank 0 is killed, its checkpoint half written."""

    trial, seed, device = "t0000", 7, "cpu"

    def __init__(self, folder: Path, cache: Path, metrics: MetricSet, rank: int, world_size: int = 2, killed_at: int | None = None) -> None:
        self.folder, self.rank, self.world_size = folder, rank, world_size
        self._metrics, self._killed_at = metrics, killed_at
        self.workdir, self.cache_dir, self._checkpoint = folder / "work", cache, folder / "checkpoint"
        self.reports: list[dict[str, float]] = []
        self.workdir.mkdir(parents=True, exist_ok=True)

    @property
    def left_by_a_kill(self) -> Path:
        """The folder of a trial that was killed before its last report."""
        return self.folder.with_name(f"{self.folder.name}-left")

    def resume_from(self) -> Path | None:
        return self._checkpoint if self._checkpoint.exists() else None

    def report(self, step: int, metrics: Mapping[str, float], save: Callable[[Path], None] | None = None) -> Decision:
        assert save is not None
        new = self.folder / "new"
        if self.rank == 0:
            if step == REPORTS - 1 and self.world_size > 1 and self._checkpoint.exists():
                shutil.copytree(self.folder, self.left_by_a_kill, dirs_exist_ok=True)
            shutil.rmtree(new, ignore_errors=True)
            new.mkdir()
        self._meet()
        save(new)
        if step == self._killed_at and self.rank == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self._meet()
        if self.rank == 0:
            shutil.rmtree(self._checkpoint, ignore_errors=True)
            new.rename(self._checkpoint)
        self._meet()
        self.reports.append(self._metrics.validated(metrics, "test"))
        return "continue"

    def ask(self, question: Question) -> Answer:
        return True

    def _meet(self) -> None:
        if self.world_size > 1:
            torch.distributed.barrier()


def import_before_a_fork() -> None:
    """What trials import when they come to it, so that a child of this process need not do it again."""
    from trainables.torchvision_ops import ensure_torchvision_ops

    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    os.environ.setdefault("LOCAL_RANK", "0")
    ensure_torchvision_ops()
    import deepspeed.ops
    import deepspeed.runtime.zero.muon.muon_optimizer
    import peft
    import timm
    from transformers import AutoProcessor, Blip2Model, CLIPModel, LlavaForConditionalGeneration

    assert all((deepspeed.ops, peft, timm, AutoProcessor, Blip2Model, CLIPModel, LlavaForConditionalGeneration))


def join(rank: int, rendezvous: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)


def part() -> None:
    """Each rank goes on alone. In a group, transformers leaves writing to rank 0."""
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def shared_folder(rank: int) -> Path:
    """A new folder that both ranks see."""
    made = [tempfile.mkdtemp() if rank == 0 else ""]
    torch.distributed.broadcast_object_list(made)
    return Path(made[0])


def ended(life: Callable[[], None]) -> int:
    """Live in a process of its own; its exit code, minus the signal that killed it. Imports are shared, a process group must not be."""
    child = os.fork()
    if child == 0:
        try:
            life()
        finally:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def untimed(values: Mapping[str, float]) -> dict[str, float]:
    """A report without what a clock or the process's size decides."""
    return {name: value for name, value in values.items() if not name.endswith(("seconds", "_per_second", "memory_bytes"))}


def apart(ours: Path, theirs: Path) -> float:
    """Largest difference of the weights that two trials kept."""
    a, b = (load_file(folder / "work" / BEST) for folder in (ours, theirs))
    assert a.keys() == b.keys()
    return max(float((a[name] - b[name]).abs().max()) for name in a)


def share_apart(ours: Path, theirs: Path, by: float) -> float:
    """Share of the weights that two trials kept which differ by `by` or more."""
    a, b = (load_file(folder / "work" / BEST) for folder in (ours, theirs))
    return sum(int(((a[name] - b[name]).abs() >= by).sum()) for name in a) / sum(a[name].numel() for name in a)
