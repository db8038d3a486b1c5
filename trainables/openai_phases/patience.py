"""Waiting of one trial: for turns and money of the study, and in the service's queues. The study hears of all of it, for people.

Waiting is counted apart (`waited_s`), since no budget of a trial's time counts it. Chat requests wait side by side, in threads of
their own; those are the examiner's.
"""

from __future__ import annotations

from collections.abc import Callable

from trainables.openai_phases.pace import Time, Wait
from tune.core import permits
from tune.core.ports import Answer, Await, Question, Use

PIECE_S = 30.0  # of a wait for a turn, after which the study is asked again: turns fall free
BRIEF_S = 5.0  # a shorter wait between two tries is nobody's concern
_IN_QUEUE = ("validating_files", "validating", "queued", "paused", "unknown")  # looked at every few seconds, for long
_AT_WORK = ("running", "cancelling", "model_loading", "in_progress", "finalizing")  # waits that are no queue


class Patience:
    """`service`: its name, for people. `waited_s`: since the phase began; the recipe sets it back."""

    def __init__(self, time: Time, ask: Callable[[Question], Answer], service: str):
        self._time, self._ask, self._service = time, ask, service
        self._told = ""
        self.waited_s = 0.0

    def until(self, asking: Callable[[], Answer]) -> Answer:
        """The first answer that is no Wait."""
        while isinstance(answer := asking(), permits.Wait):
            piece = max(0.05, min(answer.wait_s, PIECE_S))
            self.waited_s += piece
            self._time.sleep(piece)
        return answer

    def turn(self, what: str, amount: float = 1.0) -> None:
        """Until the study lets us. The ledger tells people who waits for what."""
        self.until(lambda: self._ask(Use(what, amount)))

    def hear(self, wait: Wait) -> None:
        """A wait at the service, before it."""
        if wait.reason in _AT_WORK:
            self.over()
            return
        seconds = wait.until - self._time.now()
        self.waited_s += seconds
        if seconds < BRIEF_S and wait.reason not in _IN_QUEUE:
            return
        what, why = f"{self._service}: {wait.reason}", wait.detail or wait.key
        if self._told != what + why:
            self._told = what + why
            self._ask(Await(what, wait.until, why))

    def over(self) -> None:
        """Nothing is waited for any more."""
        if self._told:
            self._told = ""
            self._ask(Await(""))
