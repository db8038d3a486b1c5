"""Shapes of published models as transformers configurations, so that they can be counted and estimated without their weights.

Sizes are those of the published config files of these checkpoints; where a checkpoint needs remote code its shape is not here.
They serve arithmetic only: a trial reads the configuration that lies beside its weights.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tune.core.errors import Problem, UserError, did_you_mean

_CLIP_L_336 = {
    "model_type": "clip_vision_model",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
    "projection_dim": 768,
}
_VICUNA_7B = {
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
}
_VICUNA_13B = {
    "hidden_size": 5120,
    "intermediate_size": 13824,
    "num_hidden_layers": 40,
    "num_attention_heads": 40,
    "num_key_value_heads": 40,
}
_TINY_LLAMA = {"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22, "num_attention_heads": 32, "num_key_value_heads": 4}


def _llava(text: dict[str, Any], vocab_size: int) -> dict[str, Any]:
    return {
        "model_type": "llava",
        "vision_config": _CLIP_L_336,
        "text_config": {"model_type": "llama", "max_position_embeddings": 4096, "vocab_size": vocab_size, **text},
        "vision_feature_layer": -2,
        "image_token_index": vocab_size - 1,
        "tie_word_embeddings": False,
    }


def _qwen2_5_vl(hidden: int, intermediate: int, layers: int, heads: int, kv_heads: int, vocab: int, tied: bool) -> dict[str, Any]:
    return {
        "model_type": "qwen2_5_vl",
        "text_config": {
            "hidden_size": hidden,
            "intermediate_size": intermediate,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "vocab_size": vocab,
            "tie_word_embeddings": tied,
        },
        "vision_config": {
            "depth": 32,
            "hidden_size": 1280,
            "intermediate_size": 3420,
            "num_heads": 16,
            "out_hidden_size": hidden,
            "patch_size": 14,
        },
        "tie_word_embeddings": tied,
    }


_SHAPES: dict[str, Callable[[], dict[str, Any]]] = {
    "llava-hf/llava-1.5-7b-hf": lambda: _llava(_VICUNA_7B, 32_064),
    "llava-hf/llava-1.5-13b-hf": lambda: _llava(_VICUNA_13B, 32_064),
    "liuhaotian/llava-v1.5-7b": lambda: _llava(_VICUNA_7B, 32_000),
    "liuhaotian/llava-v1.5-13b": lambda: _llava(_VICUNA_13B, 32_000),
    "Lin-Chen/ShareGPT4V-7B": lambda: _llava(_VICUNA_7B, 32_000),
    "bczhou/tiny-llava-v1-hf": lambda: _llava(_TINY_LLAMA, 32_064),
    "Qwen/Qwen2.5-VL-3B-Instruct": lambda: _qwen2_5_vl(2048, 11_008, 36, 16, 2, 151_936, True),
    "Qwen/Qwen2.5-VL-7B-Instruct": lambda: _qwen2_5_vl(3584, 18_944, 28, 28, 4, 152_064, False),
    "openai/clip-vit-base-patch32": lambda: {
        "model_type": "clip",
        "projection_dim": 512,
        "text_config": {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 8},
        "vision_config": {
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "patch_size": 32,
        },
    },
    "Salesforce/blip2-opt-2.7b": lambda: {
        "model_type": "blip-2",
        "text_config": {
            "model_type": "opt",
            "hidden_size": 2560,
            "ffn_dim": 10_240,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "word_embed_proj_dim": 2560,
            "vocab_size": 50_304,
        },
        "vision_config": {"hidden_size": 1408, "intermediate_size": 6144, "num_hidden_layers": 39, "num_attention_heads": 16},
    },
}


def known_architectures() -> tuple[str, ...]:
    """Names that `config_of` takes."""
    return tuple(_SHAPES)


def config_of(name: str) -> Any:
    """The transformers configuration of a published checkpoint. Raises UserError for one that is not here."""
    if name not in _SHAPES:
        near = did_you_mean(name, _SHAPES)
        raise UserError(
            Problem(
                "model", f"{name}, whose shape is not known offline{near}", "give a folder with its config.json, or one of the known names"
            )
        )
    from transformers import AutoConfig

    shape = _SHAPES[name]()
    return AutoConfig.for_model(**shape)
