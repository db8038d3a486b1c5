"""Real transformers classes at tiny random sizes: LLaVA (CLIP + Llama), and modules named as Qwen-VL's remote code names them."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from trainables.torchvision_ops import ensure_torchvision_ops

VOCABULARY, IMAGE_TOKEN = 100, 99


def llava_config(n_layers: int = 2) -> Any:
    ensure_torchvision_ops()
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

    vision = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=32,
        patch_size=16,
        projection_dim=32,
    )
    text = LlamaConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=n_layers,
        num_attention_heads=2,
        num_key_value_heads=2,
        vocab_size=VOCABULARY,
        max_position_embeddings=64,
    )
    return LlavaConfig(vision_config=vision, text_config=text, image_token_index=IMAGE_TOKEN, tie_word_embeddings=False)


def llava(seed: int = 0, n_layers: int = 2) -> Any:
    config = llava_config(n_layers)
    from transformers import LlavaForConditionalGeneration

    torch.manual_seed(seed)
    return LlavaForConditionalGeneration(config).eval()


def inputs(seed: int = 0, n_samples: int = 2) -> dict[str, torch.Tensor]:
    """`n_samples` prompts of four image tokens and four words, with labels on the last two."""
    generator = torch.Generator().manual_seed(seed)
    words = torch.randint(3, IMAGE_TOKEN, (n_samples, 4), generator=generator)
    ids = torch.cat([torch.ones(n_samples, 1, dtype=torch.long), torch.full((n_samples, 4), IMAGE_TOKEN), words], dim=1)
    labels = ids.clone()
    labels[:, :-2] = -100
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values": torch.randn(n_samples, 3, 32, 32, generator=generator),
        "labels": labels,
    }


class _QwenBlock(nn.Module):
    def __init__(self, hidden: int, inner: int) -> None:
        super().__init__()
        self.attn = nn.Module()
        self.attn.c_attn, self.attn.c_proj = nn.Linear(hidden, 3 * hidden), nn.Linear(hidden, hidden, bias=False)
        self.mlp = nn.Module()
        self.mlp.w1, self.mlp.w2 = nn.Linear(hidden, inner, bias=False), nn.Linear(hidden, inner, bias=False)
        self.mlp.c_proj = nn.Linear(inner, hidden, bias=False)


class QwenNames(nn.Module):
    """The names and shapes of Qwen-VL-Chat's blocks and resampler; it computes nothing."""

    def __init__(self, hidden: int = 32, inner: int = 64, n_blocks: int = 2) -> None:
        super().__init__()
        self.transformer = nn.Module()
        self.transformer.visual = nn.Module()
        self.transformer.visual.conv1 = nn.Linear(4, hidden)
        self.transformer.visual.attn_pool = nn.Module()
        self.transformer.visual.attn_pool.kv_proj = nn.Linear(hidden, hidden)
        self.transformer.h = nn.ModuleList(_QwenBlock(hidden, inner) for _ in range(n_blocks))
        self.lm_head = nn.Linear(hidden, 10, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError
