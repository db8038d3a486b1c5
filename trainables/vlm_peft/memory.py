"""Peak memory of a training step on one worker, as a sum of named terms. Pure arithmetic over a `Shape`; nothing is loaded.

Let c be the bytes of a number in the forward (2 in half precision, 4 in fp32), W the workers, P and Q the frozen and trained
parameters, B rows of a micro-batch, T tokens of a row, K places whose logits are computed, V words, and of a block of the language
model d its width, k the width of its keys and values, f that of its feed-forward part.

weights      plain: c P + 4 Q, and 2 Q for autocast's copies in half precision. ZeRO: c (P + Q), at stage 3 divided by W, with two
             blocks gathered whole. A base in 4 or 8 bits: 0.516 or 1 byte for each weight of a block (nf4 with double quantisation,
             Dettmers et al. 2023, section 3), c for the rest.
gradients    plain: 4 Q. ZeRO: c Q, divided by W from stage 2 on.
optimizer    AdamW: 8 Q in plain torch, which steps the fp32 weights themselves; ZeRO keeps fp32 masters besides: 12 Q, divided by W
             from stage 1 on (Rajbhandari et al. 2020, section 3.1); offloaded to the host: nothing here.
keep         methods that remember the pretrained weights: 4 Q / W, SPIDER 8 Q / W; and what it computes with of the largest tensor.
activations  of a block whose backward is needed, what autograd keeps: B T (8 d + c (2 d + 2 k + 3 f)): two RMSNorms keep their input
             in fp32; attention without a score matrix (SDPA) keeps queries, keys, values and its output; the gated feed-forward part
             keeps three inner activations. Linear layers keep their inputs only if they are trained or adapted: c (2 d + f) more,
             and dropout of adapters a copy and a mask of each input, (c + 1) (6 d + f). Blocks below everything that is trained keep
             nothing. With recomputation: c B T d for each such block, and one block whole. The counting follows Korthikanti et al.
             (2022, section 4), for a Llama block in place of GPT's. A trained vision tower keeps B N c (8 v + 4 g) a block (N patches,
             width v, inner width g).
logits       B K V times c for them, 4 for their fp32 copy unless they are fp32, 4 for the log-softmax, 4 for the gradient.
buckets      ZeRO: what is reduced and gathered at once, in numbers of c bytes, doubled where communication overlaps.

Left out: what torch itself takes (half a gigabyte or so), cuDNN's and cuBLAS's workspaces, the allocator's slack, and pictures.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

from trainables.engine_spec import EngineSpec

_NF4_BYTES = 0.516
_KEEP_COPIES = {"full": 0, "spider": 2}


@dataclass(frozen=True)
class Shape:
    """What is known of the model and of what is trained in it. Parameters are counts; widths are elements.

    `blocks_needing_backward`: blocks of the language model from the lowest trained one up. `adapted`: their linear layers are
    trained or adapted. `adapter_dropout`: adapters drop their inputs. `vision_trained`: the tower keeps activations too.
    """

    frozen: int
    trained: int
    largest_trained: int
    block_parameters: int
    n_blocks: int
    blocks_needing_backward: int
    width: int
    kv_width: int
    inner_width: int
    n_words: int
    adapted: bool
    adapter_dropout: bool
    vision_trained: bool
    vision_blocks: int
    vision_width: int
    vision_inner_width: int
    n_patches: int


@dataclass(frozen=True)
class Peak:
    """Bytes on one worker, by what takes them."""

    weights: float
    gradients: float
    optimizer: float
    keep: float
    activations: float
    logits: float
    buckets: float

    @property
    def total(self) -> int:
        return round(sum(getattr(self, field.name) for field in fields(self)))


def peak(
    shape: Shape,
    engine: EngineSpec,
    *,
    workers: int,
    micro_batch: int,
    n_tokens: int,
    n_logits: int,
    quantize: Literal["none", "4bit", "8bit"] = "none",
    keep: str = "full",
) -> Peak:
    """The terms of a training step. n_tokens: of a row. n_logits: places of a row whose logits are computed. keep: a keep method."""
    number = 4 if engine.precision == "fp32" else 2
    return Peak(
        weights=_weights(shape, engine, workers, number, quantize),
        gradients=_gradients(shape, engine, workers, number),
        optimizer=_optimizer(shape, engine, workers),
        keep=4.0 * _KEEP_COPIES.get(keep, 1) * shape.trained / workers + (20.0 * shape.largest_trained if keep != "full" else 0.0),
        activations=_activations(shape, engine, number, micro_batch, n_tokens),
        logits=float(micro_batch * n_logits * shape.n_words * (number + 8 + (0 if number == 4 else 4))),
        buckets=_buckets(shape, engine, number),
    )


def _weights(shape: Shape, engine: EngineSpec, workers: int, number: int, quantize: str) -> float:
    in_blocks = min(shape.frozen, shape.block_parameters * shape.n_blocks)
    small = {"none": float(number), "4bit": _NF4_BYTES, "8bit": 1.0}[quantize]
    frozen = small * in_blocks + number * (shape.frozen - in_blocks)
    if engine.zero is None:
        return frozen + 4.0 * shape.trained + (2.0 * shape.trained if number == 2 else 0.0)
    whole = frozen + number * shape.trained
    if engine.zero.stage < 3:
        return whole
    share = 0.0 if engine.zero.offload_parameters == "cpu" else whole / workers
    return share + 2.0 * number * shape.block_parameters


def _gradients(shape: Shape, engine: EngineSpec, workers: int, number: int) -> float:
    if engine.zero is None:
        return 4.0 * shape.trained
    split = workers if engine.zero.stage >= 2 else 1
    return 0.0 if engine.zero.offload_optimizer == "cpu" else number * shape.trained / split


def _optimizer(shape: Shape, engine: EngineSpec, workers: int) -> float:
    if engine.zero is None:
        return 8.0 * shape.trained
    if engine.zero.offload_optimizer == "cpu":
        return 0.0
    bytes_each = 8.0 if engine.zero.stage == 0 and engine.precision == "fp32" else 12.0
    return bytes_each * shape.trained / (workers if engine.zero.stage >= 1 else 1)


def _activations(shape: Shape, engine: EngineSpec, number: int, rows: int, n_tokens: int) -> float:
    d, k, f = shape.width, shape.kv_width, shape.inner_width
    each = 8 * d + number * (2 * d + 2 * k + 3 * f)
    if shape.adapted:
        each += number * (2 * d + f)
        each += (number + 1) * (6 * d + f) if shape.adapter_dropout else 0
    of_block = float(rows * n_tokens * each)
    if engine.activation_checkpointing:
        language = shape.blocks_needing_backward * float(rows * n_tokens * number * d) + of_block
    else:
        language = max(1, shape.blocks_needing_backward) * of_block
    v, g, patches = shape.vision_width, shape.vision_inner_width, shape.n_patches
    of_vision_block = float(rows * patches * number * (8 * v + 4 * g))
    return language + (shape.vision_blocks * of_vision_block if shape.vision_trained else of_vision_block)


def _buckets(shape: Shape, engine: EngineSpec, number: int) -> float:
    """No bucket is larger than what there is to put into it."""
    zero = engine.zero
    if zero is None or zero.stage == 0:
        return 0.0
    reduced = min(zero.reduce_bucket_elements, shape.trained) * (2 if zero.overlap_comm else 1)
    gathered = min(zero.allgather_bucket_elements, shape.trained) if zero.stage < 3 else 0
    fetched = min(zero.prefetch_bucket_elements, shape.frozen + shape.trained) if zero.stage == 3 else 0
    return float(number * (reduced + gathered + fetched))
