"""The pretrained model that a worker keeps from one trial to the next, so that a leased group loads it once.

A trial borrows a module of its own whose parameters share the kept tensors; what it trains it gets a copy of, what it leaves frozen it
reads in place. When it ends, its frozen parameters stay as it used them, on their device and in their type, and the next trial that
wants them so has them at once. Promises: a trial computes what it would with a freshly loaded model, bit for bit; while a trial runs
nothing is kept on its GPU that it does not use itself. Whoever writes to a shared tensor in place, as some adapters do when they are put
in, is found by a sum of its bits, and what was written to is not lent again. (Values that change places within 32 KiB are not seen.)

One model a process: another key lets the last one go.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import click
import torch
from torch import Tensor, nn

_BLOCK = 4096  # words


@dataclass
class _Kept:
    """`origin`: parameters by name as they were loaded, tied ones once. `placed`: frozen ones as the last trial used them.

    sums: what the bits of each come to, by name and type. is_spoilt: an origin was written to.
    """

    key: str
    model: nn.Module
    origin: dict[str, nn.Parameter]
    placed: dict[str, Tensor] = field(default_factory=dict)
    sums: dict[tuple[str, torch.dtype], int] = field(default_factory=dict)
    is_spoilt: bool = False

    def whole(self, tensors: Mapping[str, Tensor]) -> dict[str, bool]:
        """Whether the bits of these are what they must be. All are read once: about a second for 10 GB of main memory."""
        for name, tensor in tensors.items():
            if (name, tensor.dtype) not in self.sums:
                [self.sums[name, tensor.dtype]] = _bit_sums([self.origin[name].data.to(tensor.dtype)])
        found = zip(tensors.items(), _bit_sums(list(tensors.values())), strict=True)
        return {name: self.sums[name, tensor.dtype] == bits for (name, tensor), bits in found}


class Resident:
    """Lends to one trial at a time: `lend`, then `typed` for each parameter, then `keep` when its model is no longer computed with."""

    def __init__(self) -> None:
        self._kept: _Kept | None = None
        self._lent: dict[str, nn.Parameter] = {}
        self._names: dict[int, str] = {}  # of the lent parameters that are not typed yet, by identity

    def lend(self, key: str, load: Callable[[], nn.Module], *, splits: bool = False) -> nn.Module:
        """The model of `key` for one trial, in the state that `load` gives it; loaded if another one is kept.

        key: tells files and settings of a model from any others. splits: the trial's engine divides frozen parameters among workers, so
        that whole ones have no place on its device.
        """
        self.keep()
        if self._kept is None or self._kept.key != key:
            self.drop()
            model = load()
            origin = dict(model.named_parameters())
            as_loaded = _bit_sums([parameter.data for parameter in origin.values()])
            sums = {(name, parameter.dtype): bits for (name, parameter), bits in zip(origin.items(), as_loaded, strict=True)}
            self._kept = _Kept(key, model, origin, sums=sums)
        kept = self._kept
        if splits:
            kept.placed.clear()
        self._lent = {name: nn.Parameter(parameter.data, parameter.requires_grad) for name, parameter in kept.origin.items()}
        self._names = {id(parameter): name for name, parameter in self._lent.items()}
        memo = {id(parameter): self._lent[name] for name, parameter in kept.origin.items()}
        return copy.deepcopy(kept.model, memo)

    def typed(self, parameter: nn.Parameter, dtype: torch.dtype) -> Tensor:
        """What `parameter.data` is to be for a trial that computes with it in `dtype`, now that it is known whether it is trained, and
        adapters are in. Once for each parameter."""
        kept, name = self._kept, self._names.pop(id(parameter), None)
        if name is None or kept is None:
            return parameter.data.to(dtype)
        placed = kept.placed.pop(name, None)
        if not _share(parameter, kept.origin[name]):
            return parameter.data.to(dtype)
        if not kept.whole({name: parameter.data})[name]:
            kept.is_spoilt = True
            return parameter.data.to(dtype)
        if parameter.requires_grad:
            return parameter.data.to(dtype, copy=True)
        if placed is not None and placed.dtype == dtype:
            kept.placed[name] = placed
            return placed
        return parameter.data.to(dtype)

    def keep(self) -> None:
        """The trial is over: keep what it left frozen where it is, unless it was written to. Nothing where no trial has borrowed."""
        kept, lent, untyped, self._lent, self._names = self._kept, self._lent, set(self._names.values()), {}, {}
        if kept is None or not lent:
            return
        shared, moved = {}, {}
        for name, parameter in lent.items():
            origin = kept.origin[name]
            if _share(parameter, origin) or name in untyped:
                shared[name] = origin.data
            elif not parameter.requires_grad and parameter.shape == origin.shape:  # an engine that splits parameters leaves empty ones
                moved[name] = parameter.data
        is_whole = kept.whole(moved)
        kept.placed = {name: tensor for name, tensor in moved.items() if is_whole[name]}
        if kept.is_spoilt or not all(kept.whole(shared).values()):
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


def _bit_sums(tensors: Sequence[Tensor]) -> list[int]:
    """Of each tensor a sum of its bits read as whole numbers, modulo 2^64. One wait a device."""
    found: dict[int, int] = {}
    for device in {tensor.device for tensor in tensors}:
        here = [i for i, tensor in enumerate(tensors) if tensor.device == device]
        found |= dict(zip(here, torch.stack([_bit_sum(tensors[i]) for i in here]).tolist(), strict=True))
    return [found[i] for i in range(len(tensors))]


def _bit_sum(tensor: Tensor) -> Tensor:
    """Blocks count by their place, so that it matters where they are."""
    flat = tensor.detach().contiguous().view(-1)
    in_words = flat.nbytes % 8 == 0 and flat.storage_offset() * flat.element_size() % 8 == 0
    words = flat.view(torch.int64 if in_words else torch.uint8)
    n_whole = len(words) // _BLOCK
    blocks = words[: n_whole * _BLOCK].view(n_whole, _BLOCK).sum(dim=1, dtype=torch.int64)
    places = torch.arange(1, n_whole + 1, device=words.device)
    return (blocks * places).sum() + words[n_whole * _BLOCK :].sum(dtype=torch.int64)


def _share(one: Tensor, other: Tensor) -> bool:
    return one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()


RESIDENT = Resident()  # of this process
