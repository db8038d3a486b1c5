"""Memory that tensors of a forward take, told from shapes: `run` is a forward on torch's meta device, where nothing is computed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from trainables.engine_spec import OptimizerSpec, SgdSpec

Run = Callable[[], Any]


def kept_bytes(module: nn.Module, run: Run) -> int:
    """What autograd keeps of a forward for the backward, weights and buffers left out. Each storage counts once."""
    own = {tensor.untyped_storage()._cdata for tensor in (*module.parameters(), *module.buffers())}
    kept: dict[int, torch.UntypedStorage] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage  # held, or its place would be given to another
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        result = run()
    del result
    return sum(storage.nbytes() for storage in kept.values())


def moments(optimizer: OptimizerSpec) -> int:
    """Values that the optimiser keeps for each trained one."""
    return (1 if optimizer.momentum else 0) if isinstance(optimizer, SgdSpec) else 2


def largest_pair_bytes(module: nn.Module, run: Run) -> int:
    """Input and output of the layer where both together are largest, no gradients kept."""
    largest = 0

    def look(_: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        nonlocal largest
        tensors = [value for value in (*inputs, output) if isinstance(value, torch.Tensor)]
        largest = max(largest, sum(value.numel() * value.element_size() for value in tensors))

    hooks = [part.register_forward_hook(look) for part in module.modules() if not list(part.children())]
    try:
        with torch.no_grad():
            run()
    finally:
        for hook in hooks:
            hook.remove()
    return largest
