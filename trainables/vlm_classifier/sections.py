"""Sections of a chain made of transformers and timm modules: a module that is one stage, and a tower whose blocks are stages.

A tower is run by its own forward. To get the state before a block, the block is listened to; to go on from a kept state, what gave it is
replaced: the embeddings by the state itself and the blocks below by nothing. So masks, positions and pooling are the library's own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from trainables.frozen_prefix.chain import Batch, Stage


class Whole:
    """A section of one stage. compute: batch -> output under the section's name."""

    def __init__(self, name: str, parts: tuple[nn.Module | nn.Parameter, ...], compute: Callable[[Batch], Tensor]):
        self.name = name
        self.stages: tuple[Stage, ...] = (Stage(name, parts),)
        self._compute, self.at = compute, 0

    def run(self, batch: Batch, end: int | None = None) -> dict[str, Tensor]:
        return {self.name: batch[self.name] if self.at else self._compute(batch)}

    def cut(self, at: int) -> None:
        self.at = at


class Steps:
    """A section of a few stages in a row, each a function of the one before: (name of stage, parts, function)."""

    def __init__(
        self, name: str, read: str, steps: tuple[tuple[str, tuple[nn.Module | nn.Parameter, ...], Callable[[Tensor], Tensor]], ...]
    ):
        self.name = name
        self.stages: tuple[Stage, ...] = tuple(Stage(f"{name}.{step}", parts) for step, parts, _ in steps)
        self._read, self._functions, self.at = read, [function for *_, function in steps], 0

    def run(self, batch: Batch, end: int | None = None) -> dict[str, Tensor]:
        end = len(self.stages) if end is None else end
        value = batch[self._name_at(self.at)] if self.at else batch[self._read]
        for function in self._functions[self.at : end]:
            value = function(value)
        return {self._name_at(end): value}

    def cut(self, at: int) -> None:
        self.at = at

    def _name_at(self, place: int) -> str:
        return self.name if place == len(self.stages) else f"{self.name}.{place}"


class Tower:
    """A transformers tower: embeddings, blocks, and what follows them up to the section's output.

    inner: the module that has the embeddings under `embeddings`. blocks: the list of blocks under `inner`. before: names in `inner` of
    modules between embeddings and blocks. tail: what computes after the blocks. call: (batch, stand-in for what the embeddings read or
    None) -> output.
    """

    def __init__(
        self,
        name: str,
        inner: nn.Module,
        blocks: nn.ModuleList,
        tail: tuple[nn.Module, ...],
        call: Callable[[Batch, Tensor | None], Tensor],
        before: tuple[str, ...] = (),
        cheap_embeddings: bool = False,
    ):
        self.name = name
        self._inner, self._blocks, self._call, self._before = inner, blocks, call, before
        first = (inner.embeddings, *(getattr(inner, part) for part in before))
        self.stages: tuple[Stage, ...] = (
            Stage(f"{name}.embeddings", first, cheap=cheap_embeddings),
            *(Stage(f"{name}.block.{i}", (block,)) for i, block in enumerate(blocks)),
            Stage(f"{name}.end", tail),
        )
        self.at, self._given = 0, Given()

    def run(self, batch: Batch, end: int | None = None) -> dict[str, Tensor]:
        end = len(self.stages) if end is None else end
        if self.at == len(self.stages):
            return {self.name: batch[self.name]}
        state = batch[self._hidden] if self.at else None
        self._given.value = state
        try:
            if end == len(self.stages):
                return {self.name: self._call(batch, state)}
            return {self._hidden: listened(self._blocks, end - 1, lambda: self._call(batch, state))}
        finally:
            self._given.value = None

    def cut(self, at: int) -> None:
        self.at = at
        if at == len(self.stages):
            return
        self._inner.embeddings = self._given
        for part in self._before:
            setattr(self._inner, part, nn.Identity())
        skip(self._blocks, at - 1)

    @property
    def _hidden(self) -> str:
        return f"{self.name}.hidden"


class Given(nn.Module):
    """Stands where embeddings stood and gives the state that was kept."""

    def __init__(self) -> None:
        super().__init__()
        self.value: Tensor | None = None

    def forward(self, *_: Any, **__: Any) -> Tensor:
        assert self.value is not None, "a section that was cut is run with the state it was cut at"
        return self.value


class PassThrough(nn.Module):
    """Stands where a block stood whose output is kept."""

    def forward(self, hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
        return hidden_states


def masked_mean(states_BTH: Tensor, mask_BT: Tensor | None) -> Tensor:
    """Mean over the tokens that are real; without a mask all are."""
    if mask_BT is None:
        return states_BTH.mean(dim=1)
    mask_BT1 = mask_BT.unsqueeze(-1).to(states_BTH.dtype)
    return (states_BTH * mask_BT1).sum(dim=1) / mask_BT1.sum(dim=1).clamp(min=1.0)


def skip(blocks: nn.ModuleList, n: int) -> None:
    """Let go of the first `n` blocks; the others keep their names."""
    for i in range(n):
        blocks[i] = PassThrough()


def listened(blocks: nn.ModuleList, i: int, run: Callable[[], Any]) -> Tensor:
    """The state before block `i` in what `run` computes; after the last block, where `i` is the number of blocks."""
    heard: list[Tensor] = []
    if i < len(blocks):
        handle = blocks[i].register_forward_pre_hook(lambda _, inputs: heard.append(inputs[0]))
    else:
        handle = blocks[i - 1].register_forward_hook(lambda _, __, output: heard.append(output))
    try:
        run()
    finally:
        handle.remove()
    (state,) = heard
    return state
