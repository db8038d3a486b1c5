"""One rank of two: whole trials of tiny classifiers under DDP and ZeRO; writes what it saw.

python -m tests.vlm_classifier.two_ranks RANK RENDEZVOUS_FILE OUT.json
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from tests.vlm_classifier.trials import TWO_TOWER, family, reporter, spec
from trainables.vlm_classifier import recipe
from trainables.vlm_classifier.spec import METRICS
from tune.core.ports import Answer, Decision, Question

ZERO_3 = {"stage": 3, "persistence_threshold_elements": 0}
HEAD: dict[str, Any] = {"encoder": TWO_TOWER}
LLAVA: dict[str, Any] = {
    "encoder": family("llava"),
    "peft": {"method": "lora", "lora": {"r": 2, "dropout": 0.0, "last_layers": 1}, "connector": "frozen"},
}
BLIP2: dict[str, Any] = {"encoder": family("blip2"), "peft": {"method": "lora", "lora": {"r": 2, "dropout": 0.0}, "connector": "tuned"}}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any] | None]] = {
    "head/ddp": (HEAD, None),
    "head/zero2": (HEAD, {"stage": 2}),
    "llava/ddp": (LLAVA, None),
    "llava/zero2": (LLAVA, {"stage": 2}),
    "llava/zero3": (LLAVA, ZERO_3),
    "blip2/zero2": (BLIP2, {"stage": 2}),
    "blip2/zero3": (BLIP2, ZERO_3),
}


class Ranked:
    """A reporter of one of the ranks, in a folder that both see."""

    trial, seed, device = "t0000", 7, "cpu"

    def __init__(self, folder: Path, cache: Path, rank: int) -> None:
        self.rank, self.world_size = rank, 2
        self.workdir, self.cache_dir = folder, cache
        self.reports: list[dict[str, float]] = []
        folder.mkdir(parents=True, exist_ok=True)

    def resume_from(self) -> Path | None:
        return None

    def report(self, step: int, metrics: Mapping[str, float], save: Callable[[Path], None] | None = None) -> Decision:
        self.reports.append(METRICS.validated(metrics, "test"))
        return "continue"

    def ask(self, question: Question) -> Answer:
        return None


def without_chance(fields: Mapping[str, Any], zero: Mapping[str, Any] | None) -> Any:
    """No dropout: the same however a batch is divided."""
    engine = {} if zero is None else {"zero": zero}
    return spec(**fields, head={"dropout": 0.0, "hidden": "8"}, epochs=2, optim={"lr": 1e-3}, engine=engine)


def main(rank: int, rendezvous: str, out: Path) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    shared = [tempfile.mkdtemp() if rank == 0 else ""]
    torch.distributed.broadcast_object_list(shared)
    root, seen = Path(shared[0]), {}
    for name, (fields, zero) in CASES.items():
        ranked = Ranked(root / name, root / "cache", rank)
        outcome = recipe.train(without_chance(fields, zero), ranked)
        seen[name] = {"val": [r["val/loss"] for r in ranked.reports], "test": outcome.metrics["test/loss"]}
    torch.distributed.barrier()
    if rank == 0:
        for family_name, fields in (("head", HEAD), ("llava", LLAVA), ("blip2", BLIP2)):
            run = reporter(root / f"{family_name}/alone", root / "cache")
            outcome = recipe.train(without_chance(fields, None), run)
            seen[f"{family_name}/alone"] = {"val": run.curve("val/loss"), "test": outcome.metrics["test/loss"]}
    out.write_text(json.dumps(seen))
    torch.distributed.barrier()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
