"""Asks one model about the rows of one split, by chat or by batch, and reads and scores what it says.

Promises: an answer that is on disk is never asked for again, so a trial that was killed goes on where it stopped (what was under way
at that moment is asked and billed once more: a chat request leaves nothing behind by which it could be found; a batch does); the
bill is of the answers that came. Which phase or dollar limit is concerned is the recipe's business.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trainables.data.sources import ImageTable
from trainables.metrics import Counts, confusion_matrix
from trainables.openai_phases.cost import Bill, bill_usage, for_ledger
from trainables.openai_phases.follow import Service, model_gone
from trainables.openai_phases.jsonl import Request, in_file_order, requests, row_of, write_batches
from trainables.openai_phases.pace import Wait
from trainables.openai_phases.parse import Answer, read_answer, score
from trainables.openai_phases.prices import Prices
from trainables.openai_phases.protocol import BatchOrder
from trainables.openai_phases.queue import portion, requests_of, tokens_of
from trainables.openai_phases.spec import EvalSplit, OpenaiPhasesSpec
from trainables.openai_phases.wire import Missing, Usage
from tune.core.errors import FailTrial

_BATCH_ROUNDS = 3  # a batch may expire with lines unanswered; those go into another


@dataclass(frozen=True)
class Asked:
    """An evaluation: which model on which rows at which width. `key` is stable over restarts, such as `phase-2/val`.

    tokens_each: an estimate, for turns at a server that limits tokens a minute.
    """

    key: str
    model: str
    split: EvalSplit
    width_px: int
    tokens_each: float = 0.0


@dataclass(frozen=True)
class Said:
    """One answer as it came. `seconds`: of its request; `n_unanswered`: sendings without an answer, which may have been billed."""

    text: str
    usage: Usage = Usage()
    seconds: float = 0.0
    n_unanswered: int = 0


@dataclass(frozen=True)
class Judged:
    """`rows` of the table in the order of `answers`. `confusion_CC`: the last row and column are answers without a label."""

    rows: tuple[int, ...]
    answers: tuple[Answer, ...]
    scores: dict[str, float]
    confusion_CC: Counts
    bill: Bill
    seconds_each: float
    n_unanswered: int

    def metrics(self, split: str) -> dict[str, float]:
        """Under promised names."""
        n = max(1, len(self.rows))
        values = self.scores | {"seconds_per_prediction": self.seconds_each, "usd_per_prediction": for_ledger(self.bill.usd) / n}
        return {f"{split}/{name}": value for name, value in values.items()}


class Examiner:
    """Evaluations of one trial. `turn(what, amount)` waits until the study lets the trial use so much of a limited service."""

    def __init__(
        self, spec: OpenaiPhasesSpec, table: ImageTable, prices: Prices, service: Service, workdir: Path, turn: Callable[[str, float], None]
    ):
        self._spec, self._table, self._prices, self._service = spec, table, prices, service
        self._folder, self._turn = workdir / "evaluations", turn
        self._time = service.pace.time
        self._waited = threading.local()

    def heard(self, wait: Wait) -> None:
        """A wait of this thread, which is no part of a prediction."""
        self._waited.seconds = getattr(self._waited, "seconds", 0.0) + max(0.0, wait.until - self._time.now())

    def begun(self, asked_key: str) -> bool:
        """Whether anything was asked under this key, so that its money is held already."""
        stem = asked_key.replace("/", "-")
        batches = any(
            record.kind == "batch" and record.key.startswith(f"{asked_key}/") for record in self._service.submissions.log.records()
        )
        return batches or any(self._folder.glob(f"{stem}-*.answers.jsonl"))

    def judge(self, asked: Asked) -> Judged:
        """All answers, from disk or from the service."""
        rows = in_file_order(self._table, self._table.split[asked.split])
        said = self._by_chat(asked, rows) if self._spec.evaluation.by == "chat" else self._by_batch(asked, rows)
        answers = [read_answer(said[row].text, self._table.classes) for row in rows]
        labels = [int(self._table.labels_N[row]) for row in rows]
        n_classes = len(self._table.classes)
        predicted = np.array([n_classes if a.label_i is None else a.label_i for a in answers], dtype=np.int64)
        return Judged(
            rows=tuple(rows),
            answers=tuple(answers),
            scores=score(answers, labels, n_classes),
            confusion_CC=confusion_matrix(np.array(labels, dtype=np.int64), predicted, n_classes + 1),
            bill=self._bill(asked, said),
            seconds_each=sum(s.seconds for s in said.values()) / max(1, len(rows)),
            n_unanswered=sum(s.n_unanswered for s in said.values()),
        )

    def billed(self, asked: Asked) -> Bill:
        """What the answers that came so far cost."""
        return self._bill(asked, _AnswerLog(self._path(asked)).said)

    def _bill(self, asked: Asked, said: dict[int, Said]) -> Bill:
        usage = sum((s.usage for s in said.values()), Usage())
        return bill_usage(self._prices, asked.model, self._spec.evaluation.by, usage)

    def _path(self, asked: Asked) -> Path:
        mark = hashlib.sha256(f"{asked.model}/{asked.width_px}".encode()).hexdigest()[:8]
        return self._folder / f"{asked.key.replace('/', '-')}-{mark}.answers.jsonl"

    # --- chat -----------------------------------------------------------------------------------------------------------------

    def _by_chat(self, asked: Asked, rows: list[int]) -> dict[int, Said]:
        log = _AnswerLog(self._path(asked))
        left = [row for row in rows if row not in log.said]
        if left:
            with log.open(), ThreadPoolExecutor(self._spec.evaluation.concurrent_requests, "evaluation") as pool:
                self._ask_all(asked, left, log, pool)
        return log.said

    def _ask_all(self, asked: Asked, left: list[int], log: _AnswerLog, pool: ThreadPoolExecutor) -> None:
        """Keeps as many requests under way as the spec says. After a failure no more are sent; what comes is kept all the same."""
        begun_t = self._time.now()
        queue: Iterator[Request] = self._with_turns(
            asked, len(left), requests(self._spec, self._table, left, asked.width_px, asked.model, asked.split)
        )
        under_way: dict[Future[Said], int] = {}
        failure: BaseException | None = None
        while True:
            while failure is None and len(under_way) < self._spec.evaluation.concurrent_requests:
                request = next(queue, None)
                if request is None:
                    break
                under_way[pool.submit(self._one, asked.key, request, begun_t)] = request.row
            if not under_way:
                break
            for future in wait(under_way, return_when=FIRST_COMPLETED).done:
                row = under_way.pop(future)
                error = future.exception()
                if error is None:
                    log.append(row, future.result())
                else:
                    failure = failure or error
        if failure is not None:
            raise failure

    def _with_turns(self, asked: Asked, n: int, each: Iterator[Request]) -> Iterator[Request]:
        profile = self._spec.profile
        size = portion(profile.queue, asked.tokens_each)
        for i, request in enumerate(each):
            if size is not None and i % size == 0:
                now = min(size, n - i)
                self._turn(requests_of(profile.name), float(now))
                self._turn(tokens_of(profile.name), now * asked.tokens_each)
            yield request

    def _one(self, key: str, request: Request, begun_t: float) -> Said:
        sent, self._waited.seconds = self._time.now(), 0.0
        answer = self._service.ask(
            f"{key} {request.custom_id}",
            request.model,
            request.messages,
            request.options,
            made_t=begun_t,
            loading_s=self._spec.waits.model_minutes * 60,
        )
        seconds = max(0.0, self._time.now() - sent - self._waited.seconds)
        return Said(answer.text, answer.usage, seconds, answer.n_unanswered)

    # --- batch ----------------------------------------------------------------------------------------------------------------

    def _by_batch(self, asked: Asked, rows: list[int]) -> dict[int, Said]:
        log = _AnswerLog(self._path(asked))
        left = [row for row in rows if row not in log.said]
        if not left:
            return log.said
        self._await_model(asked)
        said, refused, left = dict(log.said), {}, rows
        for i in range(_BATCH_ROUNDS):
            files = write_batches(
                self._spec, self._table, left, asked.width_px, asked.model, asked.split, self._folder, f"{asked.key.replace('/', '-')}-{i}"
            )
            for part, file in enumerate(files):
                begun = self._time.now()
                result = self._service.run_batch(f"{asked.key}/{i}-{part}", BatchOrder(file.path, metadata={"phasetune_for": asked.key}))
                each_s = (self._time.now() - begun) / max(1, file.n_lines)
                for custom_id, answer in result.answers.items():
                    if answer.error:
                        refused[row_of(custom_id)] = answer.error
                    else:
                        said[row_of(custom_id)] = Said(answer.text, answer.usage, each_s)
                file.path.unlink(missing_ok=True)
            left = [row for row in left if row not in said]
            if not left:
                break
        never = [row for row in left if row not in refused]
        if never:
            raise FailTrial("batch_unanswered", f"{asked.key}: {len(never)} of {len(rows)} requests in {_BATCH_ROUNDS} batches")
        said |= {row: Said(refused[row]) for row in left}  # read as an answer without a label
        with log.open():
            for row in rows:
                log.append(row, said[row])
        return said

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


class _AnswerLog:
    """JSONL, a line an answer, on disk before `append` returns; a last line that a crash cut is asked for again."""

    def __init__(self, path: Path):
        self._path = path
        self.said: dict[int, Said] = {}
        if not path.exists():
            return
        data = path.read_bytes()
        for line in data[: data.rfind(b"\n") + 1].splitlines():
            record: dict[str, Any] = json.loads(line)
            self.said[record["row"]] = Said(record["text"], Usage(*record["usage"]), record["seconds"], record["n_unanswered"])

    def open(self) -> _AnswerLog:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        return self

    def __enter__(self) -> _AnswerLog:
        self._file = open(self._path, "ab", buffering=0)
        whole = self._path.read_bytes().rfind(b"\n") + 1
        self._file.truncate(whole)
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def append(self, row: int, said: Said) -> None:
        usage = [said.usage.input_tokens, said.usage.cached_tokens, said.usage.output_tokens]
        record = {"row": row, "text": said.text, "usage": usage, "seconds": round(said.seconds, 6), "n_unanswered": said.n_unanswered}
        self._file.write(json.dumps(record, separators=(",", ":")).encode() + b"\n")
        os.fsync(self._file.fileno())
        self.said[row] = said
