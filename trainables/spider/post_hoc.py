"""DARE, Grafting and a patch after Model Tailor: the methods that act once, on the weights of plain fine-tuning."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from trainables.spider import masks
from trainables.spider.anchored import Anchored
from trainables.spider.spec import DareSpec, GraftingSpec, TailorSpec
from trainables.spider.tensors import TrainedTensors

_BISECTIONS = 64


class Patch(Anchored):
    """Full fine-tuning, of whose changes only some are kept at the end."""

    def __init__(self, tensors: TrainedTensors, spec: DareSpec | GraftingSpec | TailorSpec, seed: int) -> None:
        super().__init__(tensors)
        self._spec, self._seed = spec, seed

    def at_end(self, calibrate: Callable[[], None] | None) -> None:
        spec = self._spec
        if isinstance(spec, DareSpec):
            self._change(lambda i, w0, w: masks.dare(w0, w, spec.drop, self._seed, i))
        elif isinstance(spec, GraftingSpec):
            least = self._least_kept(spec.keep_share)
            self._change(lambda i, w0, w: torch.where((w - w0).abs() > least, w, w0))
        else:
            assert calibrate is not None, "tailor measures the inputs of its layers; give calibrate"
            squares = self._input_squares(calibrate)
            self._change(lambda i, w0, w: masks.tailored(w0, w, spec.keep_share, spec.salience_weight, squares.get(i)))

    def _least_kept(self, keep_share: float) -> float:
        """The size that a `keep_share` of all changes exceeds, by bisection over counts, so that no rank sees all tensors at once."""
        changes: dict[int, Tensor] = {}
        n_all = 0
        for i in range(len(self._tensors)):
            w = self._tensors.read(i)
            n_all += w.numel()
            if i in self._w0:
                changes[i] = (w - self._w0[i]).abs_()
        device = w.device
        largest = torch.tensor(max((float(change.max()) for change in changes.values()), default=0.0), device=device)
        if self._tensors.world_size > 1:
            torch.distributed.all_reduce(largest, op=torch.distributed.ReduceOp.MAX)
        low, high = 0.0, float(largest)
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            count = torch.tensor(float(sum(int((change > middle).sum()) for change in changes.values())), device=device)
            low, high = (middle, high) if float(self._tensors.summed(count)) > keep_share * n_all else (low, middle)
        return high

    def _input_squares(self, calibrate: Callable[[], None]) -> dict[int, Tensor]:
        """Mean square of each input feature of the linear layers whose weight is trained, over all calibration samples and ranks."""
        places = {id(self._tensors.parameter(i)): i for i in range(len(self._tensors))}
        linears = [(places[id(m.weight)], m) for m in self._tensors.module.modules() if isinstance(m, nn.Linear) and id(m.weight) in places]
        sums = {i: torch.zeros(linear.in_features + 1, device=self._tensors.device(i)) for i, linear in linears}

        def adder(i: int) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
            def add(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
                rows = inputs[0].detach().float().flatten(0, -2)
                sums[i][:-1] += rows.square().sum(dim=0)
                sums[i][-1] += rows.shape[0]

            return add

        hooks = [linear.register_forward_pre_hook(adder(i)) for i, linear in linears]
        try:
            with torch.no_grad():
                calibrate()
        finally:
            for hook in hooks:
                hook.remove()
        totals = {i: self._tensors.summed(total) for i, total in sums.items()}
        return {i: total[:-1] / total[-1].clamp(min=1) for i, total in totals.items()}
