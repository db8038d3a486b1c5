"""Small real models of the published families with random weights, and processors of their own classes: for trying things out.

Promises: the transformers class of the family, its processor class, its way of placing pictures among the tokens; the same weights
for every trial; no file and no network. The tokenizer knows bytes, so it reads any text. Their figures say nothing about a family.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from trainables.torchvision_ops import ensure_torchvision_ops

LABEL = "random weights"
_SEED = 0
_HIDDEN, _LAYERS = 64, 2
_TEXT: dict[str, Any] = {
    "hidden_size": _HIDDEN,
    "intermediate_size": 128,
    "num_hidden_layers": _LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "tie_word_embeddings": False,
}
_CLIP: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 64,
    "patch_size": 16,
    "projection_dim": 64,
}
_LLAVA_CHAT = (
    "{% for message in messages %}{{ message['role'].upper() + ': ' }}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}{{ '<image>\n' }}{% endif %}{% endfor %}"
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] + ' ' }}{% endif %}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
_QWEN_CHAT = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_SMOLVLM_CHAT = (
    "<|im_start|>{% for message in messages %}{{ message['role'] | capitalize }}: "
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}{% endfor %}"
    "<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)


def config(family: str) -> Any:
    """The transformers configuration of a family of `spec.TINY_FAMILIES`."""
    ensure_torchvision_ops()
    return _FAMILIES[family][0](len(tokenizer(family)))


def model(family: str) -> Any:
    """The model of a family on the CPU, fp32, in eval mode; its weights are drawn anew, always the same."""
    ensure_torchvision_ops()
    from transformers import AutoModelForImageTextToText

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        made = AutoModelForImageTextToText.from_config(config(family))
    known = tokenizer(family)
    for settings in (made.generation_config, made.config):
        settings.pad_token_id, settings.bos_token_id, settings.eos_token_id = known.pad_token_id, known.bos_token_id, known.eos_token_id
    return made.eval()


def processor(family: str) -> Any:
    """The processor of a family."""
    ensure_torchvision_ops()
    return _FAMILIES[family][1](tokenizer(family))


def tokenizer(family: str) -> Any:
    """Bytes and the family's special tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    end = {"qwen2_5_vl": "<|im_end|>", "smolvlm": "<end_of_utterance>"}.get(family, "</s>")
    specials = ["<pad>", "<s>", end, *_SPECIALS[family]]
    known = {token: i for i, token in enumerate([*specials, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    raw = Tokenizer(models.BPE(vocab=known, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    if family in ("llava", "llava_next", "blip2"):
        raw.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", known["<s>"])])
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        bos_token="<s>",
        eos_token=end,
        pad_token="<pad>",
        additional_special_tokens=_SPECIALS[family],
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def _token(family: str, token: str) -> int:
    return int(tokenizer(family).convert_tokens_to_ids(token))


_SPECIALS: dict[str, list[str]] = {
    "llava": ["<image>"],
    "llava_next": ["<image>"],
    "qwen2_5_vl": ["<|im_start|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"],
    "smolvlm": ["<image>", "<fake_token_around_image>", "<global-img>", "<|im_start|>", "<video>"]
    + [f"<row_{r}_col_{c}>" for r in (1, 2) for c in (1, 2)],
    "paligemma": ["<image>"],
    "blip2": ["<image>"],
}


def _llava_config(n_tokens: int) -> Any:
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

    return LlavaConfig(
        vision_config=CLIPVisionConfig(**_CLIP),
        text_config=LlamaConfig(vocab_size=n_tokens, **_TEXT),
        image_token_index=_token("llava", "<image>"),
        vision_feature_layer=-2,
        tie_word_embeddings=False,
    )


def _llava_processor(known: Any) -> Any:
    from transformers import CLIPImageProcessor, LlavaProcessor

    pictures = CLIPImageProcessor(size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64})
    return LlavaProcessor(
        pictures, known, patch_size=16, vision_feature_select_strategy="default", num_additional_image_tokens=1, chat_template=_LLAVA_CHAT
    )


def _llava_next_config(n_tokens: int) -> Any:
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaNextConfig

    return LlavaNextConfig(
        vision_config=CLIPVisionConfig(**_CLIP),
        text_config=LlamaConfig(vocab_size=n_tokens, **_TEXT),
        image_token_index=_token("llava_next", "<image>"),
        image_grid_pinpoints=[[64, 128], [128, 64], [128, 128]],
        vision_feature_layer=-2,
        tie_word_embeddings=False,
    )


def _llava_next_processor(known: Any) -> Any:
    from transformers import LlavaNextImageProcessor, LlavaNextProcessor

    pictures = LlavaNextImageProcessor(
        size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64}, image_grid_pinpoints=[[64, 128], [128, 64], [128, 128]]
    )
    return LlavaNextProcessor(
        pictures, known, patch_size=16, vision_feature_select_strategy="default", num_additional_image_tokens=1, chat_template=_LLAVA_CHAT
    )


def _qwen_config(n_tokens: int) -> Any:
    from transformers import Qwen2_5_VLConfig

    vision: dict[str, Any] = {
        "depth": 2,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_heads": 4,
        "out_hidden_size": _HIDDEN,
        "patch_size": 14,
        "fullatt_block_indexes": [1],
        "window_size": 56,
    }
    text = {**_TEXT, "vocab_size": n_tokens, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]}}
    tokens = {
        "image_token_id": "<|image_pad|>",
        "video_token_id": "<|video_pad|>",
        "vision_start_token_id": "<|vision_start|>",
        "vision_end_token_id": "<|vision_end|>",
    }
    named: dict[str, Any] = {key: _token("qwen2_5_vl", token) for key, token in tokens.items()}
    return Qwen2_5_VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=False, **named)


def _qwen_processor(known: Any) -> Any:
    from transformers import Qwen2_5_VLProcessor, Qwen2VLImageProcessor
    from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

    size = {"shortest_edge": 56 * 56, "longest_edge": 112 * 112}
    return Qwen2_5_VLProcessor(Qwen2VLImageProcessor(size=size), known, Qwen2VLVideoProcessor(), chat_template=_QWEN_CHAT)


def _smolvlm_config(n_tokens: int) -> Any:
    from transformers import LlamaConfig, SmolVLMConfig

    vision: dict[str, Any] = {key: value for key, value in _CLIP.items() if key != "projection_dim"}
    return SmolVLMConfig(
        vision_config=vision,
        text_config=LlamaConfig(vocab_size=n_tokens, pad_token_id=0, **_TEXT),
        image_token_id=_token("smolvlm", "<image>"),
        scale_factor=2,
        tie_word_embeddings=False,
    )


def _smolvlm_processor(known: Any) -> Any:
    from transformers import SmolVLMImageProcessor, SmolVLMProcessor
    from transformers.models.smolvlm.video_processing_smolvlm import SmolVLMVideoProcessor

    pictures = SmolVLMImageProcessor(size={"longest_edge": 128}, max_image_size={"longest_edge": 64}, do_image_splitting=True)
    return SmolVLMProcessor(pictures, known, SmolVLMVideoProcessor(), image_seq_len=4, chat_template=_SMOLVLM_CHAT)


def _paligemma_config(n_tokens: int) -> Any:
    from transformers import GemmaConfig, PaliGemmaConfig, SiglipVisionConfig

    vision: dict[str, Any] = {key: value for key, value in _CLIP.items() if key != "projection_dim"}
    return PaliGemmaConfig(
        vision_config=SiglipVisionConfig(**vision, vision_use_head=False),
        text_config=GemmaConfig(vocab_size=n_tokens, head_dim=16, **{**_TEXT, "tie_word_embeddings": True}),
        image_token_index=_token("paligemma", "<image>"),
        projection_dim=_HIDDEN,
        hidden_size=_HIDDEN,
    )


def _paligemma_processor(known: Any) -> Any:
    from transformers import PaliGemmaProcessor, SiglipImageProcessor

    pictures: Any = SiglipImageProcessor(size={"height": 64, "width": 64})
    pictures.image_seq_length = 16
    return PaliGemmaProcessor(pictures, known)


def _blip2_config(n_tokens: int) -> Any:
    from transformers import Blip2Config, Blip2QFormerConfig, Blip2VisionConfig, OPTConfig

    vision: dict[str, Any] = {key: value for key, value in _CLIP.items() if key != "projection_dim"}
    return Blip2Config(
        vision_config=Blip2VisionConfig(**vision).to_dict(),
        qformer_config=Blip2QFormerConfig(
            vocab_size=32,
            hidden_size=64,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=4,
            encoder_hidden_size=64,
            cross_attention_frequency=1,
        ).to_dict(),
        text_config=OPTConfig(
            vocab_size=n_tokens,
            hidden_size=_HIDDEN,
            ffn_dim=128,
            num_hidden_layers=_LAYERS,
            num_attention_heads=4,
            word_embed_proj_dim=_HIDDEN,
            max_position_embeddings=1024,
            pad_token_id=0,
        ).to_dict(),
        num_query_tokens=8,
        image_token_index=_token("blip2", "<image>"),
    )


def _blip2_processor(known: Any) -> Any:
    from transformers import Blip2Processor, BlipImageProcessor

    return Blip2Processor(BlipImageProcessor(size={"height": 64, "width": 64}), known, num_query_tokens=8)


_FAMILIES: dict[str, tuple[Callable[[int], Any], Callable[[Any], Any]]] = {
    "llava": (_llava_config, _llava_processor),
    "llava_next": (_llava_next_config, _llava_next_processor),
    "qwen2_5_vl": (_qwen_config, _qwen_processor),
    "smolvlm": (_smolvlm_config, _smolvlm_processor),
    "paligemma": (_paligemma_config, _paligemma_processor),
    "blip2": (_blip2_config, _blip2_processor),
}
