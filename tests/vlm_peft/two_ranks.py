"""One rank of two: whole trials of a tiny LLaVA under DDP and ZeRO, one cut off and resumed; writes what it saw.

python -m tests.vlm_peft.two_ranks RANK RENDEZVOUS_FILE OUT.json
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from tests.trainables.reporting import Killed
from tests.vlm_peft.cases import PEFT, spec_of, write_rows
from trainables.vlm_peft import recipe
from trainables.vlm_peft.model import load_for_inference
from trainables.vlm_peft.spec import METRICS, VlmPeftSpec
from tune.core.ports import Answer, Decision, Question

ZERO_3 = {"stage": 3, "persistence_threshold_elements": 0}
LORA: dict[str, Any] = {"peft": {"method": "lora", "lora": {"r": 4, "dropout": 0.0}, "connector": "tuned"}}
SPIDER: dict[str, Any] = {"peft": PEFT["full"], "keep": {"method": "spider"}}
PREFIX: dict[str, Any] = {"peft": PEFT["prefix"], "evaluation": {"by": "generate", "max_new_tokens": 3}}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any] | None]] = {
    "lora/ddp": (LORA, None),
    "lora/zero2": (LORA, {"stage": 2}),
    "lora/zero3": (LORA, ZERO_3),
    "spider/zero2": (SPIDER, {"stage": 2}),
    "spider/zero3": (SPIDER, ZERO_3),
    "prefix/zero3": (PREFIX, ZERO_3),
}
N_ROWS = 20  # 12 to train on: two steps an epoch, the second smaller
RESUMED = ("lora/zero2", "spider/zero3")


class Shared:
    """A reporter of one of the ranks, in a folder that both see."""

    trial, seed, device = "t0000", 7, "cpu"

    def __init__(self, folder: Path, cache: Path, rank: int, world_size: int, kill_at: int | None = None) -> None:
        self.rank, self.world_size, self._kill_at = rank, world_size, kill_at
        self.workdir, self.cache_dir, self._checkpoint = folder / "work", cache, folder / "checkpoint"
        self.reports: list[dict[str, float]] = []
        self.workdir.mkdir(parents=True, exist_ok=True)

    def resume_from(self) -> Path | None:
        return self._checkpoint if self._checkpoint.exists() else None

    def report(self, step: int, metrics: Mapping[str, float], save: Callable[[Path], None] | None = None) -> Decision:
        assert save is not None
        new = self._checkpoint.with_name("new")
        if self.rank == 0:
            new.mkdir()
        self._meet()
        save(new)
        self._meet()
        if self.rank == 0:
            shutil.rmtree(self._checkpoint, ignore_errors=True)
            new.rename(self._checkpoint)
        self._meet()
        self.reports.append(METRICS.validated(metrics, "test"))
        if step == self._kill_at:
            raise Killed
        return "continue"

    def ask(self, question: Question) -> Answer:
        return True

    def _meet(self) -> None:
        if self.world_size > 1:
            torch.distributed.barrier()


def spec_for(rows: Path, fields: Mapping[str, Any], zero: Mapping[str, Any] | None) -> VlmPeftSpec:
    return spec_of(rows, batch=8, optim={"lr": 5e-3, "eps": 1e-6}, engine={"zero": zero, "accumulation": 2}, **fields)


def main() -> None:
    rank, rendezvous, out = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    made = [tempfile.mkdtemp() if rank == 0 else ""]
    torch.distributed.broadcast_object_list(made)
    home = Path(made[0])
    if rank == 0:
        write_rows(home / "rows", N_ROWS)
    torch.distributed.barrier()
    rows, seen = home / "rows", {}
    for name, (fields, zero) in CASES.items():
        spec = spec_for(rows, fields, zero)
        run = Shared(home / name, home / "cache", rank, 2)
        outcome = recipe.train(spec, run)
        seen[name] = {"metrics": dict(outcome.metrics), "reports": len(run.reports), "train": [m["train/loss"] for m in run.reports]}
        if name in RESUMED:
            cut = Shared(home / f"{name}-cut", home / "cache", rank, 2, kill_at=0)
            with contextlib.suppress(Killed):
                recipe.train(spec, cut)
            again = Shared(home / f"{name}-cut", home / "cache", rank, 2)
            seen[name]["resumed"] = dict(recipe.train(spec, again).metrics)
            torch.distributed.barrier()
            if rank == 0:
                seen[name]["resumed apart"] = _apart(again, run)
        if rank == 0:
            loaded = load_for_inference(run.workdir)
            seen[name]["loads"] = type(loaded.model).__name__
    if rank == 0:
        for label, fields in (("lora", LORA), ("spider", SPIDER), ("prefix", PREFIX)):
            run = Shared(home / f"{label}-alone", home / "cache", 0, 1)
            seen[label] = {"metrics": dict(recipe.train(spec_for(rows, fields, None), run).metrics)}
            for name in CASES:
                if name.startswith(f"{label}/"):
                    seen[name]["apart"] = _apart(Shared(home / name, home / "cache", 0, 1), run)
    out.write_text(json.dumps(seen))
    torch.distributed.barrier()
    if rank == 0:
        shutil.rmtree(home)


def _apart(a: Shared, b: Shared) -> float:
    """Largest difference of the kept weights."""
    ours, theirs = (load_file(run.workdir / "best.safetensors") for run in (a, b))
    assert ours.keys() == theirs.keys()
    return max(float((ours[name] - theirs[name]).abs().max()) for name in ours)


if __name__ == "__main__":
    main()
