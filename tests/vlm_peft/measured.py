"""One training step of a LLaVA whose tensors outweigh what Python and torch take: what it added to the process's resident memory.

    MALLOC_MMAP_THRESHOLD_=65536 python -m tests.vlm_peft.measured CASE...     prints {case: {"estimated": bytes, "measured": bytes}}

In a process of its own, since memory that another test has left behind would be used again and not be seen; and with an allocator
that gives tensors back at once, since its slack is not estimated (without that, "lora" held twice what its tensors need).
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from trainables.adapters.engine import PeakMemory, open_engine
from trainables.engine_spec import AdamWSpec
from trainables.peft_methods.build import build, parameter_groups
from trainables.torchvision_ops import ensure_torchvision_ops
from trainables.vlm_peft.batches import IGNORED, answer_loss
from trainables.vlm_peft.estimate import peak_of
from trainables.vlm_peft.model import settled
from trainables.vlm_peft.spec import VlmPeftSpec

ROWS, TOKENS, WORDS = 8, 96, 2048
CASES: dict[str, dict[str, Any]] = {
    "lora": {"peft": {"method": "lora", "lora": {"r": 8}, "connector": "tuned"}},
    "recomputed": {"peft": {"method": "lora", "lora": {"r": 8}, "connector": "tuned"}, "engine": {"activation_checkpointing": True}},
    "full": {"peft": {"method": "full", "connector": "tuned"}},
    "last block": {"peft": {"method": "full", "full": {"last_layers": 1}}},
    "zero 2": {"peft": {"method": "full", "connector": "tuned"}, "engine": {"zero": {"stage": 2, "overlap_comm": False}}},
}


def config() -> Any:
    ensure_torchvision_ops()
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

    vision = CLIPVisionConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=3, num_attention_heads=2, image_size=32, patch_size=16, projection_dim=32
    )
    text = LlamaConfig(
        hidden_size=448, intermediate_size=1216, num_hidden_layers=6, num_attention_heads=7, num_key_value_heads=7, vocab_size=WORDS
    )
    return LlavaConfig(vision_config=vision, text_config=text, image_token_index=WORDS - 1, tie_word_embeddings=False)


def resident_bytes() -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024


def step(spec: VlmPeftSpec, rows: int, tokens: int) -> tuple[int, int]:
    """(estimated, measured): the second is the peak over what the process held before the model was made."""
    from transformers import LlavaForConditionalGeneration

    shape = config()
    before = resident_bytes()
    model: Any = LlavaForConditionalGeneration(shape)
    adapted = settled(build(model, spec.peft, seed=0), shape, spec)
    reporter: Any = SimpleNamespace(rank=0, world_size=1, device="cpu")
    groups = parameter_groups(adapted, lr=1e-4, weight_decay=0.0)
    engine = open_engine(
        adapted.module, groups, optimizer=AdamWSpec(), engine=spec.engine, batch=rows, clip_grad_norm=1.0, reporter=reporter
    )
    mark = PeakMemory(torch.device("cpu"))
    ids = torch.randint(3, WORDS - 1, (rows, tokens))
    ids[:, 1:5] = WORDS - 1
    labels = ids.clone()
    labels[:, :5] = IGNORED
    n_last = tokens - 5 + 1
    adapted.module.train()
    for _ in range(2):  # moments are made in the first step
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": torch.randn(rows, 3, 32, 32)}
        output = engine.forward(**inputs, logits_to_keep=n_last, use_cache=False)
        loss_B, _ = answer_loss(output.logits, labels, n_last)
        engine.backward(loss_B.sum() / (rows * (tokens - 5)))
        engine.step()
    estimated = peak_of(spec, adapted, shape, 1, tokens, n_last).total
    measured = mark.bytes() - before
    engine.close()
    return estimated, measured


def main() -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    found = {}
    for name in sys.argv[1:]:
        fields = {"model": {"name": "tiny:llava"}, "data": {"reader": "easy_vqa"}, "batch": ROWS, **CASES[name]}
        spec = VlmPeftSpec.model_validate(fields)
        step(spec.model_copy(update={"batch": 1}), 1, 16)  # what libraries take on first use is not the model's
        estimated, measured = step(spec, ROWS, TOKENS)
        found[name] = {"estimated": estimated, "measured": measured}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
