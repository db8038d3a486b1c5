"""CLIP and SigLIP: two towers with one space for pictures and words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from trainables.frozen_prefix.chain import Batch, Chain, Section
from trainables.vlm_classifier.encoder import CLIP_MEAN, CLIP_STD, HALF, Encoder, loaded, picture_input, token_limit
from trainables.vlm_classifier.encoder_specs import EncoderSpec
from trainables.vlm_classifier.sections import Tower
from trainables.vlm_classifier.tokens import Tokenizer, Tokens, hashed, text_tokenizer
from trainables.vlm_classifier.weights import Weights

_TINY_VOCABULARY = 200
_TINY_TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}


def open_contrastive(spec: EncoderSpec, weights: Weights, with_weights: bool) -> Encoder:
    from transformers import CLIPModel, SiglipModel

    is_clip = spec.family == "clip"
    config = _config(spec, weights)
    model: Any = loaded(CLIPModel if is_clip else SiglipModel, config, weights, spec.tiny_seed, with_weights)
    most = config.text_config.max_position_embeddings
    limit = token_limit(spec, most) if is_clip else most  # SigLIP reads the last place, so its words are always padded to the end
    mean, std = (CLIP_MEAN, CLIP_STD) if is_clip else (HALF, HALF)
    width = int(config.projection_dim if is_clip else config.text_config.projection_size)

    def tokens(texts: Sequence[str]) -> Tokens:
        if weights.folder is not None:
            return text_tokenizer(weights.folder, whole=not is_clip).tokens(texts, limit)
        end = _TINY_VOCABULARY - 1
        return Tokenizer(hashed(end), (1,), (end,), 0, whole=not is_clip).tokens(texts, limit)

    def chain(streams: Sequence[str]) -> Chain:
        sections: dict[str, Section] = {"image": _image_section(model, is_clip), "text": _text_section(model, is_clip)}
        return Chain(tuple(sections[name] for name in streams))

    def similarity() -> tuple[float, float]:
        return float(model.logit_scale.detach().exp()), 0.0 if is_clip else float(model.logit_bias.detach())

    return Encoder(
        module=model,
        picture=picture_input(spec, weights.folder, config.vision_config.image_size, mean, std, "crop" if is_clip else "squash"),
        tokens=tokens,
        widths=lambda streams: dict.fromkeys(streams, width),
        chain=chain,
        sample_tokens=lambda: limit,
        similarity=similarity,
    )


def _config(spec: EncoderSpec, weights: Weights) -> Any:
    from transformers import AutoConfig, CLIPConfig, SiglipConfig

    if weights.folder is not None:
        return AutoConfig.from_pretrained(str(weights.folder))
    if weights.published is not None:
        from trainables.peft_methods.architectures import config_of

        return config_of(weights.published)
    picture = {**_TINY_TOWER, "image_size": 32, "patch_size": 8}
    words = {**_TINY_TOWER, "vocab_size": _TINY_VOCABULARY, "max_position_embeddings": 16}
    if spec.family == "clip":
        words |= {"bos_token_id": 1, "eos_token_id": _TINY_VOCABULARY - 1, "pad_token_id": 0}
        return CLIPConfig(text_config=words, vision_config=picture, projection_dim=24)
    return SiglipConfig(text_config={**words, "projection_size": 32}, vision_config=picture)


def _image_section(model: Any, is_clip: bool) -> Section:
    tower = model.vision_model

    def features(batch: Batch, state: Tensor | None) -> Tensor:
        pooled_BH = tower(pixel_values=batch["pixels"] if state is None else state).pooler_output
        return model.visual_projection(pooled_BH) if is_clip else pooled_BH

    tail = (tower.post_layernorm, model.visual_projection) if is_clip else (tower.post_layernorm, tower.head)
    return Tower("image", tower, tower.encoder.layers, tail, features, before=("pre_layrnorm",) if is_clip else ())


def _text_section(model: Any, is_clip: bool) -> Section:
    tower = model.text_model

    def features(batch: Batch, state: Tensor | None) -> Tensor:
        mask_BT = batch.get("mask") if is_clip else None  # SigLIP was trained to look at its padding
        pooled_BH = tower(input_ids=batch["ids"], attention_mask=mask_BT).pooler_output
        return model.text_projection(pooled_BH) if is_clip else pooled_BH

    tail = (tower.final_layer_norm, model.text_projection) if is_clip else (tower.final_layer_norm, tower.head)
    return Tower("text", tower, tower.encoder.layers, tail, features, cheap_embeddings=True)
