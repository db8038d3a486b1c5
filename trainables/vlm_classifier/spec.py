"""What a classifier on an image and text model is: typed fields, their defaults and the metrics the recipe promises.

Light: imports neither torch nor transformers, since `check` reads it. A knob stands in the branch that uses it. The defaults are our
choice; published values stand in the study files of configs/papers.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from trainables.engine_spec import EngineSpec
from trainables.peft_methods.spec import PeftSpec
from trainables.timm_cnn.spec import AugmentSpec, ConstantSchedule, EarlyStopSpec, RefitSpec, Schedule
from trainables.vlm_classifier.encoder_specs import EncoderSpec, SpecPart
from trainables.vlm_data.spec import VlmDataSpec
from tune.core.metrics import Metric, MetricSet

Fusion = Literal["concat", "product", "both"]


class BothSpec(SpecPart):
    """How the features of picture and words become one vector, for families whose towers do not meet inside."""

    fusion: Fusion = Field(
        default="concat",
        description="concat: side by side; product: element by element (of two widths, after a linear layer to the smaller); both.",
    )


class InputsSpec(SpecPart):
    """What of a row is looked at."""

    use: Literal["image", "text", "both"] = Field(default="both", description="The picture, the words, or both.")
    both: BothSpec | None = Field(default=None, description="Knobs of use: both.")

    @model_validator(mode="after")
    def _every_knob_is_used(self) -> InputsSpec:
        if self.both is not None and self.use != "both":
            raise ValueError(f"both is given while use is {self.use}; remove it or set use: both")
        return self

    @property
    def fusion(self) -> Fusion:
        return (BothSpec() if self.both is None else self.both).fusion


class HeadSpec(SpecPart):
    """What stands on the features: norm, dropout, hidden layers, one output a class."""

    hidden: str = Field(
        default="none", pattern=r"^(none|[1-9]\d{0,4}(-[1-9]\d{0,4})*)$", description="Widths of hidden layers: none, 512, 1024, 512-256."
    )
    activation: Literal["relu", "gelu"] = Field(default="relu", description="After each hidden layer.")
    dropout: float = Field(default=0.1, ge=0, lt=1, description="Before each linear layer.")
    norm: Literal["layer", "l2", "none"] = Field(
        default="layer", description="Of the features of each tower: layer norm, to length 1 (as CLIP compares them), or as they are."
    )

    @property
    def hidden_sizes(self) -> tuple[int, ...]:
        return () if self.hidden == "none" else tuple(int(width) for width in self.hidden.split("-"))


class FocalSpec(SpecPart):
    """Focal loss (Lin et al. 2017): each row's cross-entropy times (1 - p)^gamma, p the probability of its true class."""

    gamma: float = Field(default=2.0, gt=0, le=10, description="How much rows that are right already count less.")


class LossSpec(SpecPart):
    """The loss. Validation and test report plain cross-entropy whatever it is."""

    kind: Literal["cross_entropy", "focal"] = Field(default="cross_entropy", description="Cross-entropy or focal loss.")
    focal: FocalSpec | None = Field(default=None, description="Knobs of kind: focal.")
    class_weights: Literal["none", "balanced"] | dict[str, Annotated[float, Field(gt=0)]] = Field(
        default="none", description="balanced: rows / (classes x rows of the class), as scikit-learn's; or a weight for each class by name."
    )
    label_smoothing: float = Field(default=0.0, ge=0, lt=1, description="Share of the target spread over all classes.")

    @model_validator(mode="after")
    def _every_knob_is_used(self) -> LossSpec:
        if self.focal is not None and self.kind != "focal":
            raise ValueError(f"focal is given while kind is {self.kind}; remove it or set kind: focal")
        return self


class OptimSpec(SpecPart):
    """The optimiser. Factors on the learning rate of single parts stand in peft.lr_factors."""

    kind: Literal["adam", "adamw", "sgd"] = Field(
        default="adamw", description="adamw decouples weight decay; the others add it to the gradient."
    )
    lr: float = Field(default=1e-3, gt=0, le=10, description="Learning rate.")
    weight_decay: float = Field(default=0.0, ge=0, le=10, description="Weight decay; norms and biases of the encoder have none.")
    momentum: float | None = Field(
        default=None, ge=0, lt=1, description="Momentum of sgd; the engine's default when absent; refused for the others."
    )

    @model_validator(mode="after")
    def _momentum_is_used(self) -> OptimSpec:
        if self.momentum is not None and self.kind != "sgd":
            raise ValueError(f"momentum is not used by {self.kind}: remove it or set kind: sgd")
        return self


class ZeroShotSpec(SpecPart):
    """A class by the cosine between a row and sentences about the class."""

    templates: tuple[str, ...] = Field(
        default=("a photo of {label}.",), min_length=1, description="Sentences; {label} is the class. Their features are averaged."
    )

    @model_validator(mode="after")
    def _templates_name_the_class(self) -> ZeroShotSpec:
        for template in self.templates:
            if "{label}" not in template:
                raise ValueError(f"template {template!r} does not say {{label}}, so that all classes are one; put it in")
        return self


class CacheSpec(SpecPart):
    """Keeping what frozen modules give, once a node, for all trials and epochs."""

    use: Literal["auto", "required", "off"] = Field(
        default="auto", description="auto: what can be kept is; required: a spec of which nothing can be kept is refused; off: nothing is."
    )
    max_gb: float = Field(default=20.0, gt=0, description="Bound on all such files of a node; what was used longest ago goes first.")


class VlmClassifierSpec(SpecPart):
    """Classify rows of picture and words by a head on a pretrained model, adapted or frozen, or without training."""

    kind: Literal["vlm_classifier"] = "vlm_classifier"
    data: VlmDataSpec = Field(default_factory=lambda: VlmDataSpec(reader="clipart"), description="The rows, which have one class each.")
    encoder: EncoderSpec = Field(default_factory=EncoderSpec, description="The pretrained model.")
    inputs: InputsSpec = Field(default_factory=InputsSpec, description="What of a row is looked at.")
    mode: Literal["train", "zero_shot"] = Field(default="train", description="zero_shot: nothing is trained (clip and siglip).")
    zero_shot: ZeroShotSpec | None = Field(default=None, description="Knobs of mode: zero_shot.")
    peft: PeftSpec = Field(
        default_factory=lambda: PeftSpec(method="frozen"), description="What of the encoder is trained; method: frozen, the head alone."
    )
    head: HeadSpec = Field(default_factory=HeadSpec, description="The head, which is always trained.")
    loss: LossSpec = Field(default_factory=LossSpec, description="The loss.")
    sampling: Literal["natural", "balanced"] = Field(
        default="natural", description="balanced: an epoch's rows are drawn with replacement, every class equally often."
    )
    batch: int = Field(default=32, ge=1, le=65_536, description="Rows in a step of the optimiser, over all workers.")
    epochs: int = Field(default=10, ge=1, le=100_000, description="Most epochs of a trial.")
    optim: OptimSpec = Field(default_factory=OptimSpec, description="The optimiser.")
    schedule: Schedule = Field(default_factory=lambda: ConstantSchedule(kind="constant"), description="Learning rate over the epochs.")
    clip_grad_norm: float | None = Field(default=1.0, gt=0, description="Largest norm of the gradient; null: no clipping.")
    augment: AugmentSpec | None = Field(
        default=None, description="Random changes of training pictures; null: none. With them the vision tower's outputs cannot be kept."
    )
    early_stop: EarlyStopSpec | None = Field(default=None, description="End a trial that does not improve; null: never.")
    objective: Literal["last", "best"] = Field(
        default="best",
        description="Which epoch's validation metrics are the trial's result: the last, or that of the lowest validation loss.",
    )
    refit: RefitSpec | None = Field(
        default=None, description="Train the winner again after the search; null: its own best epoch is the model."
    )
    baseline: bool = Field(
        default=False,
        description="Before the search: majority class and logistic regression on frozen features of picture, words and both.",
    )
    cache: CacheSpec = Field(default_factory=CacheSpec, description="Keeping what frozen modules give.")
    engine: EngineSpec = Field(default_factory=EngineSpec, description="Precision, ZeRO stage, accumulation.")

    @property
    def total_epochs(self) -> int:
        return 1 if self.mode == "zero_shot" else self.epochs

    @property
    def streams(self) -> tuple[str, ...]:
        """The sides of a row that are looked at."""
        return ("image", "text") if self.inputs.use == "both" else (self.inputs.use,)

    @property
    def whole_encoder_frozen(self) -> bool:
        return self.peft.method == "frozen" and self.peft.connector == "frozen" and self.peft.vision == "frozen"

    @model_validator(mode="after")
    def _every_knob_is_used(self) -> VlmClassifierSpec:
        if not self.data.entry.has_labels:
            raise ValueError(f"data.reader {self.data.reader}, whose rows have no class; use mvsa or clipart")
        if self.zero_shot is not None and self.mode != "zero_shot":
            raise ValueError("zero_shot is given while mode is train; remove it or set mode: zero_shot")
        if self.inputs.both is not None and self.encoder.fuses_itself:
            raise ValueError(f"inputs.both is not used by {self.encoder.family}, where picture and words meet inside; remove it")
        if self.encoder.fuses_itself and self.inputs.use == "text":
            raise ValueError(f"inputs.use: text with {self.encoder.family}, which is asked about a picture; use both or image")
        if self.inputs.use == "both" and "{text}" not in getattr(self.encoder.chosen, "prompt", "{text}"):
            raise ValueError("inputs.use: both with a prompt without {text}, which loses the words; add it, or set inputs.use: image")
        if self.augment is not None and "image" not in self.streams:
            raise ValueError("augment is not used without the picture; remove it or set inputs.use: both")
        if "text" in self.streams and self.data.words == "none" and not self.encoder.fuses_itself:
            raise ValueError("data.text_field: none leaves no words to look at; set inputs.use: image")
        return self

    @model_validator(mode="after")
    def _method_trains_a_classifier(self) -> VlmClassifierSpec:
        if self.peft.method in ("prefix", "prompt"):
            raise ValueError(f"peft.method: {self.peft.method} learns tokens of a model that gives text; use lora or another method")
        if self.peft.method == "adalora":
            raise ValueError("peft.method: adalora, whose ranks are not shared out by this recipe; use lora")
        if self.peft.lr_factors.head is not None and self.mode == "zero_shot":
            raise ValueError("peft.lr_factors.head is not used by mode: zero_shot; remove it")
        return self

    @model_validator(mode="after")
    def _zero_shot_trains_nothing(self) -> VlmClassifierSpec:
        if self.mode != "zero_shot":
            return self
        if self.encoder.family not in ("clip", "siglip"):
            raise ValueError(
                f"mode: zero_shot with {self.encoder.family}, which has no space that picture and words share; use clip or siglip"
            )
        if not self.whole_encoder_frozen:
            raise ValueError("mode: zero_shot with peft: nothing is trained; remove peft")
        for name in ("augment", "early_stop", "refit"):
            if getattr(self, name) is not None:
                raise ValueError(f"{name} is not used by mode: zero_shot; remove it")
        return self

    @model_validator(mode="after")
    def _cache_is_possible(self) -> VlmClassifierSpec:
        """What can be said without the model; the rest is said by `plan` and by the trial."""
        if self.cache.use != "required":
            return self
        if self.encoder.frozen_dropout:
            raise ValueError("cache.use: required with encoder.frozen_dropout, which makes every output differ; set one of them otherwise")
        if self.augment is not None and self.streams == ("image",):
            raise ValueError(
                "cache.use: required with augment, which changes the pictures in every epoch; remove augment, or set use: auto"
            )
        return self


def _scores(split: str, step_wise: bool) -> tuple[Metric, ...]:
    names = ("accuracy", *(f"{score}_{mean}" for score in ("precision", "recall", "f1") for mean in ("weighted", "macro")))
    shares = tuple(Metric(f"{split}/{name}", "share", "max", step_wise=step_wise) for name in names)
    return (Metric(f"{split}/loss", "nats", "min", "mean cross-entropy", step_wise), *shares)


METRICS = MetricSet(
    metrics=(
        *_scores("val", step_wise=True),
        Metric("train/loss", "nats", "min", "mean training loss of the epoch, as weighted, dropout on"),
        *(Metric(f"train/{name}", "share", "max", "in training, dropout on") for name in ("accuracy", "f1_weighted", "f1_macro")),
        Metric("learning_rate", "1", "min", "learning rate in this epoch, before the parts' factors"),
        Metric("seconds", "seconds", "min", "wall time of the epoch with its validation"),
        Metric("rows_per_second", "rows/s", "max", "training rows a second, validation left out"),
        Metric("peak_memory_bytes", "bytes", "min", "GPU memory at its peak, or the process's resident peak on a CPU"),
        *_scores("test", step_wise=False),
        Metric("test/accuracy_standard_error", "share", "min", "sqrt(p (1 - p) / n)", step_wise=False),
        Metric("best_epoch", "count", "min", "0-based epoch of the lowest validation loss, whose weights are kept", step_wise=False),
        Metric("trainable_parameters", "count", "min", "parameters that are trained", step_wise=False),
        Metric("kept_bytes", "bytes", "min", "outputs of frozen modules that were read from disk instead of computed", step_wise=False),
        Metric("majority/accuracy", "share", "max", "test accuracy of always answering the commonest training class", step_wise=False),
    ),
    prefixes=(
        *(Metric(f"test/{score}/", "share", "max", "by class", step_wise=False) for score in ("precision", "recall", "f1")),
        *(
            Metric(f"{side}_only/", "share", "max", f"logistic regression on the {side}'s features", step_wise=False)
            for side in ("image", "text")
        ),
    ),
)
