"""What a trial needs, without weights, rows or a device: parameters exactly, memory by the formula of `memory`.

The model is built on torch's meta device from its configuration, which for the published models is known without any file. Rows are
taken to be as long as they may be (`model.max_length`, or the model's context where that is shorter), so the memory is that of the
longest row a study allows. The worker is one of `workers` that share the batch.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from trainables.catalog import Estimate
from trainables.engine_spec import micro_batch_of
from trainables.peft_methods.anatomy import under
from trainables.peft_methods.build import Adapted, build
from trainables.peft_methods.count import counted, meta_model
from trainables.peft_methods.method_specs import LayerRange
from trainables.vlm_peft.engine_choice import on_cards, settlements
from trainables.vlm_peft.memory import Peak, Shape, peak
from trainables.vlm_peft.model import context_of, load_config, refusal, settled
from trainables.vlm_peft.model_class import class_of
from trainables.vlm_peft.spec import ModelSpec, VlmPeftSpec
from tune.core.errors import UserError

_STEPS = 100_000  # AdaLoRA wants a length of training; it changes no size


def estimate(spec: VlmPeftSpec, workers: int = 1) -> Estimate:
    """Parameters and peak memory of one worker of a trial, of an open engine the least it can do with.

    Raises UserError for a model or a method that cannot be had.
    """
    adapted, config = on_meta(spec)
    count = counted(adapted)
    try:
        needs = [(one, peak_of(one, adapted, config, workers).total) for one in settlements(spec, workers, on_gpu=True)]
        memory: int | None = needs[-1][1]
        note = on_cards(needs, workers) if spec.engine.is_open else None
    except UserError:  # a batch that does not divide: said by `check`
        memory = note = None
    return Estimate(trainable_parameters=count.trainable, total_parameters=count.total, peak_memory_bytes=memory, note=note)


def on_meta(spec: VlmPeftSpec) -> tuple[Adapted, Any]:
    """The adapted model with parameters that have shapes and no storage, and its configuration."""
    config = _config(spec.model)
    adapted = build(bare(config, spec.model), spec.peft, seed=0, total_steps=_STEPS, where="trainable.peft")
    return settled(adapted, config, spec), config


def bare(config: Any, model: ModelSpec) -> Any:
    """The base without storage. Raises UserError where no class of image and text to text makes it."""
    try:
        return meta_model(config, class_of(config, model))
    except (ValueError, OSError, ImportError) as error:
        raise UserError(refusal(model, error)) from None


def peak_of(
    spec: VlmPeftSpec, adapted: Adapted, config: Any, workers: int, n_tokens: int | None = None, n_logits: int | None = None
) -> Peak:
    """The memory of a training step by its terms. n_tokens, n_logits: of a row, as long as allowed when absent."""
    shape = shape_of(spec, adapted, config)
    longest = min(spec.model.max_length, context_of(config) or spec.model.max_length)
    n_tokens = longest if n_tokens is None else n_tokens
    return peak(
        shape,
        spec.engine,
        workers=workers,
        micro_batch=micro_batch_of(spec.batch, workers, spec.engine),
        n_tokens=n_tokens,
        n_logits=max(1, n_tokens - shape.n_patches) if n_logits is None else n_logits,
        quantize=spec.model.quantize,
        keep=spec.keep.method,
    )


def shape_of(spec: VlmPeftSpec, adapted: Adapted, config: Any) -> Shape:
    """What the formula asks of a model, from its configuration and the modules that are trained."""
    text, vision = config.get_text_config(), getattr(config, "vision_config", None)
    count, trained = counted(adapted), adapted.trained()
    heads = int(text.num_attention_heads)
    kv_heads = int(getattr(text, "num_key_value_heads", None) or heads)
    width = int(text.hidden_size)
    head_width = int(getattr(text, "head_dim", None) or width // heads)
    n_blocks = len(adapted.anatomy.blocks)
    lowest = _lowest_block(spec, adapted)
    dropout = float(getattr(spec.peft.chosen, "dropout", 0.0))
    return Shape(
        frozen=count.total - count.trainable,
        trained=count.trainable,
        largest_trained=max(parameter.numel() for _, parameter in trained),
        block_parameters=_block_parameters(adapted),
        n_blocks=n_blocks,
        blocks_needing_backward=n_blocks - lowest,
        width=width,
        kv_width=kv_heads * head_width,
        inner_width=int(getattr(text, "intermediate_size", None) or getattr(text, "ffn_dim", None) or 4 * width),
        n_words=int(text.vocab_size),
        adapted=spec.peft.method not in ("prefix", "prompt", "frozen", "ln_tuning"),
        adapter_dropout=dropout > 0,
        vision_trained=spec.peft.vision != "frozen",
        vision_blocks=int(_first(vision, "num_hidden_layers", "depth")),
        vision_width=int(_first(vision, "hidden_size", "embed_dim")),
        vision_inner_width=int(_first(vision, "intermediate_size")),
        n_patches=_n_patches(config),
    )


@lru_cache(maxsize=8)
def _config(spec: ModelSpec) -> Any:
    return load_config(spec)


def _lowest_block(spec: VlmPeftSpec, adapted: Adapted) -> int:
    """The first block whose backward is needed: all, where something before the blocks is trained."""
    parts = {adapted.part_of(name) for name, _ in adapted.trained()}
    blocks = adapted.anatomy.blocks
    if parts & {"connector", "vision"} or spec.peft.method in ("prefix", "prompt"):
        return 0
    chosen = spec.peft.chosen
    ranged = isinstance(chosen, LayerRange) and (chosen.layers is not None or chosen.last_layers is not None)
    if spec.peft.method == "full" and not ranged:
        return 0
    names = [adapted.plain_name(name) for name, _ in adapted.trained()]
    return next((i for i, prefixes in enumerate(blocks) if any(under(name, prefix) for name in names for prefix in prefixes)), len(blocks))


def _block_parameters(adapted: Adapted) -> int:
    """Parameters of one block of the language model, adapters in it included."""
    if not adapted.anatomy.blocks:
        return 0
    prefixes = adapted.anatomy.blocks[0]
    return sum(p.numel() for name, p in adapted.module.named_parameters() if any(under(adapted.plain_name(name), x) for x in prefixes))


def _n_patches(config: Any) -> int:
    """Tokens of a picture at the tower's own size, 0 where the configuration does not say."""
    vision = getattr(config, "vision_config", None)
    side, patch = getattr(vision, "image_size", None), getattr(vision, "patch_size", None)
    return (int(side) // int(patch)) ** 2 if isinstance(side, int) and isinstance(patch, int) else 0


def _first(config: Any, *names: str) -> Any:
    return next((getattr(config, name) for name in names if getattr(config, name, None)), 0)
