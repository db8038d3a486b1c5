"""One trial of a comparison: the recipe of its family, with the hours of a network's device charged in dollars as they pass."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from trainables.catalog import CATALOG, load
from trainables.comparison.price import usd_per_hour
from trainables.comparison.spec import KIND_OF, ComparisonSpec
from tune.core.ports import Answer, Decision, Outcome, Question, Reporter, Spend

_FILE = "device_usd.json"
_HOUR_S = 3600.0


def train(spec: ComparisonSpec, reporter: Reporter) -> Outcome:
    """The family's own recipe on the family's own spec."""
    recipe: Callable[[object, Reporter], Outcome] = load(CATALOG[KIND_OF[spec.model.family]].recipe)
    if spec.model.family == "hosted":
        return recipe(spec.chosen, reporter)
    priced = OnPricedDevice(reporter, usd_per_hour(spec))
    outcome = recipe(spec.chosen, priced)
    return priced.ended(outcome)


def after_stop(spec: ComparisonSpec, reporter: Reporter) -> None:
    """What the family has to do for a trial that was told to stop while its process was gone."""
    entry = CATALOG[KIND_OF[spec.model.family]]
    if entry.after_stop is not None:
        load(entry.after_stop)(spec.chosen, reporter)


class OnPricedDevice:
    """A reporter whose trial pays for the time it holds its devices: each worker's hour costs `price`.

    It adds `usd` to every report and tells the study what was spent, under a bill of this attempt's own, so that a trial that is
    killed goes on from what its checkpoint says it has cost. Of an attempt that dies, the time since its last report is not charged.
    """

    def __init__(self, reporter: Reporter, price: float, now: Callable[[], float] = time.monotonic):
        self._reporter, self._now = reporter, now
        self._usd_per_s = price * reporter.world_size / _HOUR_S
        self._bill = f"device-{uuid.uuid4().hex[:12]}"
        self._begun, self._before = now(), 0.0
        self.trial, self.seed, self.workdir, self.cache_dir = reporter.trial, reporter.seed, reporter.workdir, reporter.cache_dir
        self.rank, self.world_size, self.device = reporter.rank, reporter.world_size, reporter.device

    def resume_from(self) -> Path | None:
        folder = self._reporter.resume_from()
        if folder is not None and (folder / _FILE).exists():
            self._before = float(json.loads((folder / _FILE).read_text())["usd"])
        return folder

    def report(self, step: int, metrics: Mapping[str, float], save: Callable[[Path], None] | None = None) -> Decision:
        usd = self._charged()

        def save_both(folder: Path) -> None:
            if save is not None:
                save(folder)
            if self.rank == 0:
                (folder / _FILE).write_text(json.dumps({"usd": usd}))

        return self._reporter.report(step, {**metrics, "usd": usd}, None if save is None else save_both)

    def ask(self, question: Question) -> Answer:
        return self._reporter.ask(question)

    def ended(self, outcome: Outcome) -> Outcome:
        """With what the whole trial cost, if it has metrics at all."""
        usd = self._charged()
        return replace(outcome, metrics={**outcome.metrics, "usd": usd}) if outcome.metrics else outcome

    def _charged(self) -> float:
        """Dollars of the trial so far; those of this attempt are told."""
        own = (self._now() - self._begun) * self._usd_per_s
        if self.rank == 0 and own:
            self._reporter.ask(Spend("device", own, self._bill))
        return self._before + own
