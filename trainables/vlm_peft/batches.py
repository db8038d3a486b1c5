"""From encoded rows to the tensors of a forward: padded tokens, labels on the answer, pictures of the rows together.

Training and scoring pad on the right, generation on the left. Promises: labels are -100 everywhere but on the answer and its end.

Legend: B rows, T tokens of the longest row; ids_BT, mask_BT, labels_BT int64.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from trainables.vlm_peft.encode import NO_PICTURE, Encoded

IGNORED = -100
Ids = Sequence[int] | NDArray[np.int32]


@dataclass(frozen=True)
class Batch:
    """`inputs`: arguments of the model. `labels_BT`: None where no answer is given. `n_last`: logits of so many last places tell
    everything that the labels ask for."""

    inputs: dict[str, Any]
    labels_BT: torch.Tensor | None
    n_last: int


@dataclass(frozen=True)
class Batches:
    """How rows come to the device. `floats`: type of pictures. `pad_id`: what fills up tokens. `keeps_logits`: the model can leave
    out the logits of places that are not asked for."""

    rows: Encoded
    pad_id: int
    device: torch.device
    floats: torch.dtype
    keeps_logits: bool

    def of(self, rows: Encoded) -> Batches:
        """The same for another data set."""
        return replace(self, rows=rows)

    def training(self, rows: Sequence[int] | NDArray[np.int64]) -> Batch:
        """Prompts with their answers."""
        return self.answered(rows, [self.rows.answers[int(i)] for i in rows], [self.rows.learnt[int(i)] for i in rows])

    def answered(
        self, rows: Sequence[int] | NDArray[np.int64], answers: Sequence[Ids], learnt: Sequence[NDArray[np.int32]] | None = None
    ) -> Batch:
        """Prompts of `rows` with these answers, one each. learnt: 1 for tokens that have labels; None: all of an answer has."""
        prompts = [self.rows.prompts[int(i)] for i in rows]
        longest = max(len(prompt) + len(answer) for prompt, answer in zip(prompts, answers, strict=True))
        ids_BT = np.full((len(prompts), longest), self.pad_id, np.int64)
        mask_BT = np.zeros_like(ids_BT)
        labels_BT = np.full_like(ids_BT, IGNORED)
        for b, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
            end = len(prompt) + len(answer)
            ids_BT[b, : len(prompt)], ids_BT[b, len(prompt) : end] = prompt, answer
            labels_BT[b, len(prompt) : end] = answer if learnt is None else np.where(learnt[b], answer, IGNORED)
            mask_BT[b, :end] = 1
        inputs = self._inputs(rows, ids_BT, mask_BT, left=False, answered=True)
        n_last = longest - min(len(prompt) for prompt in prompts) + 1  # the token before an answer foretells its first
        if self.keeps_logits:
            # as places and not as a number: what is picked lies together in memory, while a slice makes a CPU copy the whole output
            # layer for each row (torch's matmul does not fold strided rows onto weights without gradients)
            inputs["logits_to_keep"] = torch.arange(-n_last, 0, device=self.device)
        return Batch(inputs, torch.from_numpy(labels_BT).to(self.device), n_last)

    def asking(self, rows: Sequence[int] | NDArray[np.int64]) -> Batch:
        """Prompts alone, padded on the left, for generation."""
        prompts = [self.rows.prompts[int(i)] for i in rows]
        longest = max(map(len, prompts))
        ids_BT = np.full((len(prompts), longest), self.pad_id, np.int64)
        mask_BT = np.zeros_like(ids_BT)
        for b, prompt in enumerate(prompts):
            ids_BT[b, longest - len(prompt) :], mask_BT[b, longest - len(prompt) :] = prompt, 1
        return Batch(self._inputs(rows, ids_BT, mask_BT, left=True, answered=False), None, 1)

    def _inputs(
        self,
        rows: Sequence[int] | NDArray[np.int64],
        ids_BT: NDArray[np.int64],
        mask_BT: NDArray[np.int64],
        *,
        left: bool,
        answered: bool,
    ) -> dict[str, Any]:
        inputs = {"input_ids": self._tensor(ids_BT), "attention_mask": self._tensor(mask_BT)}
        for name, values in self.rows.extras.items():
            extra_BT = np.zeros_like(ids_BT)
            for b, i in enumerate(rows):
                value = values[int(i)]
                start = ids_BT.shape[1] - len(value) if left else 0
                extra_BT[b, start : start + len(value)] = value
                if answered and name == "token_type_ids":  # PaliGemma: 1 is what is answered, which sees only what is before it
                    extra_BT[b, len(value) : int(mask_BT[b].sum())] = 1
            inputs[name] = self._tensor(extra_BT)
        places = [int(place) for i in rows if (place := self.rows.picture_of[int(i)]) != NO_PICTURE]
        if places:
            for name, pictures in self.rows.pictures.items():
                inputs[name] = self._joined([pictures[place] for place in places])
        return inputs

    def _tensor(self, values: NDArray[np.int64]) -> torch.Tensor:
        return torch.from_numpy(values).to(self.device)

    def _joined(self, values: Sequence[NDArray[Any]]) -> torch.Tensor:
        """One after the other along the first axis; the other axes filled up with zeros where pictures differ in them."""
        most = [max(value.shape[axis] for value in values) for axis in range(1, values[0].ndim)]
        filled = [
            value
            if list(value.shape[1:]) == most
            else np.pad(value, [(0, 0), *((0, m - n) for m, n in zip(most, value.shape[1:], strict=True))])
            for value in values
        ]
        joined = torch.from_numpy(np.concatenate(filled)).to(self.device)
        return joined.to(self.floats) if joined.is_floating_point() else joined


def keeps_logits(base: Any) -> bool:
    """Whether the model's forward takes `logits_to_keep`."""
    return "logits_to_keep" in inspect.signature(type(base).forward).parameters


def answer_loss(logits_BKV: torch.Tensor, labels_BT: torch.Tensor, n_last: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(sum over each row's answer tokens of -log p, how many those are), both of shape (B,).

    logits_BKV: of the last K >= n_last places; virtual tokens before the first are passed over.
    """
    logits_BKV = logits_BKV[:, -n_last:-1]
    wanted_BK = labels_BT[:, labels_BT.shape[1] - n_last + 1 :]
    learnt_BK = wanted_BK != IGNORED
    # words last, as they lie in memory: over strided words a CPU takes several times as long
    if logits_BKV.device.type == "cpu":
        # the softmax of a large vocabulary is half of a step there, so it is taken where an answer stands alone; a GPU would have to wait
        b, k = learnt_BK.nonzero(as_tuple=True)
        losses = torch.nn.functional.cross_entropy(logits_BKV[b, k].float(), wanted_BK[b, k], reduction="none")
        losses_BK = losses.new_zeros(wanted_BK.shape).index_put((b, k), losses)
    else:
        logits_NV, wanted_N = logits_BKV.float().flatten(0, 1), wanted_BK.flatten()
        losses_N = torch.nn.functional.cross_entropy(logits_NV, wanted_N, ignore_index=IGNORED, reduction="none")
        losses_BK = losses_N.view(wanted_BK.shape)
    return losses_BK.sum(dim=1), learnt_BK.sum(dim=1)
