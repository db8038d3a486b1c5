"""The language model of BLIP-2 or LLaVA as a section: the picture's places among the words, the blocks, pooled hidden states.

Legend: B rows, T tokens, S places of the picture, H features.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from trainables.frozen_prefix.chain import Batch, Stage
from trainables.vlm_classifier.sections import Given, listened, masked_mean, skip

_HIDDEN = "joint.hidden"


class Language:
    """Reads "image" (B, S, H), ids_BT and mask_BT; gives "joint" (B, H). image_at: how many tokens come before the picture."""

    name = "joint"

    def __init__(self, decoder: Any, image_at: Callable[[], int], pooling: str):
        self._decoder, self._image_at, self._pooling = decoder, image_at, pooling
        blocks: nn.ModuleList = decoder.layers
        tail = tuple(part for name in ("norm", "final_layer_norm", "project_out") if (part := getattr(decoder, name, None)) is not None)
        positions = tuple(part for name in ("embed_positions", "project_in") if (part := getattr(decoder, name, None)) is not None)
        self.stages: tuple[Stage, ...] = (
            Stage("language.embeddings", (decoder.embed_tokens,), cheap=True),
            *(Stage(f"language.block.{i}", (block, *(positions if i == 0 else ()))) for i, block in enumerate(blocks)),
            Stage("language.end", tail),
        )
        self._blocks, self.at, self._given = blocks, 0, Given()

    def run(self, batch: Batch, end: int | None = None) -> dict[str, Tensor]:
        end = len(self.stages) if end is None else end
        if self.at == len(self.stages):
            return {self.name: batch[self.name]}
        states_BTH = batch[_HIDDEN] if self.at else self._merged(batch)
        if end == 1:
            return {_HIDDEN: states_BTH}
        mask = self._mask(batch, states_BTH.shape[1])
        if states_BTH.is_meta and not hasattr(self._decoder, "embed_positions"):  # or transformers would look into positions' values
            mask = states_BTH.new_zeros(len(states_BTH), 1, states_BTH.shape[1], states_BTH.shape[1])
        if end == len(self.stages):
            return {self.name: self._pooled(self._decoded(states_BTH, mask), None if states_BTH.is_meta else mask)}
        return {_HIDDEN: listened(self._blocks, end - 1, lambda: self._decoded(states_BTH, mask))}

    def cut(self, at: int) -> None:
        self.at = at
        if 2 <= at < len(self.stages):
            skip(self._blocks, at - 1)
            self._blocks[0] = self._given

    def _merged(self, batch: Batch) -> Tensor:
        words_BTH = self._decoder.embed_tokens(batch["ids"])
        at = self._image_at()
        return torch.cat([words_BTH[:, :at], batch["image"].to(words_BTH.dtype), words_BTH[:, at:]], dim=1)

    def _mask(self, batch: Batch, length: int) -> Tensor | None:
        """With the picture's places; none: every token is real."""
        mask_BT = batch.get("mask")
        if mask_BT is None:
            return None
        at, n_places = self._image_at(), length - mask_BT.shape[1]
        places = mask_BT.new_ones(len(mask_BT), n_places)
        return torch.cat([mask_BT[:, :at], places, mask_BT[:, at:]], dim=1)

    def _decoded(self, states_BTH: Tensor, mask: Tensor | None) -> Tensor:
        if self.at < 2:
            return self._decoder(inputs_embeds=states_BTH, attention_mask=mask, use_cache=False).last_hidden_state
        self._given.value = states_BTH
        stand_in = states_BTH.new_zeros(*states_BTH.shape[:2], self._decoder.embed_tokens.embedding_dim)  # not looked at
        try:
            return self._decoder(inputs_embeds=stand_in, attention_mask=mask, use_cache=False).last_hidden_state
        finally:
            self._given.value = None

    def _pooled(self, states_BTH: Tensor, mask: Tensor | None) -> Tensor:
        if self._pooling == "mean":
            return masked_mean(states_BTH, mask)
        if mask is None:
            return states_BTH[:, -1]
        last_B = (mask * torch.arange(mask.shape[1], device=mask.device)).argmax(dim=1)
        return states_BTH[torch.arange(len(states_BTH), device=states_BTH.device), last_B]
