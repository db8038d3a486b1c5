"""What a trial trains, needs, and keeps of its encoder, without weights, pixels or a device: the model is made of shapes alone.

Parameters are exact. A checkpoint that is not here is taken by its published shape where that is known. Memory is that of tensors in one
worker that does the whole batch, at the worst moment: while the frozen part is computed once, in a step (weights, gradients, optimiser
state, what autograd keeps, the two largest tensors of the forward), or in evaluation. Weights are held in fp32; half precision is taken to
halve activations and to add a copy of what is trained. Left out is what torch takes itself. Under ZeRO it depends on workers and is not
said; neither is time.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from trainables.adapters.engine import switch_on_checkpointing
from trainables.catalog import Estimate
from trainables.engine_spec import micro_batch_of
from trainables.frozen_prefix.features import BATCH_ROWS
from trainables.frozen_prefix.frontier import Frontier
from trainables.meta_memory import kept_bytes, largest_pair_bytes, moments
from trainables.torchvision_ops import ensure_torchvision_ops
from trainables.vlm_classifier.build import adapters, frontier_of, last_sections, optimizer_spec
from trainables.vlm_classifier.encoder import open_encoder
from trainables.vlm_classifier.encoder_specs import EncoderSpec
from trainables.vlm_classifier.evaluate import EVAL_BATCH
from trainables.vlm_classifier.head import Classifier, Head
from trainables.vlm_classifier.spec import VlmClassifierSpec
from trainables.vlm_classifier.weights import Weights, encoder_weights
from trainables.vlm_data.open import open_rows
from trainables.vlm_data.spec import VlmDataSpec
from tune.core.errors import FailTrial, UserError

_FP32_BYTES = 4
_STEPS = 100_000  # a length of training, where a method wants one; it changes no size


@dataclass(frozen=True)
class Saving:
    """What keeping saves. `share`: of a forward's floating-point operations. `row_bytes`: on disk, for each row, in fp32."""

    frontier: Frontier
    kept_flops: int
    total_flops: int
    row_bytes: int

    @property
    def share(self) -> float:
        return self.kept_flops / self.total_flops if self.total_flops else 0.0


def estimate(spec: VlmClassifierSpec) -> Estimate:
    """Parameters and peak memory of a trial. Raises UserError for a model or targets that cannot be had."""
    module, encoder = _on_meta(spec, n_classes(spec))
    parameters = list(module.parameters())
    total = sum(p.numel() for p in parameters)
    trained = 0 if spec.mode == "zero_shot" else sum(p.numel() for p in parameters if p.requires_grad)
    memory = None if spec.engine.zero is not None else _peak_memory_bytes(spec, module, encoder, trained)
    return Estimate(trainable_parameters=trained, total_parameters=total, peak_memory_bytes=memory)


def saving(spec: VlmClassifierSpec) -> Saving:
    """What `cache` does for this spec."""
    module, encoder = _on_meta(spec, 2)
    chain = module.chain
    assert chain is not None
    module.train()
    frontier = frontier_of(spec, chain)
    batch = _batch(encoder, 1)
    module.requires_grad_(False)  # the frontier is known; torch's counter would look for gradients
    with torch.no_grad():
        with FlopCounterMode(display=False) as counted:
            chain.run(batch)
        total = counted.get_total_flops()
        kept = chain.run_to(batch, frontier.places)
        chain.cut(frontier.places)
        with FlopCounterMode(display=False) as counted:
            chain.run({**batch, **kept})
    size = sum(value.numel() * (4 if spec.engine.precision == "fp32" else 2) for value in kept.values())
    return Saving(frontier, total - counted.get_total_flops(), total, size)


def _peak_memory_bytes(spec: VlmClassifierSpec, module: Classifier, encoder: Any, trained: int) -> int:
    chain = module.chain
    assert chain is not None
    shrink = 1 if spec.engine.precision == "fp32" else 2
    weights = _bytes_of(module)
    if spec.mode == "zero_shot":
        return weights + largest_pair_bytes(module, partial(chain.run, _batch(encoder, EVAL_BATCH))) // shrink
    if spec.engine.activation_checkpointing:
        with suppress(FailTrial):  # said by the trial
            switch_on_checkpointing(module)
    module.train()
    peaks = []
    places = {} if spec.cache.use == "off" else dict(frontier_of(spec, chain).places)
    n_step, batches = micro_batch_of(spec.batch, 1, spec.engine), {}
    for n_rows in (n_step, EVAL_BATCH):
        with torch.no_grad():
            batches[n_rows] = {**_batch(encoder, n_rows), **chain.run_to(_batch(encoder, n_rows), places)}
    if any(places.values()):
        peaks.append(weights + largest_pair_bytes(module, partial(chain.run_to, _batch(encoder, BATCH_ROWS), places)) // shrink)
        chain.cut(places)
        if spec.whole_encoder_frozen:
            weights = _bytes_of(module.head)  # the rest is let go of
    state = trained * (_FP32_BYTES * (1 + moments(optimizer_spec(spec.optim))) + (2 if shrink == 2 else 0))
    step = partial(module, **batches[n_step])
    peaks.append(weights + state + (kept_bytes(module, step) + largest_pair_bytes(module, step)) // shrink)
    module.eval()
    peaks.append(weights + state + largest_pair_bytes(module, partial(module, **batches[EVAL_BATCH])) // shrink)
    return max(peaks)


def _batch(encoder: Any, n_rows: int) -> dict[str, Any]:
    """Raw inputs as shapes, without a mask, which transformers would look into."""
    side = encoder.picture.size_px
    return {
        "pixels": torch.zeros(n_rows, 3, side, side, device="meta"),
        "ids": torch.zeros(n_rows, encoder.sample_tokens(), dtype=torch.long, device="meta"),
    }


def _bytes_of(module: nn.Module) -> int:
    return sum(tensor.numel() * _FP32_BYTES for tensor in (*module.parameters(), *module.buffers()))


def n_classes(spec: VlmClassifierSpec) -> int:
    """Of the data; where they are not here, of their published labels."""
    try:
        return _n_classes(spec.data)
    except UserError:
        if spec.data.entry.label_names:
            return len(spec.data.entry.label_names)
        raise


def _on_meta(spec: VlmClassifierSpec, n: int) -> tuple[Classifier, Any]:
    weights = _shapes(spec.encoder)
    encoder = open_encoder(spec.encoder, weights, with_weights=False)
    adapters(spec, encoder, seed=0, total_steps=_STEPS)
    widths = encoder.widths(spec.streams)
    with torch.device("meta"):
        head = Head({name: widths[name] for name in last_sections(spec)}, n, spec.inputs.fusion, spec.head)
    return Classifier(encoder.module, encoder.chain(spec.streams), head, spec.encoder.frozen_dropout), encoder


def _shapes(spec: EncoderSpec) -> dict[str, Weights]:
    """The weights where they are here; else the published shape of their name."""
    try:
        return encoder_weights(spec)
    except UserError:
        return published_shapes(spec)


def published_shapes(spec: EncoderSpec) -> dict[str, Weights]:
    """Stand-ins that name a published checkpoint. Raises UserError for one whose shape is not known."""
    ensure_torchvision_ops()
    from trainables.peft_methods.architectures import config_of
    from trainables.vlm_classifier.encoder_specs import TwoTowerSpec

    chosen = spec.chosen
    if isinstance(chosen, TwoTowerSpec):
        own = chosen.model_copy(update={"image": chosen.image.model_copy(update={"weights": "none"})})
        return encoder_weights(spec.model_copy(update={"two_tower": own}))
    config_of(chosen.weights.removeprefix("hf:"))
    return {"model": replace(Weights(f"trainable.encoder.{spec.family}.weights", None, ""), published=chosen.weights.removeprefix("hf:"))}


@lru_cache(maxsize=8)
def _n_classes(data: VlmDataSpec) -> int:
    """Of a plan's many points, the data are looked at once."""
    return len(open_rows(data).classes)
