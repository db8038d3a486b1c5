"""What a trial of hosted fine-tuning in phases is: typed fields, their defaults and the metrics it promises.

Light: pydantic only, since `check` reads it. Where the published system says a value, it is the default (papers: GPT-4o by phases);
what nobody published (the learning rate multiplier, whether a phase goes on from the one before) is a field with a stated default.
The server itself is `profile`.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal, get_args

from pydantic import Field, model_validator

from trainables.data.spec import DataSpec
from trainables.openai_phases.limits import LIMITS
from trainables.openai_phases.profile import URL, Part, ProfileSpec
from trainables.openai_phases.wire import Dialect
from trainables.phases.results import phase_metrics
from trainables.phases.spec import Phase, PhasesSpec, check_lists, phases_of
from tune.core.metrics import Metric, MetricSet

Auto = Literal["auto"]
WidthPx = Annotated[int, Field(ge=16, le=4096)]
Epochs = Annotated[int, Field(ge=1, le=50)]  # the bounds of the API
Detail = Literal["low", "high", "auto"]
EvalSplit = Literal["val", "test"]
_URL_FIELDS = ("{id}", "{width_px}")


class HyperparametersSpec(Part):
    """What the API lets one set of a supervised job. auto: the server chooses, and its choice is not known before it is paid."""

    n_epochs: Auto | Epochs | tuple[Epochs, ...] = Field(
        default=3, description="Passes over a phase's rows: one number, auto, or a list with one for each phase."
    )
    batch_size: Auto | Annotated[int, Field(ge=1, le=256)] = Field(default=1, description="Examples in a step.")
    learning_rate_multiplier: Auto | Annotated[float, Field(gt=0, le=1000)] = Field(
        default="auto", description="Factor on the provider's own learning rate; the paper's is not published."
    )


class ImageSpec(Part):
    """How pictures travel."""

    transport: Literal["base64", "url"] = Field(default="base64", description="base64: inside the file; url: fetched by the server.")
    url_template: str | None = Field(
        default=None,
        description="Address of a picture, with {id} and {width_px}, such as https://host/{width_px}/{id}; with transport url only.",
    )
    jpeg_quality: int = Field(default=100, ge=1, le=100, description="Of the resized pictures; 100 as published.")
    detail: Detail | None = Field(
        default=None, description="low: 85 tokens a picture; high: 85 + 170 a tile; auto: the server chooses; null: not sent, as published."
    )

    @model_validator(mode="after")
    def _url_template_is_used(self) -> ImageSpec:
        if (self.transport == "url") != (self.url_template is not None):
            raise ValueError("transport url needs url_template, and transport base64 does not use it")
        if self.url_template is not None:
            if not URL.fullmatch(self.url_template) or "{id}" not in self.url_template:
                raise ValueError("url_template must be http(s)://host/path that holds {id}, without user, password, query or fragment")
            left = self.url_template
            for known in _URL_FIELDS:
                left = left.replace(known, "")
            if "{" in left or "}" in left:
                raise ValueError(f"url_template knows {' and '.join(_URL_FIELDS)} and no other braces")
        return self


class PromptSpec(Part):
    """What the model is asked and how its answer is to look. The task's wording is ours; the published one is not reproduced."""

    shape: Literal["published", "strict_json"] = Field(
        default="published",
        description=(
            "published: a text message, then an image message, and as answer {category: label} without quotes; strict_json: the same "
            "messages, a quoted JSON answer, and a JSON schema of the labels sent with every evaluation request."
        ),
    )
    task: str = Field(
        default="Look at the picture of a product and decide which one of these categories it belongs to.",
        min_length=1,
        max_length=20_000,
        description="The sentence before the list of categories.",
    )
    system: str | None = Field(default=None, min_length=1, max_length=20_000, description="System message; null: none, as published.")


class EvaluationSpec(Part):
    """How each phase's model is judged."""

    by: Literal["chat", "batch"] = Field(default="chat", description="chat: one request a row; batch: a file of requests, within 24 hours.")
    splits: tuple[EvalSplit, ...] = Field(default=("val", "test"), description="Rows on which every phase's model is judged; val picks it.")
    temperature: float | None = Field(default=None, ge=0, le=2, description="null: not sent, as published.")
    max_answer_tokens: int | None = Field(default=None, ge=1, le=16_384, description="null: not sent, as published.")
    concurrent_requests: int = Field(default=4, ge=1, le=256, description="Chat requests of one trial under way at once.")

    @model_validator(mode="after")
    def _val_is_there_once(self) -> EvaluationSpec:
        if "val" not in self.splits or len(set(self.splits)) < len(self.splits):
            raise ValueError("splits must hold val, since it picks the phase, and nothing twice")
        return self


class ExpectedSpec(Part):
    """What is known of data that are not at hand, so that `plan` can say what a study would cost. Training never reads it."""

    n_classes: int = Field(ge=2, le=10_000, description="Classes, each of the same number of rows.")
    train_rows: int = Field(ge=1, le=10_000_000, description="Training rows of all classes.")
    val_rows: int = Field(ge=1, le=10_000_000, description="Validation rows.")
    test_rows: int = Field(ge=1, le=10_000_000, description="Test rows.")
    question_chars: int = Field(ge=1, le=1_000_000, description="Length of the question's text.")
    label_chars: int = Field(ge=1, le=1_000, description="Mean length of a label.")
    height_per_width: float = Field(default=1.0, gt=0, le=100, description="Of the pictures.")

    @model_validator(mode="after")
    def _classes_share_the_rows(self) -> ExpectedSpec:
        for name in ("train_rows", "val_rows", "test_rows"):
            if getattr(self, name) % self.n_classes:
                raise ValueError(f"{name} must be a multiple of n_classes = {self.n_classes}, got {getattr(self, name)}")
        return self


class WaitSpec(Part):
    """How long the states of a job may last before the trial gives up; waiting in the study's own queue does not count."""

    poll_s: float = Field(default=20.0, gt=0, le=3600, description="Seconds between looks at a job or batch.")
    validating_hours: float = Field(default=12.0, gt=0, le=1000, description="Longest validation of files, picture scan included.")
    queued_hours: float = Field(default=48.0, gt=0, le=1000, description="Longest stay in the provider's queue.")
    running_hours: float = Field(default=24.0, gt=0, le=1000, description="Longest training.")
    settle_s: float = Field(
        default=120.0, gt=0, le=86_400, description="How long after a sending without an answer its effect may still show up."
    )
    model_minutes: float = Field(default=10.0, gt=0, le=10_000, description="Longest time until a new model answers.")


class OpenaiPhasesSpec(Part):
    """Fine-tune a hosted vision model in phases of few-shot blocks and judge the model of each phase."""

    kind: Literal["openai_phases"] = "openai_phases"
    profile: ProfileSpec = Field(default_factory=ProfileSpec, description="The server.")
    model: str = Field(default="gpt-4o-2024-08-06", min_length=1, description="Base model, or a tuned one to go on from.")
    zero_shot_model: str | None = Field(default=None, min_length=1, description="Model that phase 0 judges; null: `model`.")
    data: DataSpec = Field(default_factory=lambda: DataSpec(source="bundled"), description="The labelled pictures and their split.")
    expected: ExpectedSpec | None = Field(default=None, description="For `plan` where the data are not at hand; null: plan opens the data.")
    resolution_px: WidthPx | tuple[WidthPx, ...] = Field(
        default=400, description="Largest width of the pictures, aspect kept, never enlarged: one number, or one for each phase."
    )
    phases: PhasesSpec | None = Field(
        default_factory=lambda: PhasesSpec(count=4, share=0.25, zero_shot=True, pick="best"),
        description="Blocks of rows, what a phase starts from, zero-shot as phase 0, which phase is picked. null: one phase of all rows.",
    )
    hyperparameters: HyperparametersSpec = Field(default_factory=HyperparametersSpec, description="Of every phase's job.")
    images: ImageSpec = Field(default_factory=ImageSpec, description="How pictures travel.")
    prompt: PromptSpec = Field(default_factory=PromptSpec, description="The question and the shape of the answer.")
    validation_file: bool = Field(default=True, description="Send the validation rows with each job, for its validation loss.")
    evaluation: EvaluationSpec = Field(default_factory=EvaluationSpec, description="How each phase's model is judged.")
    stress: tuple[WidthPx, ...] = Field(default=(), description="Widths at which the picked model is tested besides its own.")
    report: Literal["phase", "epoch"] = Field(
        default="phase",
        description=(
            "What a step of the reports is. phase: a trial is stopped between phases; epoch: inside one too, judged by val/loss, and the "
            "money of a phase stopped inside is lost, since a cancelled job yields no model."
        ),
    )
    waits: WaitSpec = Field(default_factory=WaitSpec, description="How long to wait for what.")

    @model_validator(mode="after")
    def _phases_fit(self) -> OpenaiPhasesSpec:
        n_epochs = self.hyperparameters.n_epochs
        check_lists(self.phases, resolution_px=self.resolution_px, **({} if n_epochs == "auto" else {"n_epochs": n_epochs}))
        if self.report == "epoch" and n_epochs == "auto":
            raise ValueError("report: epoch with n_epochs: auto, so that nobody knows a trial's steps; give a number of epochs")
        if self.report == "epoch" and not self.validation_file:
            raise ValueError("report: epoch without validation_file, so that a step has no val/loss; set it to true")
        if len(set(self.stress)) < len(self.stress):
            raise ValueError(f"stress has a width twice, {list(self.stress)}; give each once")
        if self.zero_shot_model is not None and (self.phases is None or not self.phases.zero_shot):
            raise ValueError("zero_shot_model without phases.zero_shot, which would use it; remove it or set phases.zero_shot: true")
        return self

    @property
    def phase_list(self) -> tuple[Phase, ...]:
        """The phases in order. With n_epochs auto a phase's `epochs` is 1: how many it trains is not known."""
        n_epochs = self.hyperparameters.n_epochs
        return phases_of(self.phases, 1 if n_epochs == "auto" else n_epochs, self.resolution_px)

    @property
    def total_epochs(self) -> int:
        return sum(phase.epochs for phase in self.phase_list)

    @property
    def n_phases(self) -> int:
        return len(self.phase_list)


def job_suffix(dialect: Dialect, phase: Phase) -> str:
    """The published name of a phase's model, or a short one where the dialect allows no more. Trials differ by metadata, not by this."""
    published = f"phase-{phase.number}-resolution-{phase.resolution_px}"
    longest = LIMITS[dialect].suffix_chars
    return published if longest is None or len(published) <= longest else f"p{phase.number}-r{phase.resolution_px}"


def base_model_of(model: str) -> str:
    """The base of a tuned model's id: `ft:BASE:org:suffix:id`, with `:ckpt-step-N` or without, or Azure's `BASE.ft-HEX`."""
    if model.startswith("ft:"):
        return model.split(":")[1]
    return re.split(r"\.ft-[0-9a-f]+", model)[0]


def is_tuned(model: str) -> bool:
    return base_model_of(model) != model


_SCORES = ("accuracy", *(f"{score}_{mean}" for score in ("precision", "recall", "f1") for mean in ("weighted", "macro")))


def _scores(split: str, step_wise: bool) -> tuple[Metric, ...]:
    return (
        *(Metric(f"{split}/{name}", "share", "max", "answers that are no label of the list count as wrong", step_wise) for name in _SCORES),
        Metric(f"{split}/unparsed", "share", "min", "answers that could not be read", step_wise=False),
        Metric(f"{split}/out_of_list", "share", "min", "answers that name no label of the list", step_wise=False),
        Metric(f"{split}/seconds_per_prediction", "seconds", "min", "wall time of the requests / their number", step_wise),
        Metric(f"{split}/usd_per_prediction", "usd", "min", "bill of the requests / their number", step_wise),
    )


_TRAINING = (
    Metric("train/loss", "nats", "min", "last of the epoch or phase, as the server reports it"),
    Metric("train/token_accuracy", "share", "max", "mean token accuracy on training batches", step_wise=False),
    Metric("val/loss", "nats", "min", "full_valid_loss: mean over the whole validation file; absent in phase 0"),
    Metric("val/token_accuracy", "share", "max", "full_valid_mean_token_accuracy", step_wise=False),
)
_MONEY = (
    Metric("usd", "usd", "min", "billed, training and evaluation: of the trial so far, of the phase at its end"),
    Metric("trained_tokens", "count", "min", "billed by the job: tokens x epochs, skipped pictures left out", step_wise=False),
    Metric("skipped_images", "count", "min", "training pictures that the server says it left out", step_wise=False),
    Metric("waited_seconds", "seconds", "min", "spent in queues, which no budget of time counts", step_wise=False),
)
METRICS = MetricSet(
    metrics=(
        *_scores("val", step_wise=True),
        *_TRAINING,
        *_MONEY,
        Metric("seconds", "seconds", "min", "wall time of the step without waiting in queues"),
        *_scores("test", step_wise=False),
        Metric("test/accuracy_standard_error", "share", "min", "sqrt(p (1 - p) / n)", step_wise=False),
        *phase_metrics((*_scores("val", step_wise=False), *_scores("test", step_wise=False), *_TRAINING, *_MONEY)),
        Metric("phase_picked", "count", "max", "phase whose model is the trial's; 0 is the base model", step_wise=False),
        Metric("majority/accuracy", "share", "max", "test accuracy of always answering the commonest training class", step_wise=False),
    ),
    prefixes=(
        *(Metric(f"test/{score}/", "share", "max", "by class", step_wise=False) for score in ("precision", "recall", "f1")),
        Metric("stress/", "share", "max", "test scores at other widths, such as stress/100/accuracy", step_wise=False),
    ),
)
assert set(get_args(Dialect)) == set(LIMITS), "every dialect has its limits"
