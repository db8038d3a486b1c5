"""AdaLoRA's sharing out of ranks, around any engine's step: the library's own allocator needs whole weights and whole gradients.

An `Allocation` is used as the methods of `trainables.spider` are (`Keeping`): gradients are taken before the optimizer step, clipped as
the engine clips them; ranks are shared out after it. Without it AdaLoRA trains as LoRA of the first rank, so a recipe must call it.
Where a rank is taken away, its singular value is set to zero in masters and in the weights computed with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from trainables.peft_methods.build import Adapted
from trainables.spider.in_training import clip_factor
from trainables.spider.tensors import TrainedTensors


class Allocation:
    """Made once, before the first step."""

    def __init__(self, adapted: Adapted, tensors: TrainedTensors, clip_grad_norm: float | None) -> None:
        assert adapted.spec.method == "adalora"
        self._model: Any = adapted.module.base_model
        self._tensors, self._clip_grad_norm = tensors, clip_grad_norm
        self._places = [i for i, name in enumerate(tensors.names) if ".lora_" in name]
        self._gradients: dict[int, Tensor] = {}
        self._n_steps = 0

    def before_step(self) -> None:
        square_norm = 0.0
        for i in range(len(self._tensors)):
            gradient = self._tensors.gradient(i)
            square_norm += float(gradient.square().sum(dtype=torch.float64))
            if i in self._places:
                self._gradients[i] = gradient
        factor = clip_factor(square_norm, self._clip_grad_norm)
        for gradient in self._gradients.values():
            gradient.mul_(factor)

    def after_step(self) -> None:
        parameters = {i: self._tensors.parameter(i) for i in self._places}
        with _whole(list(parameters.values())):
            for i, parameter in parameters.items():
                parameter.grad = self._gradients[i]
            self._model.update_and_allocate(self._n_steps)
            values: dict[int, Tensor] = {}
            for i, parameter in parameters.items():
                parameter.grad = None
                if ".lora_E." in self._tensors.names[i]:
                    values[i] = parameter.detach().clone()
        for i, value in values.items():
            self._tensors.write(i, value if self._tensors.owner(i) == self._tensors.rank else None)
        self._gradients.clear()
        self._n_steps += 1

    def at_end(self, calibrate: Callable[[], None] | None) -> None:
        return

    def state_dict(self) -> dict[str, Tensor]:
        """The same on every rank."""
        allocator = self._model.rankallocator
        state = {f"ipt.{name}": value for name, value in allocator.exp_avg_ipt.items()}
        state |= {f"unc.{name}": value for name, value in allocator.exp_avg_unc.items()}
        pattern = self._config().rank_pattern or {}
        state |= {f"pattern.{name}": torch.tensor(kept) for name, kept in pattern.items()}
        return state | {"n_steps": torch.tensor(self._n_steps)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        allocator = self._model.rankallocator
        device = self._tensors.device(0)
        by_kind: dict[str, dict[str, Tensor]] = {"ipt": {}, "unc": {}, "pattern": {}}
        for key, value in state.items():
            kind, _, name = key.partition(".")
            if kind in by_kind:
                by_kind[kind][name] = value
        allocator.exp_avg_ipt = {name: value.to(device) for name, value in by_kind["ipt"].items()}
        allocator.exp_avg_unc = {name: value.to(device) for name, value in by_kind["unc"].items()}
        allocator.ipt = {name: torch.zeros_like(value) for name, value in allocator.exp_avg_ipt.items()}
        self._config().rank_pattern = {name: value.tolist() for name, value in by_kind["pattern"].items()} or None
        self._n_steps = int(state["n_steps"])

    def _config(self) -> Any:
        return self._model.peft_config[self._model.trainable_adapter_name]


@contextmanager
def _whole(parameters: list[Any]) -> Iterator[None]:
    """Whole parameters inside; what is changed in a ZeRO-3 one is not kept."""
    if not any(hasattr(parameter, "ds_id") for parameter in parameters):
        yield
        return
    from deepspeed.runtime.zero import GatheredParameters

    with GatheredParameters(parameters, modifier_rank=None):
        yield
