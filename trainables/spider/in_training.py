"""SPIDER, penalties and fixed masks: the methods that act at every optimizer step."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from trainables.spider import masks
from trainables.spider.anchored import Anchored
from trainables.spider.spec import L1Spec, L2Spec, MagnitudeSpec, RandomHalfSpec
from trainables.spider.tensors import TrainedTensors

_CLIP_EPSILON = 1e-6  # torch's and DeepSpeed's


class Spider(Anchored):
    """Soft masks from |w0| and summed gradients; see `masks.spider_mask`."""

    def __init__(self, tensors: TrainedTensors, clip_grad_norm: float | None) -> None:
        super().__init__(tensors)
        self._clip_grad_norm = clip_grad_norm
        self._summed = {i: torch.zeros_like(w0) for i, w0 in self._w0.items()}

    def before_step(self) -> None:
        own: dict[int, Tensor] = {}
        square_norm = 0.0
        for i in range(len(self._tensors)):
            gradient = self._tensors.gradient(i)
            square_norm += float(gradient.square().sum(dtype=torch.float64))
            if i in self._w0:
                own[i] = gradient
        factor = clip_factor(square_norm, self._clip_grad_norm)
        for i, gradient in own.items():
            self._summed[i].add_(gradient, alpha=factor)

    def after_step(self) -> None:
        self._change(lambda i, w0, w: masks.blended(w0, w, masks.spider_mask(w0, self._summed[i])))

    def state_dict(self) -> dict[str, Tensor]:
        return super().state_dict() | {f"summed_gradient.{self._tensors.names[i]}": a for i, a in self._summed.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        super().load_state_dict(state)
        self._load("summed_gradient", self._summed, state)


class Penalty(Anchored):
    """The gradient of weight x mean over tensors of the mean (squared) distance from w0, added before clipping."""

    def __init__(self, tensors: TrainedTensors, spec: L1Spec | L2Spec) -> None:
        super().__init__(tensors)
        self._spec = spec

    def before_step(self) -> None:
        for i in range(len(self._tensors)):
            change = self._tensors.read(i) - self._shared(i)
            slope = change.sign() if isinstance(self._spec, L1Spec) else 2 * change
            factor = self._spec.weight / (len(self._tensors) * change.numel())
            self._tensors.set_gradient(i, self._tensors.gradient(i).add_(slope, alpha=factor))

    def _shared(self, i: int) -> Tensor:
        """w0 on every rank."""
        if self._tensors.world_size == 1:
            return self._w0[i]
        whole = self._w0[i].clone() if i in self._w0 else self._tensors.zeros(i)
        torch.distributed.broadcast(whole, src=self._tensors.owner(i))
        return whole


class FixedMask(Anchored):
    """Some entries stay as pretrained: no gradient, hence no part in its norm, and set back after each step (weight decay moves them)."""

    def __init__(self, tensors: TrainedTensors, spec: MagnitudeSpec | RandomHalfSpec, seed: int) -> None:
        super().__init__(tensors)
        self._spec, self._seed = spec, seed

    def before_step(self) -> None:
        for i in range(len(self._tensors)):
            gradient = self._tensors.gradient(i)
            mask = self._mask(i) if i in self._w0 else torch.zeros_like(gradient)
            if self._tensors.world_size > 1:
                torch.distributed.broadcast(mask, src=self._tensors.owner(i))
            self._tensors.set_gradient(i, gradient.mul_(mask))

    def after_step(self) -> None:
        self._change(lambda i, w0, w: masks.blended(w0, w, self._mask(i)))

    def _mask(self, i: int) -> Tensor:
        w0 = self._w0[i]
        if isinstance(self._spec, MagnitudeSpec):
            return masks.magnitude_mask(w0, self._spec.frozen_share)
        if self._spec.unit == "tensor":
            frozen = masks.random_tensor_is_frozen(self._spec.frozen_share, self._seed, i, len(self._tensors))
            return torch.full_like(w0, 0.0 if frozen else 1.0)
        return masks.random_mask(w0.shape, self._spec.frozen_share, self._seed, i).to(w0.device)


def clip_factor(square_norm: float, clip_grad_norm: float | None) -> float:
    """What an engine multiplies a gradient of this squared norm by."""
    return 1.0 if clip_grad_norm is None else min(1.0, clip_grad_norm / (square_norm**0.5 + _CLIP_EPSILON))
