"""The pretrained model that a worker keeps from one trial to the next, so that a leased group loads it once.

A trial borrows a module of its own whose parameters share the kept tensors; what it trains it gets a copy of, what it leaves frozen it
reads in place. When it ends, its frozen parameters stay as it used them, on their device and in their type, and the next trial that
wants them so has them at once. Promises: a trial computes what it would with a freshly loaded model, bit for bit; while a trial runs
nothing is kept on its GPU that it does not use itself; kept tensors that somebody wrote to in place are dropped, not lent.

One model a process: another key lets the last one go. Quantised weights are not kept, since their library changes them in place.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import click
import torch
from torch import Tensor, nn


@dataclass
class _Kept:
    """`origin`: parameters by name as they were loaded, tied ones once. `placed`: frozen ones as the last trial used them.

    sums: of each tensor's bits, by name and type, for finding writes in place.
    """

    key: str
    model: nn.Module
    origin: dict[str, nn.Parameter]
    placed: dict[str, Tensor] = field(default_factory=dict)
    sums: dict[tuple[str, torch.dtype], int] = field(default_factory=dict)

    def learn(self, wanted: Sequence[tuple[str, torch.dtype]]) -> None:
        """The sums that kept tensors must have: of what was loaded, in this type."""
        for name, dtype in wanted:
            if (name, dtype) not in self.sums:
                [self.sums[name, dtype]] = _bit_sums([self.origin[name].data.to(dtype)])


class Resident:
    """Lends to one trial at a time: `lend`, then `typed` for each parameter, then `keep` when its model is no longer computed with."""

    def __init__(self) -> None:
        self._kept: _Kept | None = None
        self._lent: dict[str, nn.Parameter] = {}
        self._names: dict[int, str] = {}  # of the lent parameters, by identity

    def lend(self, key: str, load: Callable[[], nn.Module], *, splits: bool = False) -> nn.Module:
        """The model of `key` for one trial, in the state that `load` gives it; loaded if another one is kept.

        key: tells files and settings of a model from any others. splits: the trial's engine divides frozen parameters among workers, so
        that whole ones have no place on its device.
        """
        if self._kept is None or self._kept.key != key:
            self.drop()
            model = load()
            origin = dict(model.named_parameters())
            if any(type(parameter) is not nn.Parameter for parameter in origin.values()):
                return model
            self._kept = _Kept(key, model, origin)
            self._kept.learn([(name, parameter.dtype) for name, parameter in origin.items()])
        kept = self._kept
        if splits:
            kept.placed.clear()
        self._lent = {name: nn.Parameter(parameter.data, parameter.requires_grad) for name, parameter in kept.origin.items()}
        self._names = {id(parameter): name for name, parameter in self._lent.items()}
        memo = {id(parameter): self._lent[name] for name, parameter in kept.origin.items()}
        return copy.deepcopy(kept.model, memo)

    def typed(self, parameter: nn.Parameter, dtype: torch.dtype) -> Tensor:
        """What `parameter.data` is to be for a trial that computes with it in `dtype`, now that it is known whether it is trained."""
        name = self._names.get(id(parameter))
        if name is None or self._kept is None:
            return parameter.data.to(dtype)
        placed = self._kept.placed.get(name)
        if parameter.requires_grad:
            self._kept.placed.pop(name, None)
            return parameter.data.to(dtype, copy=_share(parameter, self._kept.origin[name]))
        if placed is not None and placed.dtype == dtype and _share(parameter, self._kept.origin[name]):
            return placed
        self._kept.placed.pop(name, None)
        return parameter.data.to(dtype)

    def keep(self) -> None:
        """The trial is over: keep what it left frozen where it is, unless it was written to."""
        kept, lent, self._lent, self._names = self._kept, self._lent, {}, {}
        if kept is None or not lent:
            return
        for name, parameter in lent.items():
            origin = kept.origin[name]
            whole = parameter.shape == origin.shape  # an engine that splits parameters leaves empty ones
            if not parameter.requires_grad and whole and not _share(parameter, origin):
                kept.placed[name] = parameter.data
        if not self._is_as_loaded(kept):
            click.echo("note: this trial changed its base model in place; the next one on this worker loads it again", err=True)
            self.drop()

    def drop(self) -> None:
        """Keep nothing."""
        self._kept, self._lent, self._names = None, {}, {}

    def held_bytes(self) -> int:
        """Main memory of what is kept."""
        if self._kept is None:
            return 0
        kept = [*(parameter.data for parameter in self._kept.origin.values()), *self._kept.placed.values()]
        return sum(tensor.nbytes for tensor in kept if tensor.device.type == "cpu")

    def _is_as_loaded(self, kept: _Kept) -> bool:
        """Whether the bits are what they were. Reads all that is kept, once: about a second for 10 GB of main memory."""
        kept.learn([(name, tensor.dtype) for name, tensor in kept.placed.items()])
        now = [(name, tensor.data) for tensors in (kept.origin, kept.placed) for name, tensor in tensors.items()]
        found = _bit_sums([tensor for _, tensor in now])
        return all(kept.sums[name, tensor.dtype] == bits for (name, tensor), bits in zip(now, found, strict=True))


def _bit_sums(tensors: Sequence[Tensor]) -> list[int]:
    """Of each tensor the sum of its bits read as whole numbers, modulo 2^64. One wait a device."""
    found: dict[int, int] = {}
    for device in {tensor.device for tensor in tensors}:
        here = [i for i, tensor in enumerate(tensors) if tensor.device == device]
        found |= dict(zip(here, torch.stack([_bit_sum(tensors[i]) for i in here]).tolist(), strict=True))
    return [found[i] for i in range(len(tensors))]


def _bit_sum(tensor: Tensor) -> Tensor:
    flat = tensor.detach().contiguous().view(-1)
    in_words = flat.nbytes % 8 == 0 and flat.storage_offset() * flat.element_size() % 8 == 0
    return flat.view(torch.int64 if in_words else torch.uint8).sum(dtype=torch.int64)


def _share(one: Tensor, other: Tensor) -> bool:
    return one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()


RESIDENT = Resident()  # of this process
