"""What can be known, and refused, about data and weights before anything starts."""

from __future__ import annotations

from typing import Any

from trainables.timm_cnn.spec import TimmCnnSpec
from trainables.timm_cnn.task import Task, open_task
from trainables.timm_cnn.weights import locate, plain_body
from tune.core.errors import Problem, UserError

_THIN = 5  # validation or test images of a class below which its scores say little


def look_at_data(spec: TimmCnnSpec, seed: int) -> dict[str, Any]:
    """Facts about data and weights: `digest`, `counts` (split -> class -> rows), `classes`, `rows`, `image_size`, `weights`, `warnings`.

    With phases also `phases`: number, resolution, rows, epochs and start of each.

    Fetches hub weights once, so that trials do not do it at the same time. `seed` is not needed: the split has its own. Raises
    UserError with every problem of data, model and weights.
    """
    problems: list[Problem] = []
    facts: dict[str, Any] = {}
    try:
        task = open_task(spec)
        table, counts = task.table, task.table.counts()
        rows = {name: sum(by_class.values()) for name, by_class in counts.items()}
        warnings = [*table.warnings, *_warnings(counts, task, spec)]
        facts |= {"digest": table.digest, "classes": list(table.classes), "counts": counts, "rows": rows, "warnings": warnings}
        if spec.phases is not None:
            facts["phases"] = _phases(task, spec)
    except UserError as error:
        problems += error.problems
    try:
        plain_body(spec.model)
        weights = locate(spec.model)
        facts |= {"image_size": spec.image_size, "weights": spec.model.weights if weights is None else str(weights)}
    except UserError as error:
        problems += error.problems
    if problems:
        raise UserError(problems)
    return facts


def _phases(task: Task, spec: TimmCnnSpec) -> list[dict[str, Any]]:
    return [
        {"phase": phase.number, "resolution": phase.resolution_px, "rows": len(rows), "epochs": phase.epochs, "start": phase.start}
        for phase, rows in zip(spec.phase_list, task.rows_by_phase, strict=True)
    ]


def _warnings(counts: dict[str, dict[str, int]], task: Task, spec: TimmCnnSpec) -> list[str]:
    found = []
    thin = sorted({label for name in ("val", "test") for label in counts["train"] if counts[name].get(label, 0) < _THIN})
    if thin:
        shown = ", ".join(thin[:5]) + (f" and {len(thin) - 5} more" if len(thin) > 5 else "")
        found.append(f"fewer than {_THIN} validation or test images of {shown}: their scores say little")
    fewest = min(len(rows) for rows in task.rows_by_phase)
    if spec.batch > fewest:
        whose = "" if spec.phases is None else " of a phase"
        found.append(f"batch {spec.batch} is larger than the {fewest} training images{whose}: an epoch is one smaller step")
    return found
