"""An evaluation by chat: questions side by side, and books that hold every answer that was billed, heard or not.

A question that was under way when its process died, or whose answer got lost, is billed all the same. Every sending is on disk before it
is made (`answers`). A service that keeps answers is asked for those of this evaluation, by an attempt id in their metadata that is
checked here: after a crash they are adopted before anything is asked again; after a failed call the answer is looked for once; and at
the end, if a sending is still unheard of, the list is read until it shows all that we heard and the sending has had `settle_s` to show
up. What shows up twice is billed twice, and so it is booked. Where the service keeps no answers, or its list does not show those that
we did hear, what is unheard stays unknown, to be booked at its estimate: the books may then be above the bill, never below.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from trainables.openai_phases.answers import AnswerLog, Said
from trainables.openai_phases.follow import Service
from trainables.openai_phases.jsonl import Request
from trainables.openai_phases.pace import Time, Wait
from trainables.openai_phases.protocol import ATTEMPT
from trainables.openai_phases.wire import ChatAnswer, Missing
from tune.core.errors import FailTrial

ROW = "phasetune_row"  # the metadata key that tells which question a kept answer answers


class WaitedHere:
    """Seconds that the calling thread has waited, which are no part of a prediction."""

    def __init__(self, time: Time):
        self._time, self._here = time, threading.local()

    def add(self, wait: Wait) -> None:
        self._here.seconds = self.seconds + max(0.0, wait.until - self._time.now())

    @property
    def seconds(self) -> float:
        return float(getattr(self._here, "seconds", 0.0))


class ChatRound:
    """The questions of one evaluation. `key`: of the evaluation; `attempt`: the id that they all carry; `loading_s`: a model's."""

    def __init__(self, service: Service, log: AnswerLog, key: str, attempt: str, loading_s: float, waited: WaitedHere):
        self._service, self._log, self._key, self._attempt = service, log, key, attempt
        self._loading_s, self._waited = loading_s, waited
        self._pace, self._now = service.pace, service.pace.time.now
        self._keeps = service.wire.profile.keeps_answers

    def recover(self) -> None:
        """Adopt the answers of an earlier process, which may take `settle_s` after their sending to show up."""
        while self._keeps and (sent := [max(times) for row, times in self._log.unheard.items() if row not in self._log.said]):
            left_s = max(sent) + self._pace.settle_s - self._now()
            self._adopt(self._kept())
            if left_s <= 0:
                return
            if any(row not in self._log.said for row in self._log.unheard):
                self._wait(left_s)

    def ask(self, queue: Iterator[Request], n_at_once: int) -> None:
        """All of `queue`, `n_at_once` at a time. After a failure no more are sent; what comes is kept all the same."""
        begun_t = self._now()
        with ThreadPoolExecutor(n_at_once, "evaluation") as pool:
            under_way: set[Future[None]] = set()
            failure: BaseException | None = None
            while True:
                while failure is None and len(under_way) < n_at_once:
                    request = next(queue, None)
                    if request is None:
                        break
                    under_way.add(pool.submit(self._one, request, begun_t))
                if not under_way:
                    break
                done, under_way = wait(under_way, return_when=FIRST_COMPLETED)
                failure = failure or next((error for each in done if (error := each.exception()) is not None), None)
        if failure is not None:
            raise failure

    def close_books(self) -> None:
        """Settle what became of the sendings that are still unheard of."""
        while self._log.unheard:
            if not self._keeps:
                return self._log.settle(self._log.n_unheard)
            kept = self._kept()
            self._adopt(kept)
            if not self._log.unheard:
                return None
            known = self._log.ids
            believed = bool(known) and known <= {answer.id for answer in kept}
            last_t = max(map(max, self._log.unheard.values())) if believed else self._log.last_sent_t
            left_s = last_t + self._pace.settle_s - self._now()
            if left_s <= 0:
                return self._log.settle(0 if believed else self._log.n_unheard)
            self._wait(left_s)
        return None

    # --------------------------------------------------------------------------------------------------------------------------

    def _one(self, request: Request, begun_t: float) -> None:
        sent, waited = self._now(), self._waited.seconds
        question = _Question(self, request.row)
        answer = self._service.ask(
            f"{self._key} {request.custom_id}",
            request.model,
            request.messages,
            request.options,
            question,
            made_t=begun_t,
            loading_s=self._loading_s,
        )
        seconds = max(0.0, self._now() - sent - (self._waited.seconds - waited))
        self._log.answer(request.row, Said(answer.text, answer.usage, None if question.found else seconds, answer.id))

    def _kept(self, row: int | None = None) -> list[ChatAnswer]:
        """This evaluation's answers that the service has kept, as far as it lists them; of one row, or of all. Oldest first."""
        if not self._keeps:
            return []
        wanted = {ATTEMPT: self._attempt} | ({} if row is None else {ROW: str(row)})
        try:
            listed = self._pace.harmless(self._key, lambda: list(self._service.wire.answers(wanted)))
        except (Missing, FailTrial):  # it has no such list
            return []
        ours = [answer for answer in listed if wanted.items() <= answer.metadata.items() and answer.metadata.get(ROW, "").isdigit()]
        return sorted((answer for answer in ours if answer.usage.input_tokens), key=lambda answer: (answer.t, answer.id))

    def _adopt(self, kept: list[ChatAnswer]) -> None:
        """Write down what was not heard of."""
        known = self._log.ids
        for answer in kept:
            if answer.id not in known:
                self._log.answer(int(answer.metadata[ROW]), Said(answer.text, answer.usage, None, answer.id))

    def _wait(self, left_s: float) -> None:
        self._pace.wait(self._key, "settling", max(min(left_s, self._pace.settle_s / 4), 0.001))


class _Question:
    """The sendings of one row."""

    def __init__(self, of: ChatRound, row: int):
        self._of, self._row = of, row
        self.found = False

    @property
    def metadata(self) -> Mapping[str, str] | None:
        of = self._of
        return {ATTEMPT: of._attempt, ROW: str(self._row)} if of._keeps else None

    def begin(self) -> None:
        self._of._log.sending(self._row, self._of._now())

    def void(self) -> None:
        self._of._log.void(self._row)

    def look(self) -> ChatAnswer | None:
        kept = self._of._kept(self._row)
        self.found = bool(kept)
        return kept[0] if kept else None
