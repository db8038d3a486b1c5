"""BLIP-2 and LLaVA: a vision tower whose outputs go into a language model beside the words; features are pooled from its hidden states.

The picture's places come where `<image>` stands in the prompt; in BLIP-2 they come first. Prompt and words are tokenised apart, so that
words can be cut without cutting the prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from trainables.frozen_prefix.chain import Chain
from trainables.vlm_classifier.encoder import CLIP_MEAN, CLIP_STD, Encoder, loaded, picture_input, token_limit
from trainables.vlm_classifier.encoder_specs import Blip2Spec, EncoderSpec, LlavaSpec
from trainables.vlm_classifier.language import Language
from trainables.vlm_classifier.sections import Steps
from trainables.vlm_classifier.tokens import Encode, Tokens, around, hashed, padded, plain_encode, pretrained_tokenizer
from trainables.vlm_classifier.weights import Weights

_TINY = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
_TINY_PICTURE = {**_TINY, "image_size": 32, "patch_size": 8}
_TINY_VOCABULARY = 200
_PROMPT_TOKENS = 16  # taken for a prompt in estimates
_IMAGE, _TEXT = "<image>", "{text}"


def open_fused(spec: EncoderSpec, weights: Weights, with_weights: bool) -> Encoder:
    from transformers import Blip2Model, LlavaModel

    chosen = spec.chosen
    assert isinstance(chosen, (Blip2Spec, LlavaSpec))
    is_llava = isinstance(chosen, LlavaSpec)
    config = _config(spec, weights)
    model: Any = loaded(LlavaModel if is_llava else Blip2Model, config, weights, spec.tiny_seed, with_weights)
    words = config.text_config
    n_places = _llava_places(config) if is_llava else config.num_query_tokens
    limit = token_limit(spec, words.max_position_embeddings - n_places - _PROMPT_TOKENS)
    prompt = _Prompt(chosen.prompt, is_llava, weights, limit)

    def chain(streams: Sequence[str]) -> Chain:
        image = Steps("image", "pixels", _llava_steps(model) if is_llava else _blip2_steps(model))
        return Chain((image,), Language(_decoder(model), prompt.image_at, chosen.pooling), joint_reads=("text",))

    return Encoder(
        module=model,
        picture=picture_input(spec, weights.folder, config.vision_config.image_size, CLIP_MEAN, CLIP_STD, "crop" if is_llava else "squash"),
        tokens=prompt.tokens,
        widths=lambda streams: {"joint": int(getattr(words, "word_embed_proj_dim", None) or words.hidden_size)},
        chain=chain,
        sample_tokens=lambda: limit + _PROMPT_TOKENS,
    )


class _Prompt:
    """The tokens of rows without those of their pictures, which come before place `image_at()`."""

    def __init__(self, prompt: str, begins: bool, weights: Weights, limit: int):
        before, _, rest = prompt.partition(_IMAGE) if _IMAGE in prompt else ("", "", prompt)
        self._before, self._rest, self._begins, self._weights, self._limit = before, rest, begins, weights, limit
        self._made: tuple[Encode, list[int], int] | None = None

    def image_at(self) -> int:
        return len(self._first())

    def tokens(self, texts: Sequence[str]) -> Tokens:
        encode, begin, pad = self._tokenizer()
        middle, _, last = self._rest.partition(_TEXT)
        first, ends = [*self._first(), *([] if self._begins else begin), *encode(middle)], encode(last)
        return padded([[*first, *encode(text)[: self._limit], *ends] for text in texts], pad)

    def _first(self) -> list[int]:
        encode, begin, _ = self._tokenizer()
        return [*(begin if self._begins else []), *encode(self._before)]

    def _tokenizer(self) -> tuple[Encode, list[int], int]:
        if self._made is None:
            folder = self._weights.folder
            if folder is None:
                self._made = hashed(_TINY_VOCABULARY), [1], 0
            else:
                tokenizer = pretrained_tokenizer(folder)
                pad = tokenizer.pad_token_id
                self._made = plain_encode(tokenizer), list(around(tokenizer)[0]), 0 if pad is None else pad
        return self._made


def _config(spec: EncoderSpec, weights: Weights) -> Any:
    from transformers import AutoConfig, Blip2Config, LlavaConfig

    if weights.folder is not None:
        return AutoConfig.from_pretrained(str(weights.folder))
    if weights.published is not None:
        from trainables.peft_methods.architectures import config_of

        return config_of(weights.published)
    if spec.family == "llava":
        text = {**_TINY, "model_type": "llama", "num_key_value_heads": 2, "vocab_size": _TINY_VOCABULARY, "max_position_embeddings": 128}
        picture = {**_TINY_PICTURE, "model_type": "clip_vision_model"}
        return LlavaConfig(vision_config=picture, text_config=text, image_token_index=_TINY_VOCABULARY - 1)
    words: dict[str, Any] = {**_TINY, "model_type": "opt", "ffn_dim": 64, "word_embed_proj_dim": 32, "vocab_size": _TINY_VOCABULARY}
    queries: dict[str, Any] = {**_TINY, "encoder_hidden_size": 32, "cross_attention_frequency": 1, "vocab_size": _TINY_VOCABULARY}
    queries |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return Blip2Config(
        vision_config=_TINY_PICTURE,
        qformer_config=queries,
        text_config={**words, "max_position_embeddings": 128, "dropout": 0.0},
        num_query_tokens=4,
        image_text_hidden_size=16,
    )


def _decoder(model: Any) -> Any:
    """The stack of blocks, without an output layer: Llama's model, OPT's decoder."""
    language = model.language_model
    language = getattr(language, "model", language)
    return getattr(language, "decoder", language)


def _llava_places(config: Any) -> int:
    picture = config.vision_config
    n_patches: int = (picture.image_size // picture.patch_size) ** 2
    return n_patches if config.vision_feature_select_strategy == "default" else n_patches + 1


_Step = tuple[str, tuple[nn.Module | nn.Parameter, ...], Callable[[Tensor], Tensor]]


def _llava_steps(model: Any) -> tuple[_Step, ...]:
    config = model.config
    layers = config.vision_feature_layer
    first = 1 if config.vision_feature_select_strategy == "default" else 0  # the class token is no patch

    def seen(pixels_B3HW: Tensor) -> Tensor:
        states = model.vision_tower(pixels_B3HW, output_hidden_states=True, return_dict=True).hidden_states
        chosen = [states[layer][:, first:] for layer in ([layers] if isinstance(layers, int) else layers)]
        return torch.cat(chosen, dim=-1)

    return ("vision_tower", (model.vision_tower,), seen), ("projector", (model.multi_modal_projector,), model.multi_modal_projector)


def _blip2_steps(model: Any) -> tuple[_Step, ...]:
    def seen(pixels_B3HW: Tensor) -> Tensor:
        return model.vision_model(pixel_values=pixels_B3HW).last_hidden_state

    def asked(states_BSH: Tensor) -> Tensor:
        queries = model.query_tokens.expand(len(states_BSH), -1, -1)
        places = torch.ones(states_BSH.shape[:-1], dtype=torch.long, device=states_BSH.device) if not states_BSH.is_meta else None
        found = model.qformer(query_embeds=queries, encoder_hidden_states=states_BSH, encoder_attention_mask=places)
        return model.language_projection(found.last_hidden_state)

    parts = (model.query_tokens, model.qformer, model.language_projection)
    return ("vision_model", (model.vision_model,), seen), ("qformer", parts, asked)
