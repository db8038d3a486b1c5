"""One rank of two: whole trials of a tiny LLaVA under DDP and ZeRO, gone on after kills, and exported; writes what it saw.

python -m tests.vlm_peft.two_ranks RANK RENDEZVOUS_FILE OUT.json
"""

from __future__ import annotations

import gc
import json
import sys
import warnings
from pathlib import Path
from typing import Any

import torch

from tests.ranked import apart, ended, import_before_a_fork, join, part
from tests.vlm_peft.cases import write_rows
from tests.vlm_peft.ranked_cases import ALONE, CASES, KILLED
from tests.vlm_peft.ranked_trials import N_ROWS, STAGES, answered, life, spec_for, trained
from trainables.vlm_peft import settle
from trainables.vlm_peft.spec import VlmPeftSpec
from tune.core.errors import FailTrial

# Zhou et al.'s four methods, and the sentiment of MVSA as the report D trains LLaVA on it. No dropout where one process is compared.
METHODS: dict[str, dict[str, Any]] = {
    "lora": {"peft": {"method": "lora", "lora": {"r": 4, "dropout": 0.0}, "connector": "tuned"}},
    "ia3": {"peft": {"method": "ia3"}},
    "bottleneck": {"peft": {"method": "bottleneck", "bottleneck": {"size": 4, "dropout": 0.0}, "connector": "tuned"}},
    "prefix": {
        "peft": {"method": "prefix", "prefix": {"tokens": 3, "projection": True}, "connector": "tuned"},
        "evaluation": {"by": "generate", "max_new_tokens": 3},
    },
    "sentiment": {
        "model": {"name": "tiny:llava", "template": "vicuna_v1"},
        "peft": {
            "method": "lora",
            "lora": {"r": 8, "alpha": 16, "dropout": 0.05, "targets": ["q_proj", "k_proj", "v_proj", "o_proj"]},
            "connector": "tuned",
        },
    },
}


def main() -> None:
    rank, rendezvous, out = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    import_before_a_fork()
    home = Path(rendezvous).parent / "home"
    if rank == 0:
        write_rows(home / "rows", N_ROWS)
    specs = {name: spec_for(home, METHODS[name.split("/")[0]], STAGES.get(name.split("/")[1])) for name in CASES}
    seen: dict[str, Any] = {"killed": ended(lambda: doomed(home, specs[KILLED], rank, f"{rendezvous}-first"))}
    join(rank, rendezvous)
    seen["half written"] = sorted(file.name for file in (home / "killed" / "new").iterdir())
    torch.distributed.barrier()
    _, seen["gone on"] = life(home, "killed", specs[KILLED], rank)
    gc.freeze()  # an engine's end walks all objects, and what is imported by now stays
    for name in CASES:
        seen[name] = trained(home, name, specs[name], rank)
    seen["gone on apart"] = apart(home / "killed", home / KILLED)
    for i, method in enumerate(ALONE):
        if i % 2 == rank:
            _, seen[method] = life(home, f"{method}-alone", spec_for(home, METHODS[method], None), 0, world_size=1)
    seen["auto"] = by_memory(home, rank)
    seen["diverged"] = diverged(home, rank)
    part()
    for i, name in enumerate(CASES):
        if i % 2 == rank:
            seen[name]["export"] = answered(home, name, specs[name])
        method = name.split("/")[0]
        if method in ALONE:
            seen[name]["apart"] = apart(home / name, home / f"{method}-alone")
    out.write_text(json.dumps(seen))


def by_memory(home: Path, rank: int) -> dict[str, Any]:
    """A trial whose engine is left to memory, of which rank 0 has none."""
    settle.room_bytes = lambda device, world_size: 0.0 if rank == 0 else 1e15
    spec = spec_for(home, {**METHODS["lora"], "engine": {"micro_batch": "auto", "zero": "auto"}}, None)
    _, metrics = life(home, "auto", spec, rank)
    return {"engine": json.loads((home / "auto" / "work" / "engine.json").read_text()), "metrics": metrics}


def diverged(home: Path, rank: int) -> str:
    """A trial of 18 steps whose first one ruins the model: LoRA's A has no gradient yet, and 0 is divided by an eps that is 0 in fp32."""
    if rank == 0:
        write_rows(home / "many", 60)
    torch.distributed.barrier()
    fields = {
        "data": {"reader": "mvsa", "source": str(home / "many"), "prompt": "post_as_is"},
        "batch": 2,
        "optim": {"lr": 5e-3, "eps": 1e-60},
    }
    try:
        life(home, "diverged", spec_for(home, {**METHODS["lora"], **fields, "engine": {}}, None), rank)
    except FailTrial as error:
        return str(error)
    return "it trained"


def doomed(home: Path, spec: VlmPeftSpec, rank: int, rendezvous: str) -> None:
    """Rank 0 is killed while it writes the last checkpoint; rank 1 waits for it in vain."""
    join(rank, rendezvous)
    life(home, "killed", spec, rank, killed_at=1)


if __name__ == "__main__":
    main()
