"""The loss of many answers to the same prompt, the prompt computed once: its keys and values are kept and each answer goes on from them.

Promises: what `answer_loss` gives for each answer on a row of its own, to rounding (a test holds fp32 to 1e-4), at about 1 / answers of the
work where answers are short. Rows of one batch have prompts of one length, so no padding stands between a prompt and its answer, which
would move positions, of learnt prefixes too. Only for families whose positions and mask follow from the order of tokens alone.

Legend: B rows, C answers of each, A tokens of the longest answer.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from trainables.vlm_peft.batches import IGNORED, Batches

PLAIN_ORDER = ("llava", "fast_vlm")  # model types


def goes_on(module: Any, longest: int) -> bool:
    """Whether answers may go on from a kept prompt in this model; longest: tokens of any row with its answer."""
    config: Any = getattr(_base(module), "config", None)
    if getattr(config, "model_type", None) not in PLAIN_ORDER:
        return False
    window = getattr(config.get_text_config(), "sliding_window", None)
    virtual = getattr(getattr(module, "active_peft_config", None), "num_virtual_tokens", 0) or 0
    return _adds_keys_only(module) and (window is None or longest + virtual < window)


def answer_losses(
    forward: Any, module: Any, batches: Batches, rows: Sequence[int], answers: Sequence[Sequence[int]], n_together: int
) -> Iterator[tuple[int, list[float]]]:
    """(place in `rows`, sum of -log p over the tokens of each of `answers`).

    forward: of the whole module, as for training. n_together: most rows, and most answers, computed at once.
    """
    ids_CA = torch.full((len(answers), max(map(len, answers))), IGNORED)
    for c, answer in enumerate(answers):
        ids_CA[c, : len(answer)] = torch.tensor(list(answer))
    lengths = np.array([len(batches.rows.prompts[int(row)]) for row in rows])
    for length in np.unique(lengths):
        places = np.flatnonzero(lengths == length)
        for start in range(0, len(places), n_together):
            some = places[start : start + n_together]
            losses_BC = _losses(forward, module, batches, [int(rows[int(i)]) for i in some], ids_CA.to(batches.device), n_together)
            yield from zip(some.tolist(), losses_BC.tolist(), strict=True)


def _losses(forward: Any, module: Any, batches: Batches, rows: list[int], ids_CA: torch.Tensor, n_together: int) -> torch.Tensor:
    asked = batches.asking(rows).inputs
    if batches.keeps_logits:
        asked["logits_to_keep"] = torch.arange(-1, 0, device=batches.device)  # as a place: see Batches.answered
    out = forward(**asked, use_cache=True)
    first_BV = out.logits[:, -1].float().log_softmax(-1)
    losses_BC = -first_BV[:, ids_CA[:, 0]].double()
    if ids_CA.shape[1] == 1:
        return losses_BC.cpu()
    n_answers = len(ids_CA)
    rows_together = max(1, n_together // n_answers)
    inputs_CA, wanted_CA = ids_CA[:, :-1].clamp(min=0), ids_CA[:, 1:]
    for start in range(0, len(rows), rows_together):
        places = torch.arange(start, min(start + rows_together, len(rows)), device=ids_CA.device)
        kept = copy.deepcopy(out.past_key_values)  # going on adds to it
        kept.batch_select_indices(places.repeat_interleave(n_answers))
        said = forward_base(forward, module, input_ids=inputs_CA.repeat(len(places), 1), past_key_values=kept, use_cache=True)
        wanted_NA = wanted_CA.repeat(len(places), 1)
        losses = torch.nn.functional.cross_entropy(
            said.logits.float().flatten(0, 1), wanted_NA.flatten(), ignore_index=IGNORED, reduction="none"
        )
        losses_BC[places] += losses.double().view(len(places), n_answers, -1).sum(2)
    return losses_BC.cpu()


def forward_base(forward: Any, module: Any, **inputs: Any) -> Any:
    """The model under its adapters, without peft's wrapper, which would put learnt keys before these tokens once more."""
    if not _learns_keys(module):
        return forward(**inputs)
    dtype = next(module.get_base_model().parameters()).dtype
    with torch.autocast(inputs["input_ids"].device.type, dtype=dtype, enabled=dtype != torch.float32):
        return module.get_base_model()(**inputs)


def _learns_keys(module: Any) -> bool:
    return bool(getattr(getattr(module, "active_peft_config", None), "is_prompt_learning", False))


def _adds_keys_only(module: Any) -> bool:
    """True unless virtual tokens stand among the embeddings, where logits have more places than tokens (prompt tuning)."""
    return not _learns_keys(module) or str(module.active_peft_config.peft_type).endswith("PREFIX_TUNING")


def _base(module: Any) -> Any:
    return module.get_base_model() if hasattr(module, "get_base_model") else module
