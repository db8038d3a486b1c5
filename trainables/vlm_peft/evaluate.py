"""How good the model is on a part of a data set: loss of the known answers, and scores of the answers it gives.

Rows are shared out over the ranks; a rank without rows computes along, since forwards may be collective, so all ranks do equally
many. Every rank gets the same figures. The model answers by greedy generation, or by the most probable of the allowed answers,
each scored with its end token, so that a short one is not preferred for being the beginning of a longer one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from trainables.adapters.torch_engine import AUTOCAST_DTYPE
from trainables.engine_spec import EngineSpec
from trainables.pieces import summed
from trainables.text_metrics.registry import METRICS as SCORES
from trainables.vlm_data.prompts import PROMPTS
from trainables.vlm_data.wording import LETTERS
from trainables.vlm_peft.batches import Batches, answer_loss
from trainables.vlm_peft.chat import Chat
from trainables.vlm_peft.likelihood import answer_losses, goes_on
from trainables.vlm_peft.spec import EvaluationSpec
from trainables.vlm_peft.task import Task
from tune.core.errors import FailTrial
from tune.core.ports import Reporter


@dataclass(frozen=True)
class Judged:
    """`scores`: by name, the main one first. `answers`: what the model said, in the order of the rows."""

    loss: float
    scores: Mapping[str, float]
    answers: tuple[str, ...]

    @property
    def score(self) -> float:
        return next(iter(self.scores.values()))

    def metrics(self, split: str) -> dict[str, float]:
        return {f"{split}/loss": self.loss, f"{split}/score": self.score} | {f"{split}/{name}": v for name, v in self.scores.items()}


@dataclass(frozen=True)
class Asker:
    """What computes: `forward` as the engine's, `module` for generation, `splits`: its parameters lie in shares on all ranks."""

    forward: Any
    module: Any
    engine: EngineSpec
    reporter: Reporter
    splits: bool

    def generate(self, inputs: Mapping[str, Any], n_tokens: int, pad_id: int, end_ids: Sequence[int]) -> torch.Tensor:
        """New tokens_BN, greedy. What follows an end token is padding."""
        with self._computing():
            out = self.module.generate(
                **inputs,
                max_new_tokens=n_tokens,
                do_sample=False,
                num_beams=1,
                pad_token_id=pad_id,
                eos_token_id=list(end_ids),
                synced_gpus=self.splits,
            )
        new: torch.Tensor = out[:, inputs["input_ids"].shape[1] :]
        return new

    def _computing(self) -> AbstractContextManager[Any]:
        dtype = AUTOCAST_DTYPE[self.engine.precision]
        if self.engine.zero is not None or dtype is None:
            return nullcontext()
        return torch.autocast(torch.device(self.reporter.device).type, dtype=dtype)


def judge(asker: Asker, batches: Batches, task: Task, part: str, spec: EvaluationSpec, scores: Sequence[str], chat: Chat) -> Judged:
    """The model in eval mode on "val" or "test" of a task."""
    rows = task.table.split[part]
    with torch.no_grad():
        loss = mean_loss(asker, batches, rows, spec.batch)
        answers = _likeliest(asker, batches, task, rows, spec, chat) if spec.by == "likelihood" else _said(asker, batches, rows, spec, chat)
    references = [task.rows.examples[int(i)].references for i in rows]
    return Judged(loss, {name: SCORES[name].score(answers, references) for name in scores}, tuple(answers))


def mean_loss(asker: Asker, batches: Batches, rows: NDArray[np.int64], n_together: int) -> float:
    """Mean over answer tokens of their negative log-likelihood. Raises FailTrial `not_finite`."""
    totals = torch.zeros(2, dtype=torch.float64)
    for _, mine, idle in _shares(len(rows), n_together, asker.reporter):
        batch = batches.training(rows[mine])
        assert batch.labels_BT is not None
        loss_B, n_B = answer_loss(asker.forward(**batch.inputs).logits, batch.labels_BT, batch.n_last)
        if not idle:
            totals += torch.stack([loss_B.double().sum(), n_B.double().sum()]).cpu()
    totals = summed(totals, asker.reporter)
    mean = float(totals[0] / totals[1])
    if not np.isfinite(mean):
        raise FailTrial("not_finite", f"the loss of held-out answers is {mean}; lower optim.lr or check the data")
    return mean


def allowed(task: Task, row: int) -> tuple[str, ...]:
    """The answers that likelihood chooses among for a row: letters of its options, the options, or the classes of the data set."""
    source = task.table.rows[row]
    if PROMPTS[task.data.prompt_name].answer == "letter":
        return tuple(LETTERS[: len(source.choices)])
    return source.choices or task.table.classes


def _said(asker: Asker, batches: Batches, rows: NDArray[np.int64], spec: EvaluationSpec, chat: Chat) -> list[str]:
    found: dict[int, str] = {}
    ends = sorted(chat.end_ids)
    for place, mine, idle in _shares(len(rows), spec.batch, asker.reporter):
        batch = batches.asking(rows[mine])
        tokens_BN = asker.generate(batch.inputs, spec.new_tokens, batches.pad_id, ends).tolist()
        if not idle:
            found |= {place + k: chat.text_of(tokens) for k, tokens in enumerate(tokens_BN)}
    return _gathered(found, len(rows), asker.reporter)


def _likeliest(asker: Asker, batches: Batches, task: Task, rows: NDArray[np.int64], spec: EvaluationSpec, chat: Chat) -> list[str]:
    if asker.engine.zero is None and not any(task.table.rows[int(i)].choices for i in rows):  # the same answers for all rows
        longest = int(batches.rows.lengths[rows].max()) + max(len(chat.candidate_ids(answer)) for answer in allowed(task, int(rows[0])))
        if goes_on(asker.module, longest):
            return _likeliest_of_same(asker, batches, rows, allowed(task, int(rows[0])), spec, chat)
    pairs = [(k, answer) for k, i in enumerate(rows) for answer in allowed(task, int(i))]
    best: dict[int, tuple[float, str]] = {}
    scored: dict[int, str] = {}
    for place, mine, idle in _shares(len(pairs), spec.batch, asker.reporter):
        chosen = [pairs[j] for j in mine]
        batch = batches.answered([int(rows[k]) for k, _ in chosen], [chat.candidate_ids(answer) for _, answer in chosen])
        assert batch.labels_BT is not None
        loss_B, _ = answer_loss(asker.forward(**batch.inputs).logits, batch.labels_BT, batch.n_last)
        if not idle:
            scored |= {place + b: repr(loss) for b, loss in enumerate(loss_B.double().tolist())}
    for (k, answer), loss in zip(pairs, map(float, _gathered(scored, len(pairs), asker.reporter)), strict=True):
        if k not in best or loss < best[k][0]:
            best[k] = (loss, answer)
    return [best[k][1] for k in range(len(rows))]


def _likeliest_of_same(
    asker: Asker, batches: Batches, rows: NDArray[np.int64], names: Sequence[str], spec: EvaluationSpec, chat: Chat
) -> list[str]:
    """Where all rows choose among the same answers, each prompt is computed once."""
    mine = np.arange(asker.reporter.rank, len(rows), asker.reporter.world_size)
    answers = [chat.candidate_ids(name) for name in names]
    found = {
        int(mine[place]): names[int(np.argmin(losses))]
        for place, losses in answer_losses(asker.forward, asker.module, batches, rows[mine].tolist(), answers, spec.batch)
    }
    return _gathered(found, len(rows), asker.reporter)


def _shares(n: int, n_together: int, reporter: Reporter) -> Iterator[tuple[int, NDArray[np.int64], bool]]:
    """This rank's (first place, places, idle) of n items; idle ones are computed and not counted."""
    for start in range(0, n, n_together * reporter.world_size):
        first = start + reporter.rank * n_together
        mine = np.arange(first, min(first + n_together, n), dtype=np.int64)
        yield first, mine if len(mine) else np.zeros(1, np.int64), len(mine) == 0


def _gathered(found: Mapping[int, str], n: int, reporter: Reporter) -> list[str]:
    """Place -> text of every rank, as one list."""
    parts: list[Any] = [dict(found)]
    if reporter.world_size > 1:
        parts = [None] * reporter.world_size
        torch.distributed.all_gather_object(parts, dict(found))
    whole = {place: text for part in parts for place, text in part.items()}
    return [whole[place] for place in range(n)]
