"""The trained tensors of an engine as whole fp32 tensors: gradients before the optimizer step, weights before and after it.

The same calls serve plain torch, DDP and ZeRO 0 to 3. All methods but `owned` are collectives: every rank calls them in the same
order. One tensor is whole at a time; what a method keeps between steps it keeps for its own tensors only (each rank owns every n-th),
so that state is shared out over the ranks instead of copied to each.

Gradients are read between the last `backward` of a batch and `Engine.step`: averaged over ranks and micro-batches, not yet clipped.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn

from trainables.adapters.engine import Engine


class TrainedTensors:
    """`names`: of the trained parameters, in the order of the module; indices below are places in it."""

    def __init__(self, engine: Engine, *, rank: int, world_size: int) -> None:
        named = [(name, parameter) for name, parameter in engine.module.named_parameters() if parameter.requires_grad]
        self.names = tuple(name for name, _ in named)
        self.module = engine.module
        self.rank, self.world_size = rank, world_size
        self._parameters: list[Any] = [parameter for _, parameter in named]
        assert named, "nothing is trained"

    def __len__(self) -> int:
        return len(self.names)

    def owner(self, i: int) -> int:
        return i % self.world_size

    def owned(self) -> Iterator[int]:
        """Tensors whose state this rank keeps."""
        return (i for i in range(len(self)) if self.owner(i) == self.rank)

    def shape(self, i: int) -> torch.Size:
        return torch.Size(getattr(self._parameters[i], "ds_shape", self._parameters[i].shape))

    def gradient(self, i: int) -> Tensor:
        """The whole gradient, a copy; zeros where the tensor took no part."""
        parameter = self._parameters[i]
        if _is_zero(parameter):
            from deepspeed.utils import safe_get_full_grad

            got = safe_get_full_grad(parameter)
        else:
            got = parameter.grad
        return self.zeros(i) if got is None else got.detach().to(torch.float32, copy=True).view(self.shape(i))

    def set_gradient(self, i: int, value: Tensor) -> None:
        """Replace the gradient; every rank gives the whole."""
        parameter = self._parameters[i]
        if _is_zero(parameter):
            from deepspeed.utils import safe_set_full_grad

            safe_set_full_grad(parameter, value)
        elif parameter.grad is None:
            parameter.grad = value.to(parameter.dtype)
        else:
            parameter.grad.copy_(value)

    def read(self, i: int) -> Tensor:
        """The whole fp32 weights, a copy."""
        parameter = self._parameters[i]
        if _is_zero(parameter):
            from deepspeed.utils import safe_get_full_fp32_param

            got = cast(Tensor, safe_get_full_fp32_param(parameter))
        else:
            got = parameter.data
        return got.detach().to(torch.float32, copy=True).view(self.shape(i))

    def write(self, i: int, value: Tensor | None) -> None:
        """Set the weights, masters and those computed with. value: on the owner the whole tensor; other ranks give None."""
        parameter = self._parameters[i]
        whole = self.zeros(i) if value is None else value.to(self.device(i), torch.float32).contiguous()
        if self.world_size > 1:
            torch.distributed.broadcast(whole, src=self.owner(i))
        with torch.no_grad():
            if hasattr(parameter, "ds_id"):
                from deepspeed.runtime.zero import GatheredParameters
                from deepspeed.utils import safe_set_full_fp32_param

                safe_set_full_fp32_param(parameter, whole)
                with GatheredParameters([parameter], modifier_rank=0):
                    if self.rank == 0:
                        parameter.data.copy_(whole)
                return
            if hasattr(parameter, "_hp_mapping"):
                parameter.set_full_hp_param(whole)
            parameter.data.copy_(whole)

    def parameter(self, i: int) -> nn.Parameter:
        """The parameter itself, whole or not: for telling which module it belongs to."""
        return cast(nn.Parameter, self._parameters[i])

    def summed(self, numbers: Tensor) -> Tensor:
        """Numbers of every rank, added."""
        if self.world_size > 1:
            torch.distributed.all_reduce(numbers)
        return numbers

    def device(self, i: int) -> torch.device:
        return cast(torch.device, self._parameters[i].device)

    def zeros(self, i: int) -> Tensor:
        return torch.zeros(self.shape(i), device=self.device(i))


def _is_zero(parameter: Any) -> bool:
    """True where DeepSpeed (stage 1 or above) keeps master and gradient apart from the parameter."""
    return hasattr(parameter, "ds_id") or hasattr(parameter, "_hp_mapping")
