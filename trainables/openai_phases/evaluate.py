"""Asks one model about the rows of one split, by chat or by batch, and reads and scores what it says.

Promises: an answer that is on disk is never asked for again, so a trial that was killed goes on where it stopped; what was under way at
that moment is found at the service, if it keeps answers, or else booked at its estimate (`chat`); a batch is always found. Which phase
or dollar limit is concerned is the recipe's business.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trainables.data.sources import ImageTable
from trainables.metrics import Counts, confusion_matrix
from trainables.openai_phases.answers import AnswerLog, Said
from trainables.openai_phases.bills import Bills, bill_unheard, bill_usage
from trainables.openai_phases.chat import ChatRound, WaitedHere
from trainables.openai_phases.cost import for_ledger
from trainables.openai_phases.failures import model_gone
from trainables.openai_phases.follow import Service
from trainables.openai_phases.jsonl import Request, in_file_order, requests, row_of, write_batches
from trainables.openai_phases.pace import Wait
from trainables.openai_phases.parse import Answer, read_answer, score
from trainables.openai_phases.prices import Prices
from trainables.openai_phases.protocol import BatchOrder
from trainables.openai_phases.queue import portion, requests_of, tokens_of
from trainables.openai_phases.spec import EvalSplit, OpenaiPhasesSpec
from trainables.openai_phases.wire import Missing, Usage
from trainables.openai_phases.workload import Questions
from tune.core.errors import FailTrial

_BATCH_ROUNDS = 3  # a batch may expire with lines unanswered; those go into another


@dataclass(frozen=True)
class Asked:
    """An evaluation: which model on which rows at which width. `key` is stable over restarts, such as `phase-2/val`.

    load: its estimated tokens.
    """

    key: str
    model: str
    split: EvalSplit
    width_px: int
    load: Questions

    @property
    def tokens_each(self) -> float:
        """For turns at a server that limits tokens a minute."""
        return self.load.input.high / max(1, self.load.n)


@dataclass(frozen=True)
class Judged:
    """`rows` of the table in the order of `answers`. `confusion_CC`: the last row and column are answers without a label."""

    rows: tuple[int, ...]
    answers: tuple[Answer, ...]
    scores: dict[str, float]
    confusion_CC: Counts
    bills: Bills
    seconds_each: float

    def metrics(self, split: str) -> dict[str, float]:
        """Under promised names."""
        n = max(1, len(self.rows))
        values = self.scores | {"seconds_per_prediction": self.seconds_each, "usd_per_prediction": for_ledger(self.bills.usd) / n}
        return {f"{split}/{name}": value for name, value in values.items()}


class Examiner:
    """Evaluations of one trial. `turn(what, amount)` waits until the study lets the trial use so much of a limited service."""

    def __init__(
        self, spec: OpenaiPhasesSpec, table: ImageTable, prices: Prices, service: Service, workdir: Path, turn: Callable[[str, float], None]
    ):
        self._spec, self._table, self._prices, self._service = spec, table, prices, service
        self._folder, self._turn = workdir / "evaluations", turn
        self._time = service.pace.time
        self._waited = WaitedHere(service.pace.time)

    def heard(self, wait: Wait) -> None:
        """A wait of this thread, which is no part of a prediction."""
        self._waited.add(wait)

    def begun(self, asked_key: str) -> bool:
        """Whether anything was asked under this key, so that its money is held already."""
        records = self._service.submissions.log.records()
        return any(record.kind in ("batch", "chat") and record.key.startswith(f"{asked_key}/") for record in records)

    def judge(self, asked: Asked) -> Judged:
        """All answers, from disk or from the service."""
        rows = in_file_order(self._table, self._table.split[asked.split])
        log = self._by_chat(asked, rows) if self._spec.evaluation.by == "chat" else self._by_batch(asked, rows)
        answers = [read_answer(log.said[row].text, self._table.classes) for row in rows]
        labels = [int(self._table.labels_N[row]) for row in rows]
        n_classes = len(self._table.classes)
        predicted = np.array([n_classes if a.label_i is None else a.label_i for a in answers], dtype=np.int64)
        measured = [said.seconds for said in log.said.values() if said.seconds is not None]
        return Judged(
            rows=tuple(rows),
            answers=tuple(answers),
            scores=score(answers, labels, n_classes),
            confusion_CC=confusion_matrix(np.array(labels, dtype=np.int64), predicted, n_classes + 1),
            bills=self._bills(asked, log),
            seconds_each=sum(measured) / max(1, len(measured)),
        )

    def closed(self, asked: Asked) -> Bills:
        """What an evaluation has cost that nobody will go on with, and an end to its batches."""
        log = AnswerLog(self._path(asked))
        if self._spec.evaluation.by == "batch" and not log.said:
            ended = (self._service.end_batch(asked.key, batch.id) for batch in self._service.submissions.batches_of(asked.key))
            return Bills(bill_usage(self._prices, asked.model, "batch", sum((result.usage for result in ended), Usage())))
        if log.unheard:
            with log:
                self._round(asked, log).close_books()
        return self._bills(asked, log)

    def billed(self, asked: Asked) -> Bills:
        """What the answers that came so far cost."""
        return self._bills(asked, AnswerLog(self._path(asked)))

    def _bills(self, asked: Asked, log: AnswerLog) -> Bills:
        by = self._spec.evaluation.by
        answers = bill_usage(self._prices, asked.model, by, log.usage)
        if not log.n_unknown:
            return Bills(answers)
        return Bills(answers, bill_unheard(bill_usage(self._prices, asked.model, by, asked.load.longest), log.n_unknown))

    def _path(self, asked: Asked) -> Path:
        return self._folder / f"{asked.key.replace('/', '-')}-{_mark(asked)}.answers.jsonl"

    # --- chat -----------------------------------------------------------------------------------------------------------------

    def _by_chat(self, asked: Asked, rows: list[int]) -> AnswerLog:
        log = AnswerLog(self._path(asked))
        if not log.unheard and all(row in log.said for row in rows):
            return log
        with log:
            chat = self._round(asked, log)
            chat.recover()
            left = [row for row in rows if row not in log.said]
            queue = requests(self._spec, self._table, left, asked.width_px, asked.model, asked.split)
            chat.ask(self._with_turns(asked, len(left), queue), self._spec.evaluation.concurrent_requests)
            chat.close_books()
        return log

    def _round(self, asked: Asked, log: AnswerLog) -> ChatRound:
        params = {"model": asked.model, "width_px": asked.width_px, "split": asked.split}
        attempt = self._service.submissions.chat_attempt(f"{asked.key}/{_mark(asked)}", params)
        return ChatRound(self._service, log, asked.key, attempt, self._spec.waits.model_minutes * 60, self._waited)

    def _with_turns(self, asked: Asked, n: int, each: Iterator[Request]) -> Iterator[Request]:
        profile = self._spec.profile
        size = portion(profile.queue, asked.tokens_each)
        for i, request in enumerate(each):
            if size is not None and i % size == 0:
                now = min(size, n - i)
                self._turn(requests_of(profile.name), float(now))
                self._turn(tokens_of(profile.name), now * asked.tokens_each)
            yield request

    # --- batch ----------------------------------------------------------------------------------------------------------------

    def _by_batch(self, asked: Asked, rows: list[int]) -> AnswerLog:
        """The log is written at the end, since what stands in it would change the files of the batches."""
        log = AnswerLog(self._path(asked))
        if all(row in log.said for row in rows):
            return log
        self._await_model(asked)
        said: dict[int, Said] = {}
        failure: FailTrial | None = None
        try:
            for row, answer in self._batched(asked, rows):
                said[row] = answer
        except FailTrial as error:
            failure = error  # what was answered before it was billed
        with log:
            for row in rows:
                if row in said and row not in log.said:
                    log.answer(row, said[row])
        if failure is not None:
            raise failure
        return log

    def _batched(self, asked: Asked, rows: list[int]) -> Iterator[tuple[int, Said]]:
        """Answers as their batches end. Raises FailTrial for rows that no batch answered."""
        left, refused = rows, dict[int, str]()
        for i in range(_BATCH_ROUNDS):
            stem = f"{asked.key.replace('/', '-')}-{i}"
            files = write_batches(self._spec, self._table, left, asked.width_px, asked.model, asked.split, self._folder, stem)
            answered = set[int]()
            for part, file in enumerate(files):
                begun = self._time.now()
                result = self._service.run_batch(f"{asked.key}/{i}-{part}", BatchOrder(file.path, metadata={"phasetune_for": asked.key}))
                each_s = (self._time.now() - begun) / max(1, file.n_lines)
                for custom_id, answer in result.answers.items():
                    row = row_of(custom_id)
                    if answer.error:
                        refused[row] = answer.error
                    else:
                        answered.add(row)
                        yield row, Said(answer.text, answer.usage, each_s)
                file.path.unlink(missing_ok=True)
            left = [row for row in left if row not in answered]
            if not left:
                return
        if never := [row for row in left if row not in refused]:
            raise FailTrial("batch_unanswered", f"{asked.key}: {len(never)} of {len(rows)} requests in {_BATCH_ROUNDS} batches")
        yield from ((row, Said(refused[row])) for row in left)  # read as answers without a label

    def _await_model(self, asked: Asked) -> None:
        """A batch of a model that is still being loaded would fail line by line."""
        pace, wire = self._service.pace, self._service.wire
        until = self._time.now() + self._spec.waits.model_minutes * 60
        while True:
            try:
                pace.harmless(asked.key, lambda: wire.model(asked.model))
                return
            except Missing as missing:
                if self._time.now() > until:
                    raise model_gone(asked.model, str(missing)) from None
                pace.wait(asked.key, "model_loading", self._spec.waits.poll_s, asked.model)


def _mark(asked: Asked) -> str:
    """Tells evaluations apart that have a key in common, such as of two models of a phase that was trained again."""
    return hashlib.sha256(f"{asked.model}/{asked.width_px}".encode()).hexdigest()[:8]
