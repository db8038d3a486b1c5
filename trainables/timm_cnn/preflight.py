"""What can be known, and refused, about data and weights before anything starts."""

from __future__ import annotations

from typing import Any

from trainables.data.sources import open_table
from trainables.timm_cnn.spec import TimmCnnSpec
from trainables.timm_cnn.weights import locate, plain_body
from tune.core.errors import Problem, UserError

_THIN = 5  # validation or test images of a class below which its scores say little


def look_at_data(spec: TimmCnnSpec, seed: int) -> dict[str, Any]:
    """Facts about data and weights: `digest`, `counts` (split -> class -> rows), `classes`, `rows`, `image_size`, `weights`, `warnings`.

    Fetches hub weights once, so that trials do not do it at the same time. `seed` is not needed: the split has its own. Raises
    UserError with every problem of data, model and weights.
    """
    problems: list[Problem] = []
    facts: dict[str, Any] = {}
    try:
        table = open_table(spec.data)
        counts = table.counts()
        rows = {name: sum(by_class.values()) for name, by_class in counts.items()}
        warnings = [*table.warnings, *_warnings(counts, rows, spec)]
        facts |= {"digest": table.digest, "classes": list(table.classes), "counts": counts, "rows": rows, "warnings": warnings}
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


def _warnings(counts: dict[str, dict[str, int]], rows: dict[str, int], spec: TimmCnnSpec) -> list[str]:
    found = []
    thin = sorted({label for name in ("val", "test") for label in counts["train"] if counts[name].get(label, 0) < _THIN})
    if thin:
        shown = ", ".join(thin[:5]) + (f" and {len(thin) - 5} more" if len(thin) > 5 else "")
        found.append(f"fewer than {_THIN} validation or test images of {shown}: their scores say little")
    if spec.batch > rows["train"]:
        found.append(f"batch {spec.batch} is larger than the {rows['train']} training images: an epoch is one smaller step")
    return found
