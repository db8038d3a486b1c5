"""Take a DeepSpeed engine down so that nothing of it stays: `release` is `engine.destroy()` and what that leaves behind.

Found by comparing reference counts with the references inside the engine's object graph (DeepSpeed 0.19.8). After `destroy()`, a
stage 3 engine hangs on two roots outside it: an unbounded `functools.lru_cache` on a method of `PartitionedParameterCoordinator`,
whose keys are (coordinator, module), and the module-level `FWD_MODULE_STACK`, where the last forward leaves the root module. With
both gone the rest is ordinary garbage, in cycles. `torch_autocast` besides leaves process-wide switches that the next engine
would read. The storages are emptied too, so that a caller who still holds the module holds no memory.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


def release(engine: Any, module: nn.Module) -> None:
    """Destroy `engine` and free its and `module`'s memory. Neither may be used afterwards."""
    basic_optimizer = engine.basic_optimizer
    optimizer = engine.optimizer
    try:
        engine.destroy()
    finally:  # a trial may end anywhere, with DeepSpeed in any state
        forget_roots(module)
        _empty_storages(module, basic_optimizer, optimizer)
    # cycles among engine, optimizer, hooks and parameters: only the collector frees them, and it runs by counts, not by bytes
    del engine, optimizer, basic_optimizer
    gc.collect()


def forget_roots(module: nn.Module) -> None:
    """Drop what DeepSpeed's modules keep of `module` and of its precision, whether or not an engine came to be."""
    from deepspeed.runtime import torch_autocast
    from deepspeed.runtime.zero import parameter_offload, partitioned_param_coordinator

    coordinator = partitioned_param_coordinator.PartitionedParameterCoordinator
    cached = _find_cache(vars(coordinator)["_PartitionedParameterCoordinator__params_to_release"])
    if cached is not None:
        cached()  # an engine beside this one only fills it again
    ours = {id(part) for part in module.modules()}
    parameter_offload.FWD_MODULE_STACK[:] = [part for part in parameter_offload.FWD_MODULE_STACK if id(part) not in ours]
    torch_autocast.TORCH_AUTOCAST_INITIALIZED = False
    torch_autocast.TORCH_AUTOCAST_DTYPE = None


def _find_cache(function: Any) -> Callable[[], None] | None:
    """`cache_clear` of the lru_cache under decorators that keep what they wrap in a closure only."""
    clear: Callable[[], None] | None = getattr(function, "cache_clear", None)
    if clear is not None:
        return clear
    for cell in getattr(function, "__closure__", None) or ():
        found = _find_cache(cell.cell_contents) if callable(cell.cell_contents) else None
        if found is not None:
            return found
    return None


def _empty_storages(module: nn.Module, basic_optimizer: torch.optim.Optimizer, optimizer: Any) -> None:
    for state in basic_optimizer.state.values():
        state.clear()
    basic_optimizer.state.clear()
    basic_optimizer.param_groups.clear()
    for parameter in module.parameters():
        parameter.grad = None
        share = getattr(parameter, "ds_tensor", None)  # stage 3: this rank's part
        if isinstance(share, Tensor):
            share.data = share.data.new_empty(0)
        parameter.data = parameter.data.new_empty(0)
    for buffer in module.buffers():
        buffer.data = buffer.data.new_empty(0)
    if optimizer is not basic_optimizer:  # flat fp32 masters, gradient and communication buffers
        vars(optimizer).clear()
