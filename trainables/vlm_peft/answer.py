"""Answers of an exported model: questions go through the same encoding as the rows of a trial, and are answered as it was tested.

Legend: B rows, N new tokens.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from trainables.vlm_data.open import VlmTable
from trainables.vlm_data.row import At, Picture, Row
from trainables.vlm_peft.batches import Batches, answer_loss, keeps_logits
from trainables.vlm_peft.chat import Chat
from trainables.vlm_peft.encode import encoded
from trainables.vlm_peft.export import asks_for_labels, opened, words_of
from trainables.vlm_peft.model import DTYPE, _processor_from, context_of, end_ids
from trainables.vlm_peft.spec import VlmPeftSpec
from tune.core.exports import Answer, Query


class Answerer:
    """`tune.core.exports.Predictor`. `classes`: what is chosen among where the trial was judged by likelihood."""

    def __init__(self, folder: Path, spec: VlmPeftSpec, classes: tuple[str, ...], whole: bool):
        self._spec, self._classes, self._folder = spec, classes, folder
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._model, source = opened(folder, spec, whole, self._device.type)
        self._processor = _processor_from(folder, source)
        self._chat = Chat(self._processor, spec.model, end_ids(source))
        self._data = spec.data.model_copy(update={"prompt": words_of(spec)[0]})
        pad = self._chat.tokenizer.pad_token_id
        self._pad_id = int(self._chat.tokenizer.eos_token_id if pad is None else pad)

    def answer(self, queries: Sequence[Query]) -> list[Answer]:
        with tempfile.TemporaryDirectory() as scratch, torch.no_grad():
            batches = self._batches(queries, Path(scratch))
            if asks_for_labels(self._spec, self._classes):
                return [self._likeliest(batches, i) for i in range(len(queries))]
            together = self._spec.evaluation.batch
            starts = range(0, len(queries), together)
            return [answer for start in starts for answer in self._said(batches, list(range(start, min(start + together, len(queries)))))]

    def _batches(self, queries: Sequence[Query], scratch: Path) -> Batches:
        """The questions as rows of a data set that nobody has answered."""
        label = self._classes[0] if self._classes else None
        rows = tuple(
            Row(str(i), Picture(str(i), _bytes_of(query.image)), (query.text or "").strip(), ("?",), At(Path("question")), label)
            for i, query in enumerate(queries)
        )
        table = VlmTable(rows, {}, self._classes, "questions", (), self._data.max_pixels)
        base = self._model.get_base_model() if hasattr(self._model, "get_base_model") else self._model
        found = encoded(
            table,
            self._data,
            chat=self._chat,
            processor=self._processor,
            processor_digest="",
            model=self._spec.model,
            context=context_of(base.config),
            half=self._spec.engine.precision != "fp32",
            cache_dir=scratch,
        )
        return Batches(found, self._pad_id, self._device, DTYPE[self._spec.engine.precision], keeps_logits(base))

    def _said(self, batches: Batches, rows: list[int]) -> list[Answer]:
        inputs = batches.asking(rows).inputs
        tokens_BN = self._model.generate(
            **inputs,
            max_new_tokens=self._spec.evaluation.new_tokens,
            do_sample=False,
            num_beams=1,
            pad_token_id=self._pad_id,
            eos_token_id=sorted(self._chat.end_ids),
        )[:, inputs["input_ids"].shape[1] :]
        return [Answer(self._chat.text_of(tokens)) for tokens in tokens_BN.tolist()]

    def _likeliest(self, batches: Batches, row: int) -> Answer:
        losses: list[float] = []
        together = self._spec.evaluation.batch
        for start in range(0, len(self._classes), together):
            some = self._classes[start : start + together]
            batch = batches.answered([row] * len(some), [self._chat.candidate_ids(name) for name in some])
            assert batch.labels_BT is not None
            loss_B, _ = answer_loss(self._model(**batch.inputs).logits, batch.labels_BT, batch.n_last)
            losses += loss_B.double().tolist()
        shares = (-torch.tensor(losses, dtype=torch.float64)).softmax(0).tolist()
        ranked = sorted(zip(self._classes, shares, strict=True), key=lambda one: -one[1])
        return Answer(ranked[0][0], tuple(ranked))


def _bytes_of(image: Any) -> Callable[[], bytes]:
    """A picture as a file's bytes, without loss."""

    def load() -> bytes:
        buffer = io.BytesIO()
        image.save(buffer, format="PNG", compress_level=1)
        return buffer.getvalue()

    return load
