"""One rank's part in whole trials of a tiny LLaVA: trained, gone on after a kill, alone, and what its export answers."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from tests.ranked import Ranked, apart, untimed
from tests.vlm_peft.cases import spec_of
from trainables.vlm_peft import recipe
from trainables.vlm_peft.chat import Chat
from trainables.vlm_peft.evaluate import Asker, judge
from trainables.vlm_peft.export import export, opened
from trainables.vlm_peft.export import predict as predictor
from trainables.vlm_peft.model import _processor_from, load_config
from trainables.vlm_peft.spec import METRICS, VlmPeftSpec
from trainables.vlm_peft.task import PREDICTIONS, Task, open_tasks
from tune.core.exports import ExportOrder, Query

STAGES: dict[str, dict[str, Any]] = {"zero2": {"stage": 2}, "zero3": {"stage": 3, "persistence_threshold_elements": 0}}
N_ROWS = 20  # 12 to train on: two steps an epoch, the second smaller


def spec_for(home: Path, fields: Mapping[str, Any], zero: Mapping[str, Any] | None) -> VlmPeftSpec:
    settings = {"batch": 8, "optim": {"lr": 5e-3, "eps": 1e-6}, "engine": {"zero": zero, "accumulation": 2}}
    return spec_of(home / "rows", **{**settings, **fields})


def life(home: Path, name: str, spec: VlmPeftSpec, rank: int, **more: int) -> tuple[Ranked, dict[str, float]]:
    """A trial in the folder of its name, gone on with where a checkpoint lies there."""
    run = Ranked(home / name, home / "cache", METRICS, rank, **more)
    return run, dict(recipe.train(spec, run).metrics)


def trained(home: Path, name: str, spec: VlmPeftSpec, rank: int) -> dict[str, Any]:
    """To the end, and from what a kill before the last report would have left."""
    run, metrics = life(home, name, spec, rank)
    again, resumed = life(home, run.left_by_a_kill.relative_to(home).as_posix(), spec, rank)
    torch.distributed.barrier()
    return {
        "metrics": metrics,
        "last": untimed(run.reports[-1]),
        "resumed": resumed,
        "resumed reports": [untimed(report) for report in again.reports],
        "resumed apart": apart(again.folder, run.folder),
    }


def answered(home: Path, name: str, spec: VlmPeftSpec) -> dict[str, Any]:
    """What the export of a finished trial's folder is, and how it answers the test rows."""
    alone = Ranked(home / f"{name}-asked", home / "cache", METRICS, 0, 1)
    out = home / name / "export"
    out.mkdir()
    made = export(ExportOrder("t0000", spec, 7, home / name / "work", out))
    model, source = opened(out, spec, made.about["layout"] == "whole", "cpu")
    processor = _processor_from(out, source)
    chat = Chat(processor, source, ())
    tasks = open_tasks(spec, processor=processor, chat=chat, config=load_config(spec.model), reporter=alone)
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    batches = recipe.batches_for(base, chat, tasks, spec, alone)
    engine = spec.engine.model_copy(update={"zero": None})
    judged = judge(
        Asker(model, model, engine, alone, False), batches, tasks.target, "test", spec.evaluation, spec.scores_of(spec.data), chat
    )
    with (home / name / "work" / PREDICTIONS).open(encoding="utf-8", newline="") as file:
        tested = [row["predicted"] for row in csv.DictReader(file)]
    return {
        "kind": type(model).__name__,
        "loss": judged.loss,
        "tested": tested,
        "answers": list(judged.answers),
        "predicted": _predicted(out, json.loads(json.dumps(made.about)), tasks.target),
    }


def _predicted(out: Path, about: Mapping[str, Any], task: Task) -> list[str]:
    """By the way of `phasetune predict`, whose questions know no data set."""
    rows = [task.table.rows[int(i)] for i in task.table.split["test"]]
    queries = [Query(Image.open(BytesIO(row.image.load())).convert("RGB"), row.text) for row in rows if row.image is not None]
    return [answer.text for answer in predictor(out, about).answer(queries)]
