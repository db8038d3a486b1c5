"""What a trial trains and what is kept of it, without weights, pixels or a device: the model is made of shapes alone.

Parameters are exact. A checkpoint that is not here is taken by its published shape where that is known. Memory and time are not said.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from trainables.catalog import Estimate
from trainables.frozen_prefix.frontier import Frontier
from trainables.torchvision_ops import ensure_torchvision_ops
from trainables.vlm_classifier.build import adapters, frontier_of, last_sections
from trainables.vlm_classifier.encoder import open_encoder
from trainables.vlm_classifier.encoder_specs import EncoderSpec
from trainables.vlm_classifier.head import Classifier, Head
from trainables.vlm_classifier.spec import VlmClassifierSpec
from trainables.vlm_classifier.weights import Weights, encoder_weights
from trainables.vlm_data.open import open_rows
from trainables.vlm_data.spec import VlmDataSpec
from tune.core.errors import UserError

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
    """Parameters of a trial, trained and all. Raises UserError for a model or targets that cannot be had."""
    module, _ = _on_meta(spec, n_classes(spec))
    parameters = list(module.parameters())
    trained = 0 if spec.mode == "zero_shot" else sum(p.numel() for p in parameters if p.requires_grad)
    return Estimate(trainable_parameters=trained, total_parameters=sum(p.numel() for p in parameters))


def saving(spec: VlmClassifierSpec) -> Saving:
    """What `cache` does for this spec."""
    module, encoder = _on_meta(spec, 2)
    chain = encoder.chain(spec.streams)
    module.train()
    frontier = frontier_of(spec, chain)
    side = encoder.picture.size_px
    tokens = encoder.sample_tokens()
    batch: dict[str, Any] = {  # without a mask, which transformers would look into
        "pixels": torch.zeros(1, 3, side, side, device="meta"),
        "ids": torch.zeros(1, tokens, dtype=torch.long, device="meta"),
    }
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
