"""kind -> what a study may name under `trainable.kind`: its spec class, its recipe, the metrics it promises. One line each.

Specs and recipes are named as "module:name" and imported when asked for: `check` reads only specs (light), a worker only recipes.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from trainables.shared_out import shared_out
from tune.core.metrics import MetricSet


@dataclass(frozen=True)
class Entry:
    """`spec`: a pydantic model. `recipe`: `(spec, reporter) -> Outcome`. `metrics`: a MetricSet. `help`: one line for people.

    `baseline`, `refit`: recipes of the same signature for the reference trial before and the refit of the winner after a search,
    or None where the kind has none. `preflight`: `(spec, seed) -> dict` of facts about the data (digest, counts, warnings),
    raising UserError before anything starts. `estimate`: `(spec) -> trainables.catalog.Estimate` for `plan`, without training;
    `estimates` names what it can say. With `estimate_by_workers` it is `(spec, workers)`: what one of so many workers needs.
    `cost`: `(specs, n_trials, first_stop) -> trainables.catalog.StudyDollars`, for `plan`, of a kind that spends money: the base spec
    first, then those of the extremes of the space; None for trials that no number limits; the steps after which a trial may be
    stopped at the earliest, or None.
    `fits`: `(spec, workers) -> None`, raising UserError if that many workers of a trial cannot share its work; light, `check` asks it.
    `permits`: `(spec) -> Mapping[str, tune.core.permits.Permit]`, limits of outside services that the trials of a study share; light.
    `after_stop`: `(spec, reporter) -> None`, what a trial that was told to stop while its process was gone has still to do.
    `axes`: what the steps of its reports may count -> the spec's attribute that says how many a trial has. Of several, the spec's
    field `report` names the one that this study's trials report on; the first is the default.
    `export`: `(tune.core.exports.ExportOrder) -> Exported`, writes a trial's model; `predict`: `(folder, about) -> Predictor`, opens it.
    `may_change`: keys (or what they begin with; "*" is all) that may have other values than those a checkpoint was made with.
    """

    spec: str
    recipe: str
    metrics: str
    help: str
    baseline: str | None = None
    refit: str | None = None
    preflight: str | None = None
    estimate: str | None = None
    estimates: tuple[str, ...] = ()
    estimate_by_workers: bool = False
    cost: str | None = None
    fits: str | None = None
    permits: str | None = None
    after_stop: str | None = None
    export: str | None = None
    predict: str | None = None
    may_change: tuple[str, ...] = ()
    axes: Mapping[str, str] = field(default_factory=lambda: {"epoch": "epochs"})


@dataclass(frozen=True)
class Estimate:
    """What one trial would need, as far as its kind can say; None where it does not apply or is not known."""

    trainable_parameters: int | None = None
    total_parameters: int | None = None
    peak_memory_bytes: int | None = None
    seconds: float | None = None
    usd: float | None = None
    note: str | None = None
    """What a reader must know besides, such as what settings that are `auto` become."""


@dataclass(frozen=True)
class Dollars:
    """Between two figures, and how they come about, a line a figure."""

    low: float
    high: float
    working: str = ""


@dataclass(frozen=True)
class StudyDollars:
    """What a study would spend. `phases`: of a trial at the base point, by name. `study`: None if no number limits the trials."""

    phases: tuple[tuple[str, Dollars], ...]
    trial: Dollars
    study: Dollars | None
    notes: tuple[str, ...] = ()


CATALOG: dict[str, Entry] = {
    "timm_cnn": Entry(
        spec="trainables.timm_cnn.spec:TimmCnnSpec",
        recipe="trainables.timm_cnn.recipe:train",
        metrics="trainables.timm_cnn.spec:METRICS",
        help="fine-tune any timm image model on labelled images",
        baseline="trainables.timm_cnn.baseline:linear_probe",
        refit="trainables.timm_cnn.recipe:refit",
        preflight="trainables.timm_cnn.preflight:look_at_data",
        estimate="trainables.timm_cnn.estimate:estimate",
        estimates=("trainable_parameters", "total_parameters", "peak_memory_bytes"),
        fits="trainables.fits:batch_splits",
        export="trainables.timm_cnn.export:export",
        predict="trainables.timm_cnn.export:predict",
        may_change=("optim.lr", "optim.head_lr_factor", "augment", "loss", "clip_grad_norm"),
        axes={"epoch": "total_epochs", "phase": "n_phases"},
    ),
    "vlm_peft": Entry(
        spec="trainables.vlm_peft.spec:VlmPeftSpec",
        recipe="trainables.vlm_peft.recipe:train",
        metrics="trainables.vlm_peft.spec:METRICS",
        help="fine-tune a multimodal language model (PEFT, SPIDER, ZeRO) to answer questions on pictures by text",
        baseline="trainables.vlm_peft.baseline:zero_shot",
        export="trainables.vlm_peft.export:export",
        predict="trainables.vlm_peft.export:predict",
        preflight="trainables.vlm_peft.preflight:look",
        estimate="trainables.vlm_peft.estimate:estimate",
        estimates=("trainable_parameters", "total_parameters", "peak_memory_bytes"),
        estimate_by_workers=True,
        fits="trainables.fits:batch_splits",
        axes={"epoch": "n_epochs", "evaluation": "n_evaluations"},
    ),
    "vlm_classifier": Entry(
        spec="trainables.vlm_classifier.spec:VlmClassifierSpec",
        recipe="trainables.vlm_classifier.recipe:train",
        metrics="trainables.vlm_classifier.spec:METRICS",
        help="a head, with or without adapters, on CLIP, SigLIP, BLIP-2, LLaVA or two towers, for rows of picture and words",
        baseline="trainables.vlm_classifier.baseline:linear_probe",
        refit="trainables.vlm_classifier.recipe:refit",
        export="trainables.vlm_classifier.export:export",
        predict="trainables.vlm_classifier.export:predict",
        preflight="trainables.vlm_classifier.preflight:look",
        estimate="trainables.vlm_classifier.estimate:estimate",
        estimates=("trainable_parameters", "total_parameters", "peak_memory_bytes"),
        fits="trainables.fits:batch_splits",
        axes={"epoch": "total_epochs"},
    ),
    "openai_phases": Entry(
        spec="trainables.openai_phases.spec:OpenaiPhasesSpec",
        recipe="trainables.openai_phases.recipe:train",
        metrics="trainables.openai_phases.spec:METRICS",
        help="fine-tune a hosted vision model by phases through OpenAI's wire, and judge the model of each phase",
        preflight="trainables.openai_phases.preflight:look",
        estimate="trainables.openai_phases.estimate:estimate",
        estimates=("usd",),
        cost="trainables.openai_phases.estimate:of_study",
        fits="trainables.openai_phases.queue:one_worker",
        permits="trainables.openai_phases.queue:permits",
        after_stop="trainables.openai_phases.recipe:after_stop",
        axes={"phase": "n_phases", "epoch": "total_epochs"},
    ),
    "comparison": Entry(
        spec="trainables.comparison.spec:ComparisonSpec",
        recipe="trainables.comparison.recipe:train",
        metrics="trainables.comparison.spec:METRICS",
        help="hosted phases and timm networks as branches of one study, on the same rows, under one budget in dollars",
        preflight="trainables.comparison.study:look",
        estimate="trainables.comparison.study:estimate",
        estimates=("usd",),
        cost="trainables.comparison.study:of_study",
        fits="trainables.comparison.study:fits",
        permits="trainables.comparison.study:permits",
        after_stop="trainables.comparison.recipe:after_stop",
        axes={"phase": "n_phases"},
    ),
    "curve": Entry(
        spec="trainables.curve.spec:CurveSpec",
        recipe="trainables.curve.recipe:train",
        metrics="trainables.curve.spec:METRICS",
        help="a synthetic learning curve of known optimum, to try a search or a cluster without training anything",
        may_change=("*",),
    ),
}


def load(reference: str) -> Any:
    """The object named "module:name"."""
    module, _, name = reference.partition(":")
    return getattr(importlib.import_module(module), name)


def estimated(entry: Entry, spec: Any, workers: int, at_work: int | None = None) -> Estimate:
    """What one worker of a trial would need, by the kind's estimate, while `at_work` of its `workers` are there (None: all). Raises
    UserError as that does."""
    if entry.estimate is None:
        return Estimate()
    at_work = workers if at_work is None else at_work
    shared = shared_out(spec, workers, at_work)
    found: Estimate = load(entry.estimate)(shared, at_work) if entry.estimate_by_workers else load(entry.estimate)(shared)
    return found


def spec_class(kind: str) -> type:
    return load(CATALOG[kind].spec)


def metrics_of(kind: str) -> MetricSet:
    return load(CATALOG[kind].metrics)
