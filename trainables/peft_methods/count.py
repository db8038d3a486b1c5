"""How many parameters a configuration trains, of how many, without allocating any: the model is built on torch's meta device.

Promises: the same `build` as in training decides, so the numbers are those of the training. A module that peft copies in order to
train it whole (a connector) counts once in the total. Quantised layouts are not known here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from trainables.peft_methods.build import Adapted, build
from trainables.peft_methods.spec import PeftSpec

_STEPS = 100_000  # AdaLoRA wants a length of training; it changes no size


@dataclass(frozen=True)
class ParameterCount:
    """`trainable`, `total` (base and adapters) and `share` = trainable / total; `parts`: trainable by part of the model."""

    trainable: int
    total: int
    base: int
    parts: Mapping[str, int]

    @property
    def share(self) -> float:
        return self.trainable / self.total


def count(config: Any, spec: PeftSpec, *, model_class: Any = None, where: str = "peft") -> ParameterCount:
    """Of a transformers configuration. model_class: `AutoModelForImageTextToText` when absent. Raises UserError as `build` does."""
    return counted(build(meta_model(config, model_class), spec, seed=0, total_steps=_STEPS, where=where))


def meta_model(config: Any, model_class: Any = None) -> Any:
    """The model of a configuration with parameters that have shapes and no storage."""
    from trainables.torchvision_ops import ensure_torchvision_ops

    ensure_torchvision_ops()
    if model_class is None:
        from transformers import AutoModelForImageTextToText as model_class
    from transformers.initialization import no_init_weights

    with torch.device("meta"), no_init_weights():
        model = model_class.from_config(config) if hasattr(model_class, "from_config") else model_class(config)
    model.tie_weights()  # otherwise done with the first weights
    return model


def counted(adapted: Adapted) -> ParameterCount:
    """Of a model that is built already, on any device and under any engine that keeps shapes."""
    parts: dict[str, int] = {}
    added = 0
    for name, parameter in adapted.module.named_parameters():
        elements = getattr(parameter, "ds_numel", parameter.numel())  # a ZeRO-3 parameter holds only its share
        if parameter.requires_grad:
            part = adapted.part_of(name)
            parts[part] = parts.get(part, 0) + elements
        added += elements
    copied = sum(
        getattr(parameter, "ds_numel", parameter.numel())
        for name, parameter in adapted.module.named_parameters()
        if ".original_module." in name or name.endswith(".original_module")
    )
    return ParameterCount(sum(parts.values()), added - copied, adapted.base_parameters, parts)
