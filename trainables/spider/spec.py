"""How old skills are kept while a new one is learnt: a typed union over SPIDER and its baselines.

Light: imports no torch. `keep: {choose: {method: {spider: {}, dare: {drop: {float: [0.1, 0.9]}}}}}` has the keys `keep.method` and
`keep.dare.drop`. Which modules are tuned is not said here but in the PEFT spec (published: method full, last_layers 2, connector tuned).
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class NoKeepSpec(_Part):
    """Plain fine-tuning, "Normal" in the papers."""


class L1Spec(_Part):
    """Penalty on the mean distance from the pretrained weights."""

    weight: float = Field(default=1e-6, gt=0, description="Factor on the mean over tensors of mean |w - w0|.")


class L2Spec(_Part):
    """Penalty on the mean squared distance from the pretrained weights."""

    weight: float = Field(default=1e-3, gt=0, description="Factor on the mean over tensors of mean (w - w0)^2.")


class MagnitudeSpec(_Part):
    """The largest pretrained weights stay fixed."""

    frozen_share: float = Field(default=0.5, gt=0, lt=1, description="Share of each tensor, by |w0|, that stays.")


class RandomHalfSpec(_Part):
    """A fixed random part of the weights stays fixed."""

    frozen_share: float = Field(default=0.5, gt=0, lt=1, description="Share that stays.")
    unit: Literal["element", "tensor"] = Field(
        default="element", description="element: of each tensor's entries, as released; tensor: whole tensors, as in half fine-tuning."
    )


class DareSpec(_Part):
    """After training: drop changes at random and scale up the rest (Yu et al. 2024)."""

    drop: float = Field(default=0.9, gt=0, lt=1, description="Share of each tensor's changes that is dropped.")


class GraftingSpec(_Part):
    """After training: keep only the largest changes over all tensors (Panigrahi et al. 2023, without their training of the mask)."""

    keep_share: float = Field(default=0.1, gt=0, lt=1, description="Share of all changes that is kept.")


class TailorSpec(_Part):
    """After training: keep the changes that matter most on calibration samples (after Model Tailor, Zhu et al. 2024)."""

    keep_share: float = Field(default=0.1, gt=0, lt=1, description="Share of each tensor's changes that is kept.")
    salience_weight: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="Score = this x |change| + the rest x change^2 x mean squared input, each / its maximum.",
    )
    calibration_samples: int = Field(default=128, ge=1, description="Training samples that the inputs are measured on.")


class SpiderSpec(_Part):
    """Soft masks from pretrained magnitude and accumulated gradients; no knobs."""


KeepMethodSpec = NoKeepSpec | L1Spec | L2Spec | MagnitudeSpec | RandomHalfSpec | DareSpec | GraftingSpec | TailorSpec | SpiderSpec
KeepName = Literal["full", "l1", "l2", "magnitude", "random_half", "dare", "grafting", "tailor", "spider"]
KEEP_METHODS: dict[str, type[_Part]] = {
    "full": NoKeepSpec,
    "l1": L1Spec,
    "l2": L2Spec,
    "magnitude": MagnitudeSpec,
    "random_half": RandomHalfSpec,
    "dare": DareSpec,
    "grafting": GraftingSpec,
    "tailor": TailorSpec,
    "spider": SpiderSpec,
}

POST_HOC: tuple[KeepName, ...] = ("dare", "grafting", "tailor")  # act once, after training


class KeepSpec(_Part):
    """Which method keeps old skills."""

    method: KeepName = Field(default="full", description="full: none.")
    full: NoKeepSpec | None = Field(default=None, description="method: full has no knobs.")
    l1: L1Spec | None = Field(default=None, description="Knobs of method: l1.")
    l2: L2Spec | None = Field(default=None, description="Knobs of method: l2.")
    magnitude: MagnitudeSpec | None = Field(default=None, description="Knobs of method: magnitude.")
    random_half: RandomHalfSpec | None = Field(default=None, description="Knobs of method: random_half.")
    dare: DareSpec | None = Field(default=None, description="Knobs of method: dare.")
    grafting: GraftingSpec | None = Field(default=None, description="Knobs of method: grafting.")
    tailor: TailorSpec | None = Field(default=None, description="Knobs of method: tailor.")
    spider: SpiderSpec | None = Field(default=None, description="method: spider has no knobs.")

    @model_validator(mode="after")
    def _every_knob_is_used(self) -> KeepSpec:
        for name in KEEP_METHODS:
            if name != self.method and getattr(self, name) is not None:
                raise ValueError(f"{name} is given while method is {self.method}; remove it or set method: {name}")
        return self

    @property
    def chosen(self) -> KeepMethodSpec:
        """The knobs of the method that holds, its defaults where none are written."""
        written: KeepMethodSpec | None = getattr(self, self.method)
        return KEEP_METHODS[self.method]() if written is None else written  # type: ignore[return-value]
