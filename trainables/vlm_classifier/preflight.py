"""What can be known, and refused, about data, weights and what is kept, before anything starts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from trainables.vlm_classifier.encoder import open_encoder
from trainables.vlm_classifier.encoder_specs import TINY
from trainables.vlm_classifier.estimate import Saving, saving
from trainables.vlm_classifier.losses import class_weights
from trainables.vlm_classifier.spec import VlmClassifierSpec
from trainables.vlm_classifier.task import Task, open_task
from trainables.vlm_classifier.weights import Weights, encoder_weights
from trainables.weights_look import weights_problems
from tune.core.errors import Problem, UserError

_THIN = 5  # validation or test rows of a class below which its scores say little


def look(spec: VlmClassifierSpec, seed: int) -> dict[str, Any]:
    """Facts about data, weights and cache: `digest`, `counts`, `classes`, `rows`, `weights`, `kept`, `notes`, `warnings`.

    Fetches hub weights once, so that trials do not do it at the same time. `seed` is not needed: the split has its own. Raises
    UserError with every problem, and with what was found besides.
    """
    problems: list[Problem] = []
    facts: dict[str, Any] = {"warnings": [], "notes": []}
    n_rows: int | None = None
    try:
        task = open_task(spec)
        n_rows = len(task.table.rows)
        class_weights(spec.loss, task.classes, task.labels_N[task.split["train"]])
        facts |= {"digest": task.table.digest, "classes": list(task.classes), "counts": _counts(task), "rows": task.table.counts()}
        facts["warnings"] += [*task.table.warnings, *_warnings(facts["counts"], spec)]
    except UserError as error:
        problems += error.problems
    try:
        found = encoder_weights(spec.encoder)
        facts["weights"] = {name: TINY if one.folder is None else str(one.folder) for name, one in found.items()}
        problems += _of_another_shape(spec, found)
        drawn = [name for name, one in found.items() if one.folder is None]
        if drawn:
            facts["warnings"].append(f"the weights of {' and '.join(drawn)} are random: scores say nothing about the published model")
    except UserError as error:
        problems += error.problems
    try:
        facts |= _kept(spec, n_rows, facts)
    except UserError as error:
        problems += [problem for problem in error.problems if "weights" in facts or problem.where != "model"]  # absent weights: said above
    if problems:
        raise UserError(list(dict.fromkeys(problems)), facts)
    return facts


def _of_another_shape(spec: VlmClassifierSpec, found: Mapping[str, Weights]) -> list[Problem]:
    """Weights of transformers' models against their configuration; a model that cannot even be made is refused by `_kept`."""
    try:
        module: Any = open_encoder(spec.encoder, found, with_weights=False).module
    except (UserError, RuntimeError, ValueError, AttributeError):
        return []
    places = {"model": module, "text": getattr(module, "text_model", None)}
    read = [(one.folder, places[name], one.where) for name, one in found.items() if name in places]
    return [problem for folder, model, where in read if folder is not None for problem in weights_problems(folder, model, where)]


def _kept(spec: VlmClassifierSpec, n_rows: int | None, facts: dict[str, Any]) -> dict[str, Any]:
    """What the cache does. Raises UserError where it is required and cannot be."""
    if spec.cache.use == "off":
        return {"kept": None, "notes": [*facts["notes"], "frozen outputs are not kept (cache.use: off)"]}
    try:
        saved = saving(spec)
    except (RuntimeError, ValueError, AttributeError) as error:  # the model itself refuses a row of these sizes
        said = (str(error).splitlines() or [type(error).__name__])[0][:300]
        got = f"a model that cannot compute a row: {said}"
        raise UserError(Problem("trainable.encoder", got, "set image_size to null, or check the checkpoint's config.json")) from None
    size = None if n_rows is None else saved.row_bytes * n_rows
    fits = size is None or size <= spec.cache.max_gb * 1e9
    if spec.cache.use == "required" and (saved.frontier.empty or not fits):
        why = saved.frontier.words() if saved.frontier.empty else f"{(size or 0) / 1e9:.3g} GB, over cache.max_gb {spec.cache.max_gb:g}"
        raise UserError(Problem("trainable.cache.use", f"required, but what can be kept is {why}", "set it to auto, or mend what stops it"))
    kept = {"frontier": dict(saved.frontier.places), "why": dict(saved.frontier.why), "row_bytes": saved.row_bytes, "size_bytes": size}
    return {"kept": {**kept, "share_of_forward": saved.share}, "notes": [*facts["notes"], saving_words(saved, n_rows, fits, spec)]}


def saving_words(saved: Saving, n_rows: int | None, fits: bool, spec: VlmClassifierSpec) -> str:
    """One line for people."""
    if saved.frontier.empty:
        return f"frozen outputs cannot be kept: {saved.frontier.words()}"
    rows = "" if n_rows is None else f", {saved.row_bytes * n_rows / 1e6:,.1f} MB for {n_rows:,} rows"
    if not fits:
        needed_gb = saved.row_bytes * (n_rows or 0) / 1e9
        return f"frozen outputs are not kept: they take {needed_gb:.3g} GB and cache.max_gb is {spec.cache.max_gb:g}"
    return (
        f"frozen outputs are computed once for all trials and epochs: {saved.frontier.words()}; "
        f"{saved.share:.1%} of a row's forward ({saved.kept_flops / 1e9:.3g} GFLOP){rows}"
    )


def _counts(task: Task) -> dict[str, dict[str, int]]:
    return {
        name: {task.classes[c]: n for c, n in sorted(Counter(task.labels_N[rows].tolist()).items())} for name, rows in task.split.items()
    }


def _warnings(counts: dict[str, dict[str, int]], spec: VlmClassifierSpec) -> list[str]:
    found = []
    thin = sorted({label for name in ("val", "test") for label in counts["train"] if counts[name].get(label, 0) < _THIN})
    if thin:
        shown = ", ".join(thin[:5]) + (f" and {len(thin) - 5} more" if len(thin) > 5 else "")
        found.append(f"fewer than {_THIN} validation or test rows of {shown}: their scores say little")
    unseen = sorted({label for by_class in counts.values() for label in by_class} - counts["train"].keys())
    if unseen and spec.mode == "train":
        found.append(f"no row to train on of {', '.join(unseen[:5])}: it is never answered")
    n_train = sum(counts["train"].values())
    if spec.batch > n_train:
        found.append(f"batch {spec.batch} is larger than the {n_train} training rows: an epoch is one smaller step")
    return found
