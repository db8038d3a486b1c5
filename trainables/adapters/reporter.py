"""The reporter that recipes get, in a worker group and in the foreground alike: checks metrics, keeps the checkpoint, asks on.

Where the report goes is a `Channel`'s business. All ranks leave `report` together, with the same decision or the same FailTrial:
a rank whose metrics are bad says so to the others before any of them saves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from trainables import catalog
from trainables.adapters import checkpoint
from trainables.adapters.order import Order
from tune.core.errors import FailTrial
from tune.core.ports import Answer, Decision, Question

Failure = tuple[str, str]  # reason, detail


class Channel(Protocol):
    """The way to the other ranks and to the search. Both calls raise FailTrial on every rank if any rank brings a failure."""

    def meet(self, what: str, failure: Failure | None) -> None:
        """Wait until every rank is here."""
        ...

    def report(self, step: int, metrics: Mapping[str, float], failure: Failure | None) -> Decision:
        """Wait until every rank is here, send rank 0's metrics, return the decision on them."""
        ...

    def ask(self, question: Question) -> Answer:
        """The study's answer to a question of this rank. Nobody else waits."""
        ...


class ChannelReporter:
    """`tune.core.ports.Reporter` over a channel."""

    def __init__(self, order: Order, channel: Channel, rank: int, world_size: int, device: str):
        self.trial, self.seed = order.trial, order.seed
        self.workdir, self.cache_dir = Path(order.workdir), Path(order.cache_dir)
        self.rank, self.world_size, self.device = rank, world_size, device
        self._recipe, self._promised = order.recipe, catalog.metrics_of(order.kind)
        self._channel = channel

    def resume_from(self) -> Path | None:
        return checkpoint.last(self.workdir)

    def report(self, step: int, metrics: Mapping[str, float], save: Callable[[Path], None] | None = None) -> Decision:
        checked: dict[str, float] = {}
        failure: Failure | None = None
        try:
            checked = self._promised.validated(metrics, self._recipe)
        except FailTrial as error:
            failure = error.reason, error.detail
        if save is not None:
            self._meet(f"before saving step {step}", failure)
            save(checkpoint.new(self.workdir))
            self._meet(f"after saving step {step}", None)
            if self.rank == 0:
                checkpoint.put_in_place(self.workdir, step, checked)
        return self._channel.report(step, checked, failure)

    def ask(self, question: Question) -> Answer:
        return self._channel.ask(question)

    def report_again(self) -> Decision:
        """Send the report that the last checkpoint was placed with: its first sending may have been cut. "continue" if none."""
        folder = self.resume_from()
        return "continue" if folder is None else self._channel.report(*checkpoint.reported(folder), None)

    def _meet(self, what: str, failure: Failure | None) -> None:
        if self.world_size > 1:
            self._channel.meet(what, failure)
        elif failure is not None:
            raise FailTrial(*failure)
