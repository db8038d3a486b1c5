"""One rank of two: the classifiers of report D, tiny and random, under DDP and ZeRO, gone on after kills, and exported.

python -m tests.vlm_classifier.two_ranks RANK RENDEZVOUS_FILE OUT.json
"""

from __future__ import annotations

import csv
import gc
import json
import math
import sys
import warnings
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from tests.ranked import Ranked, apart, ended, import_before_a_fork, join, part, untimed
from tests.vlm_classifier.cases import ALONE, CASES, KILLED
from tests.vlm_classifier.trials import family
from tests.vlm_peft.cases import write_rows
from trainables.vlm_classifier import recipe
from trainables.vlm_classifier.export import export, predict
from trainables.vlm_classifier.spec import METRICS, VlmClassifierSpec
from trainables.vlm_classifier.task import PREDICTIONS
from trainables.vlm_data.open import open_rows
from tune.core.exports import ExportOrder, Query

N_ROWS = 20  # 12 to train on: two steps an epoch, the second smaller
STAGES: dict[str, dict[str, Any]] = {"zero2": {"stage": 2}, "zero3": {"stage": 3, "persistence_threshold_elements": 0}}
CLIP, BLIP2, LLAVA = (family(name) for name in ("clip", "blip2", "llava"))
Q_V = ["q_proj", "v_proj"]
PLAIN: dict[str, Any] = {"norm": "l2", "dropout": 0.0}


def blip2(rank: int, alpha: int, head: dict[str, Any]) -> dict[str, Any]:
    lora = {"r": rank, "alpha": alpha, "dropout": 0.0, "targets": Q_V}
    return {"encoder": BLIP2, "peft": {"method": "lora", "connector": "tuned", "lora": lora}, "head": head}


# configs/papers/gatech2025_mvsa with small widths; no dropout where one process is compared
METHODS: dict[str, dict[str, Any]] = {
    "clip_zero_shot": {"encoder": CLIP, "mode": "zero_shot", "zero_shot": {"templates": ["a {label} post.", "it feels {label}."]}},
    "clip_concat": {"encoder": CLIP, "inputs": {"use": "both", "both": {"fusion": "concat"}}, "head": PLAIN},
    "clip_product": {"encoder": CLIP, "inputs": {"use": "both", "both": {"fusion": "product"}}, "head": PLAIN},
    "clip_both": {"encoder": CLIP, "inputs": {"use": "both", "both": {"fusion": "both"}}, "head": {**PLAIN, "hidden": "16"}},
    "clip_lora": {
        "encoder": CLIP,
        "peft": {"method": "lora", "vision": "lora", "lora": {"r": 1, "alpha": 1, "dropout": 0.0, "targets": Q_V}},
        "head": PLAIN,
    },
    "blip2_e1": {"encoder": BLIP2, "peft": {"method": "frozen", "connector": "tuned"}, "head": {"hidden": "16", "dropout": 0.0}},
    "blip2_e2": blip2(8, 16, {"hidden": "16", "dropout": 0.0}),
    "blip2_e3": blip2(4, 8, {"hidden": "16-8", "activation": "gelu", "dropout": 0.5}),
    "tinyllava": {
        "encoder": LLAVA,
        "peft": {"method": "lora", "lora": {"r": 2, "alpha": 16, "dropout": 0.0, "targets": Q_V}},
        "head": {"hidden": "none", "dropout": 0.0, "norm": "none"},
        "loss": {"label_smoothing": 0.1},
        "early_stop": {"metric": "val/loss", "patience": 4},
    },
}


def spec_for(home: Path, name: str) -> VlmClassifierSpec:
    method, _, engine = name.partition("/")
    data = {"reader": "mvsa", "source": str(home / "rows")}
    settings = {"data": data, "epochs": 2, "batch": 8, "optim": {"lr": 5e-3}, "peft": {"method": "frozen"}}
    settings |= {"engine": {"zero": STAGES[engine]}} if engine in STAGES else {}
    return VlmClassifierSpec.model_validate({**settings, **METHODS[method]})


def life(home: Path, folder: str, name: str, rank: int, **more: int) -> tuple[Ranked, dict[str, float]]:
    """A trial in a folder, gone on with where a checkpoint lies there."""
    run = Ranked(home / folder, home / "cache", METRICS, rank, **more)
    return run, dict(recipe.train(spec_for(home, name), run).metrics)


def trained(home: Path, name: str, rank: int) -> dict[str, Any]:
    """To the end, and from what a kill before the last report would have left."""
    run, metrics = life(home, name, name, rank)
    again, resumed = life(home, run.left_by_a_kill.relative_to(home).as_posix(), name, rank)
    torch.distributed.barrier()
    return {
        "metrics": metrics,
        "val": [report["val/loss"] for report in run.reports],
        "last": untimed(run.reports[-1]),
        "resumed": resumed,
        "resumed reports": [untimed(report) for report in again.reports],
        "resumed apart": apart(again.folder, run.folder),
    }


def answered(home: Path, name: str) -> dict[str, Any]:
    """How the export of a finished trial's folder answers the test rows, and its loss on them."""
    spec, out, work = spec_for(home, name), home / name / "export", home / name / "work"
    out.mkdir()
    made = export(ExportOrder("t0000", spec, 7, work, out))
    table = open_rows(spec.data)
    rows = [table.rows[int(i)] for i in table.split["test"]]
    queries = [Query(Image.open(BytesIO(row.image.load())).convert("RGB"), row.text) for row in rows if row.image is not None]
    answers = predict(out, json.loads(json.dumps(made.about))).answer(queries)
    with (work / PREDICTIONS).open(encoding="utf-8", newline="") as file:
        tested = [row["predicted"] for row in csv.DictReader(file)]
    losses = [-math.log(dict(answer.shares)[str(row.label)]) for answer, row in zip(answers, rows, strict=True)]
    return {"loss": sum(losses) / len(losses), "tested": tested, "answers": [answer.text for answer in answers]}


def doomed(home: Path, rank: int, rendezvous: str) -> None:
    """Rank 0 is killed while it writes the last checkpoint; rank 1 waits for it in vain."""
    join(rank, rendezvous)
    life(home, "killed", KILLED, rank, killed_at=1)


def main(rank: int, rendezvous: str, out: Path) -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    import_before_a_fork()
    home = Path(rendezvous).parent / "home"
    if rank == 0:
        write_rows(home / "rows", N_ROWS)
    seen: dict[str, Any] = {"killed": ended(lambda: doomed(home, rank, f"{rendezvous}-first"))}
    join(rank, rendezvous)
    seen["half written"] = sorted(file.name for file in (home / "killed" / "new").iterdir())
    torch.distributed.barrier()
    _, seen["gone on"] = life(home, "killed", KILLED, rank)
    gc.freeze()  # an engine's end walks all objects, and what is imported by now stays
    for name in CASES:
        seen[name] = trained(home, name, rank)
    seen["gone on apart"] = apart(home / "killed", home / KILLED)
    for i, method in enumerate(ALONE):
        if i % 2 == rank:
            alone: Mapping[str, float]
            run, alone = life(home, f"{method}-alone", method, 0, world_size=1)
            seen[method] = {"val": [report["val/loss"] for report in run.reports], "metrics": alone}
    part()
    for i, name in enumerate(CASES):
        if i % 2 == rank:
            seen[name]["export"] = answered(home, name)
    out.write_text(json.dumps(seen))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
