"""An image model of timm beside a text encoder of transformers: nothing joins them but the head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from trainables.frozen_prefix.chain import Batch, Chain, Section
from trainables.timm_cnn.model import pretrained
from trainables.timm_cnn.spec import TimmCnnSpec
from trainables.vlm_classifier.encoder import Encoder, PictureInput, loaded, token_limit
from trainables.vlm_classifier.encoder_specs import EncoderSpec, TextTowerSpec, TwoTowerSpec
from trainables.vlm_classifier.sections import Tower, Whole, masked_mean
from trainables.vlm_classifier.tokens import Tokenizer, Tokens, hashed, text_tokenizer
from trainables.vlm_classifier.weights import Weights

_DEFAULT_PX = 96  # of a convolutional model: it takes any size, and small ones suit small pictures
_TINY_VOCABULARY = 512


class TwoTower(nn.Module):
    """The two models under the names by which adapters find vision and language."""

    def __init__(self, vision_model: nn.Module, text_model: nn.Module):
        super().__init__()
        self.vision_model, self.text_model = vision_model, text_model


def open_two_tower(spec: EncoderSpec, weights: Mapping[str, Weights], with_weights: bool) -> Encoder:
    chosen = spec.chosen
    assert isinstance(chosen, TwoTowerSpec)
    with torch.random.fork_rng(devices=[]), torch.device("cpu" if with_weights else "meta"):
        torch.manual_seed(spec.tiny_seed)
        body, scale = pretrained(TimmCnnSpec(model=chosen.image), with_weights)
    text, config = _text_tower(weights["text"], spec.tiny_seed, with_weights)
    n_image: int = getattr(body, "head_hidden_size", None) or body.num_features
    module = TwoTower(body, text)
    size_px = spec.image_size or (_fixed_size(body) or _DEFAULT_PX)
    most = getattr(config, "max_position_embeddings", 512)
    limit = token_limit(spec, most)
    folder = weights["text"].folder

    def tokens(texts: Sequence[str]) -> Tokens:
        tokenizer = Tokenizer(hashed(config.vocab_size), (1,), (2,), 0) if folder is None else text_tokenizer(folder)
        return tokenizer.tokens(texts, limit)

    def chain(streams: Sequence[str]) -> Chain:
        sections: dict[str, Section] = {"text": _text_section(module, chosen.text)}
        sections["image"] = Whole("image", (module.vision_model,), lambda batch: module.vision_model(batch["pixels"]))
        return Chain(tuple(sections[name] for name in streams))

    widths = {"image": n_image, "text": int(config.hidden_size)}
    return Encoder(
        module=module,
        picture=PictureInput(size_px, spec.resize or "squash", scale),
        tokens=tokens,
        widths=lambda streams: {name: widths[name] for name in streams},
        chain=chain,
        sample_tokens=lambda: limit,
    )


def _text_tower(weights: Weights, seed: int, with_weights: bool) -> tuple[Any, Any]:
    from transformers import AutoConfig, AutoModel, BertConfig

    if weights.folder is not None:
        config = AutoConfig.from_pretrained(str(weights.folder))
    else:
        config = BertConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            vocab_size=_TINY_VOCABULARY,
            max_position_embeddings=64,
        )
    model = loaded(AutoModel, config, weights, seed, with_weights)
    if getattr(model, "pooler", None) is not None:
        model.pooler = None  # our pooling is over the states
    return model, config


def _text_section(module: TwoTower, spec: TextTowerSpec) -> Section:
    text: Any = module.text_model

    def pooled(batch: Batch, state: Tensor | None) -> Tensor:
        mask_BT = batch.get("mask")  # none: every token is real
        states_BTH = text(input_ids=batch["ids"], attention_mask=mask_BT).last_hidden_state
        if spec.pooling == "cls":
            return states_BTH[:, 0]
        return masked_mean(states_BTH, mask_BT)

    blocks = getattr(getattr(text, "encoder", None), "layer", None)
    if isinstance(blocks, nn.ModuleList) and hasattr(text, "embeddings"):
        return Tower("text", text, blocks, (), pooled, cheap_embeddings=True)
    return Whole("text", (text,), lambda batch: pooled(batch, None))


def _fixed_size(body: Any) -> int | None:
    """The one size that a transformer of fixed patches takes."""
    patches = getattr(body, "patch_embed", None)
    size = getattr(patches, "img_size", None)
    return int(size[0]) if size else None
