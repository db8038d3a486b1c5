"""Names of multimodal models that are put together here from a vision tower and a language model. Light: `check` reads it.

`trainable.model.name: assembled:<name>` of a study means one of `ASSEMBLIES`; `python -m trainables.vlm_peft.assemble` makes any other.
"""

from __future__ import annotations

from dataclasses import dataclass, field

PREFIX = "assembled:"
GEMMA_PACKAGE = "gemma3_270m_package"
EXTRA = "mllm"  # of pyproject.toml
_LITE0_GEMMA = (
    "EfficientNet-Lite0: Apache-2.0; Gemma 3 270M: the Gemma Terms of Use (ai.google.dev/gemma/terms), which bind what is made of it"
)


@dataclass(frozen=True)
class Assembly:
    """What a model is put together from.

    vision: a convolutional timm model; its last feature map becomes the picture's tokens, one a cell of image_size / stride.
    vision_weights: as `trainable.model.weights` of kind timm_cnn: hub, torchvision, lite0_package, none, or a file.
    language: a folder of a causal language model and its tokenizer, hf:owner/name, or gemma3_270m_package.
    image_size: pixels of the square that pictures are resized to.
    image_token: a token of the language model's own vocabulary that stands for a cell of the picture; words never use it.
    seed: of the connector's first weights.
    licence: of the weights, for the model card of an export.
    """

    vision: str
    vision_weights: str
    language: str
    image_size: int
    image_token: str = "<unused0>"
    seed: int = 0
    licence: str = field(default="that of the parts: look at where they came from", repr=False)  # decides no file


ASSEMBLIES: dict[str, Assembly] = {
    "lite0_gemma3_270m": Assembly("tf_efficientnet_lite0", "lite0_package", GEMMA_PACKAGE, image_size=96, licence=_LITE0_GEMMA),
}
