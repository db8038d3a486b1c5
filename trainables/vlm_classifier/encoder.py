"""A pretrained model opened for classification: the module, how its stages are chained, what it reads and how wide its outputs are.

`open_encoder` loads weights, draws them (tiny:) or, on torch's meta device, only makes shapes. Adapters go into the module before `chain`
is asked for. Each family is a file of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trainables.frozen_prefix.chain import Chain
from trainables.timm_cnn.model import PixelScale
from trainables.torchvision_ops import ensure_torchvision_ops
from trainables.vlm_classifier.encoder_specs import EncoderSpec
from trainables.vlm_classifier.tokens import Tokens
from trainables.vlm_classifier.weights import Weights, json_of
from tune.core.errors import Problem, UserError

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
HALF = (0.5, 0.5, 0.5)
_MOST_TOKENS = 64  # of a row's words, where the spec does not say


@dataclass(frozen=True)
class PictureInput:
    """How a picture is made pixels for this model."""

    size_px: int
    resize: str  # crop or squash
    scale: PixelScale


@dataclass(frozen=True)
class Encoder:
    """`widths`: output of the chain -> features. `chain(streams)` over the module as it is then. `tokens`: of rows' words.

    `sample_tokens`: the most tokens of a row, for estimates. `similarity`: what logits of CLIP and SigLIP multiply a cosine by, and add;
    None for models without a shared space.
    """

    module: nn.Module
    picture: PictureInput
    tokens: Callable[[Sequence[str]], Tokens]
    widths: Callable[[Sequence[str]], Mapping[str, int]]
    chain: Callable[[Sequence[str]], Chain]
    sample_tokens: Callable[[], int]
    similarity: Callable[[], tuple[float, float]] | None = None


def open_encoder(spec: EncoderSpec, weights: Mapping[str, Weights], *, with_weights: bool = True) -> Encoder:
    """The model of `spec` whose `weights` were found. with_weights: False gives shapes on the meta device."""
    ensure_torchvision_ops()
    if spec.family == "two_tower":
        from trainables.vlm_classifier.two_tower import open_two_tower

        return open_two_tower(spec, weights, with_weights)
    if spec.fuses_itself:
        from trainables.vlm_classifier.fused import open_fused

        return open_fused(spec, weights["model"], with_weights)
    from trainables.vlm_classifier.contrastive import open_contrastive

    return open_contrastive(spec, weights["model"], with_weights)


def loaded(model_class: Any, config: Any, weights: Weights, seed: int, with_weights: bool) -> Any:
    """A transformers model: read, drawn from `seed`, or with shapes alone. In fp32; raises UserError for weights that do not fit."""
    if not with_weights:
        from trainables.peft_methods.count import meta_model

        return meta_model(config, model_class)
    if weights.folder is None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return model_class.from_config(config) if hasattr(model_class, "from_config") else model_class(config)
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # a trial's log is not a terminal
    try:
        model, report = model_class.from_pretrained(
            str(weights.folder), dtype=torch.float32, use_safetensors=True, output_loading_info=True, local_files_only=True
        )
    except (OSError, ValueError, RuntimeError) as error:
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(Problem(weights.where, f"{weights.folder}: {said}", "use weights of this family, as safetensors")) from error
    missing = sorted(report["missing_keys"])
    if missing or report.get("mismatched_keys"):
        lacks = f"lacks {', '.join(missing[:3])}" if missing else f"has other shapes: {list(report['mismatched_keys'])[:2]}"
        raise UserError(Problem(weights.where, f"{weights.folder}, which {lacks}", "use weights of the family that encoder.family names"))
    return model


def picture_input(spec: EncoderSpec, folder: Path | None, size_px: int, mean: Any, std: Any, resize: str) -> PictureInput:
    """From the spec, else from the checkpoint's preprocessor_config.json, else the values of the family."""
    said = {} if folder is None else json_of(folder, "preprocessor_config.json")
    if "do_center_crop" in said:
        resize = "crop" if said["do_center_crop"] else "squash"
    mean, std = said.get("image_mean", mean), said.get("image_std", std)
    scale = PixelScale(tuple(value * 255.0 for value in mean), tuple(value * 255.0 for value in std))
    return PictureInput(size_px if spec.image_size is None else spec.image_size, resize if spec.resize is None else spec.resize, scale)


def token_limit(spec: EncoderSpec, most: int) -> int:
    """Tokens of a row's words in a tower that takes `most`. Raises UserError for a wish beyond."""
    if spec.max_tokens is None:
        return min(_MOST_TOKENS, most)
    if spec.max_tokens > most:
        got = f"{spec.max_tokens}, but this text tower has {most} places"
        raise UserError(Problem("trainable.encoder.max_tokens", got, f"set it to {most} or less"))
    return spec.max_tokens
