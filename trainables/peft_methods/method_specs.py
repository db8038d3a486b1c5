"""The knobs of each PEFT method, one class a method. Light: imports neither torch nor peft, since `check` reads it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Location = Literal["attn", "mlp", "both"]
Nonlinearity = Literal["tanh", "relu", "gelu", "silu", "linear"]
OWN_CONFIG_KEYS = ("peft_type", "task_type", "inference_mode", "base_model_name_or_path", "revision", "modules_to_save", "auto_mapping")


class SpecPart(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class LayerRange(SpecPart):
    """Which decoder blocks of the language model are adapted."""

    layers: tuple[int, int] | None = Field(
        default=None, description="First block and the block to end before, counted from 0: [30, 32] are blocks 30 and 31; null: all."
    )
    last_layers: int | None = Field(default=None, ge=1, description="Only that many last blocks; null: all.")

    @model_validator(mode="after")
    def _one_range(self) -> LayerRange:
        if self.layers is not None and self.last_layers is not None:
            raise ValueError("both layers and last_layers are given; keep one of the two")
        if self.layers is not None and not 0 <= self.layers[0] < self.layers[1]:
            raise ValueError(f"layers must be two numbers 0 <= first < end, got {list(self.layers)}")
        return self


class Targeted(LayerRange):
    """Which linear layers of the adapted blocks are adapted."""

    location: Location | None = Field(
        default=None, description="Linear layers of the attention, of the feed-forward part, or both; null: both, unless targets says."
    )
    targets: tuple[str, ...] | None = Field(
        default=None, min_length=1, description="Last names of the linear layers, such as [q_proj, v_proj]; null: the method's own choice."
    )

    @model_validator(mode="after")
    def _one_choice(self) -> Targeted:
        if self.location is not None and self.targets is not None:
            raise ValueError("both location and targets are given; keep one of the two")
        return self


class LoraSpec(Targeted):
    """Low-rank update of the weights: W + scale B A (Hu et al. 2021)."""

    r: int = Field(default=16, ge=1, le=4096, description="Rank.")
    alpha: float = Field(default=32, gt=0, description="Scale of the update is alpha / r, or alpha / sqrt(r) with rslora.")
    dropout: float = Field(default=0.05, ge=0, lt=1, description="Dropout on the input of the update.")
    rslora: bool = Field(default=False, description="Divide alpha by sqrt(r) instead of r.")
    dora: bool = Field(default=False, description="Learn the length of each weight column apart from its direction.")
    rank_pattern: dict[str, int] | None = Field(
        default=None, description="Ranks of some modules by the end of their name, such as {down_proj: 64}; the others have r."
    )
    alpha_pattern: dict[str, float] | None = Field(default=None, description="alpha of some modules, in the same way.")


class Ia3Spec(Targeted):
    """Learnt factors on keys, values and the inner activation of the feed-forward part (Liu et al. 2022)."""


class BottleneckSpec(Targeted):
    """Bottleneck adapter x + scale up(act(down(x))) at linear layers; see `bottleneck.py`."""

    size: int = Field(default=64, ge=1, le=65_536, description="Width of the bottleneck.")
    placement: Literal["serial", "parallel"] = Field(
        default="serial",
        description="serial: on the input of q, k, v, gate, up and on the output of o, down; parallel: from the input to the output.",
    )
    non_linearity: Nonlinearity = Field(default="tanh", description="Between down and up; linear: none, and then it can be merged.")
    dropout: float = Field(default=0.05, ge=0, lt=1, description="Dropout on the input of the adapter.")
    scale: float = Field(default=1.0, gt=0, description="Factor on the adapter's output.")
    init: Literal["normal", "identity"] = Field(
        default="normal",
        description="normal: both matrices N(0, init_std), as published; identity: up is zero, the model starts unchanged.",
    )
    init_std: float = Field(default=0.02, gt=0, le=1, description="Standard deviation of the first weights.")
    output_targets: tuple[str, ...] | None = Field(
        default=None, description="Last names of the layers adapted on their output when serial; null: o and down of each block."
    )

    @model_validator(mode="after")
    def _output_targets_are_used(self) -> BottleneckSpec:
        if self.output_targets is not None and self.placement == "parallel":
            raise ValueError("output_targets is not used by placement: parallel; remove it or set placement: serial")
        return self


class PrefixSpec(SpecPart):
    """Learnt keys and values before those of the prompt, in every block (Li & Liang 2021)."""

    tokens: int = Field(default=20, ge=1, le=4096, description="Virtual tokens.")
    projection: bool = Field(default=False, description="Make them by a two-layer network, which is large and only needed in training.")
    projection_size: int | None = Field(default=None, ge=1, description="Width of that network; null: the model's hidden size.")

    @model_validator(mode="after")
    def _projection_size_is_used(self) -> PrefixSpec:
        if self.projection_size is not None and not self.projection:
            raise ValueError("projection_size is not used without projection; remove it or set projection: true")
        return self


class PromptSpec(SpecPart):
    """Learnt embeddings before the prompt (Lester et al. 2021)."""

    tokens: int = Field(default=20, ge=1, le=4096, description="Virtual tokens.")
    init: Literal["random", "sample_vocab"] = Field(default="random", description="First values: drawn, or embeddings of drawn words.")


class AdaloraSpec(Targeted):
    """LoRA whose ranks are shared out by importance while training (Zhang et al. 2023)."""

    init_r: int = Field(default=12, ge=1, description="Rank of every module at the start.")
    target_r: int = Field(default=8, ge=1, description="Mean rank at the end.")
    alpha: float = Field(default=32, gt=0, description="Scale of the update is alpha / rank.")
    dropout: float = Field(default=0.05, ge=0, lt=1, description="Dropout on the input of the update.")
    warmup_share: float = Field(default=0.1, ge=0, lt=1, description="Share of the steps before ranks fall.")
    final_share: float = Field(default=0.2, ge=0, lt=1, description="Share of the steps at the end with ranks fixed.")
    interval: int = Field(default=10, ge=1, description="Steps between two allocations.")
    orth_reg_weight: float = Field(default=0.5, gt=0, description="Weight of the orthogonality term of the loss.")

    @model_validator(mode="after")
    def _ranks_fall(self) -> AdaloraSpec:
        if self.target_r >= self.init_r:
            raise ValueError(f"target_r {self.target_r} is not below init_r {self.init_r}; lower target_r, or use method: lora")
        if self.warmup_share + self.final_share >= 1:
            raise ValueError("warmup_share and final_share leave no step to lower ranks; let their sum be below 1")
        return self


class VeraSpec(Targeted):
    """Learnt scales on shared random matrices (Kopiczko et al. 2024)."""

    r: int = Field(default=256, ge=1, description="Rank of the shared matrices.")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="Dropout on the input of the update.")
    d_initial: float = Field(default=0.1, gt=0, description="First value of the inner scale.")
    projection_seed: int = Field(default=0, ge=0, description="Seed of the shared matrices.")


class OftSpec(Targeted):
    """Learnt rotation of the input of a linear layer, in blocks (Qiu et al. 2023)."""

    block_size: int = Field(default=32, ge=2, description="Features rotated together; it divides the inputs of every target.")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="Share of blocks left unrotated in a step.")
    cayley_neumann: bool = Field(default=True, description="Approximate the rotation by a series, which is faster.")


class LnTuningSpec(LayerRange):
    """Train the norms of the language model's blocks (Zhao et al. 2024)."""


class FullSpec(LayerRange):
    """Train the language model itself: all of it with embeddings and output, or whole blocks only when a range is given."""


class FrozenSpec(SpecPart):
    """The language model stays as it is: only connector, vision tower or head are trained."""


class OtherSpec(Targeted):
    """Any other method of the installed peft, by its name and the fields of its config class."""

    type: str = Field(min_length=1, description="Name in peft, such as loha, boft, fourierft.")
    config: dict[str, Any] = Field(default_factory=dict, description="Fields of its config class; target_modules comes from location.")

    @model_validator(mode="after")
    def _config_is_free(self) -> OtherSpec:
        taken = [key for key in self.config if key in OWN_CONFIG_KEYS]
        if taken:
            raise ValueError(f"config has {', '.join(taken)}, which the trainable sets itself; remove it from config")
        if "target_modules" in self.config and (self.location or self.targets or self.layers or self.last_layers):
            raise ValueError("config.target_modules besides location, targets or layers; keep one of the two")
        return self


MethodSpec = (
    LoraSpec
    | Ia3Spec
    | BottleneckSpec
    | PrefixSpec
    | PromptSpec
    | AdaloraSpec
    | VeraSpec
    | OftSpec
    | LnTuningSpec
    | FullSpec
    | FrozenSpec
    | OtherSpec
)
Method = Literal["lora", "ia3", "bottleneck", "prefix", "prompt", "adalora", "vera", "oft", "ln_tuning", "full", "frozen", "other"]
METHODS: dict[str, type[SpecPart]] = {
    "lora": LoraSpec,
    "ia3": Ia3Spec,
    "bottleneck": BottleneckSpec,
    "prefix": PrefixSpec,
    "prompt": PromptSpec,
    "adalora": AdaloraSpec,
    "vera": VeraSpec,
    "oft": OftSpec,
    "ln_tuning": LnTuningSpec,
    "full": FullSpec,
    "frozen": FrozenSpec,
    "other": OtherSpec,
}
