"""What of a model is trained, and by which method, with connector, vision tower and learning rates.

Light: imports neither torch nor peft, since `check` reads it. A knob stands in the branch of the method that uses it, so that a
search space cannot hold a dead one: `peft: {choose: {method: {lora: {r: {choice: [16, 64]}}, ia3: {}}}}` has the keys `peft.method`
and `peft.lora.r`. A branch that is not written has its defaults. The defaults are our choice; published values stand in study files.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from trainables.peft_methods.method_specs import (
    METHODS,
    AdaloraSpec,
    BottleneckSpec,
    FrozenSpec,
    FullSpec,
    Ia3Spec,
    LnTuningSpec,
    LoraSpec,
    Method,
    MethodSpec,
    OftSpec,
    OtherSpec,
    PrefixSpec,
    PromptSpec,
    SpecPart,
    VeraSpec,
)

PART_NAMES = ("llm", "connector", "vision", "head")


class LrFactors(SpecPart):
    """Learning rates of the parts of the model as factors on the trial's own; null: 1."""

    llm: float | None = Field(default=None, gt=0, le=1e4, description="Of the language model and the adapters in it.")
    connector: float | None = Field(default=None, gt=0, le=1e4, description="Of the connector between vision and language.")
    vision: float | None = Field(default=None, gt=0, le=1e4, description="Of the vision tower.")
    head: float | None = Field(default=None, gt=0, le=1e4, description="Of a classifier's head, or of the output layer when it is trained.")

    def of(self, part: str) -> float:
        """The factor of a part of `PART_NAMES`."""
        factor = getattr(self, part)
        return 1.0 if factor is None else factor


class PeftSpec(SpecPart):
    """How a pretrained model is adapted."""

    method: Method = Field(default="lora", description="How the language model is trained.")
    lora: LoraSpec | None = Field(default=None, description="Knobs of method: lora.")
    ia3: Ia3Spec | None = Field(default=None, description="Knobs of method: ia3.")
    bottleneck: BottleneckSpec | None = Field(default=None, description="Knobs of method: bottleneck.")
    prefix: PrefixSpec | None = Field(default=None, description="Knobs of method: prefix.")
    prompt: PromptSpec | None = Field(default=None, description="Knobs of method: prompt.")
    adalora: AdaloraSpec | None = Field(default=None, description="Knobs of method: adalora.")
    vera: VeraSpec | None = Field(default=None, description="Knobs of method: vera.")
    oft: OftSpec | None = Field(default=None, description="Knobs of method: oft.")
    ln_tuning: LnTuningSpec | None = Field(default=None, description="Knobs of method: ln_tuning.")
    full: FullSpec | None = Field(default=None, description="Knobs of method: full.")
    frozen: FrozenSpec | None = Field(default=None, description="method: frozen has no knobs.")
    other: OtherSpec | None = Field(default=None, description="Name and knobs of method: other.")
    connector: Literal["tuned", "frozen", "lora"] = Field(
        default="frozen", description="What happens to the connector; lora: adapted by LoRA as the language model is."
    )
    vision: Literal["tuned", "frozen", "lora"] = Field(
        default="frozen",
        description="What happens to the vision tower; lora: at the layers of lora.targets where these are given, else at all linear ones.",
    )
    lr_factors: LrFactors = Field(default_factory=LrFactors, description="Learning rates of the parts.")

    @model_validator(mode="after")
    def _every_knob_is_used(self) -> PeftSpec:
        for name in METHODS:
            if name != self.method and getattr(self, name) is not None:
                raise ValueError(f"{name} is given while method is {self.method}; remove it or set method: {name}")
        if self.method == "other" and self.other is None:
            raise ValueError("method: other without its name; add other: {type: ...}")
        for part in ("connector", "vision"):
            mode = getattr(self, part)
            if mode == "lora" and self.method != "lora":
                raise ValueError(f"{part}: lora with method: {self.method}; set {part} to tuned or frozen, or method: lora")
            if mode == "frozen" and getattr(self.lr_factors, part) is not None:
                raise ValueError(f"lr_factors.{part} is not used while {part} is frozen; remove it or set {part}: tuned")
        return self

    @property
    def chosen(self) -> MethodSpec:
        """The knobs of the method that holds, its defaults where none are written."""
        written: MethodSpec | None = getattr(self, self.method)
        return METHODS[self.method]() if written is None else written  # type: ignore[return-value]
