"""Where a trial of hosted phases is: a pure value that goes through the checkpoint, and the table of phases for people.

With the intent log and the answers on disk it is all that later steps need: the models themselves stay with the service.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from trainables.openai_phases.spec import OpenaiPhasesSpec
from trainables.phases.results import FILE, PhaseResult, picked
from trainables.phases.spec import Phase


@dataclass(frozen=True)
class HostedPhase:
    """A phase that is over. `model`: what answers for it. `ids`: job and files at the service, by what they are; none in phase 0.

    `working`: how the phase's dollars come about, a line a bill. `service_s`: from the job's creation to its end, by the service's clock.
    """

    result: PhaseResult
    model: str
    ids: Mapping[str, str] = field(default_factory=dict)
    working: tuple[str, ...] = ()
    service_s: float | None = None

    def row(self) -> dict[str, Any]:
        """A line of `phases.json`."""
        minutes = round(self.result.seconds / 60, 3)
        at_service = None if self.service_s is None else round(self.service_s / 60, 3)
        times = {"minutes": minutes, "service_minutes": at_service}
        return asdict(self.result) | times | {"model": self.model, **self.ids, "bill": "; ".join(self.working)}


@dataclass(frozen=True)
class Course:
    """`done`: phases that are over. `epochs_reported`: of the phase under way, with report: epoch."""

    done: tuple[HostedPhase, ...] = ()
    epochs_reported: int = 0

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(record: Mapping[str, Any]) -> Course:
        done = (
            HostedPhase(PhaseResult.from_json(d["result"]), d["model"], d["ids"], tuple(d["working"]), d["service_s"])
            for d in record["done"]
        )
        return Course(tuple(done), record["epochs_reported"])

    def is_over(self, spec: OpenaiPhasesSpec) -> bool:
        return len(self.done) == spec.n_phases

    def phase(self, spec: OpenaiPhasesSpec) -> Phase:
        """The phase that is next or under way."""
        return spec.phase_list[len(self.done)]

    def parent(self, spec: OpenaiPhasesSpec) -> str:
        """The model that the phase under way starts from: the base too where the phase before it trained nothing."""
        before = self.done[-1] if self.done else None
        if self.phase(spec).start == "base" or before is None or before.result.phase == 0:
            return spec.model
        return before.model

    def ended(self, phase: HostedPhase) -> Course:
        return replace(self, done=(*self.done, phase), epochs_reported=0)

    def picked(self, spec: OpenaiPhasesSpec) -> HostedPhase:
        """The phase whose model is the trial's."""
        best = picked([phase.result for phase in self.done], "last" if spec.phases is None else spec.phases.pick)
        return next(phase for phase in self.done if phase.result.phase == best.phase)


def write_phases(done: Sequence[HostedPhase], workdir: Path) -> None:
    """`phases.json` in `workdir`, whole or not there at all."""
    unfinished = workdir / f"{FILE}.part"
    unfinished.write_text(json.dumps([phase.row() for phase in done], indent=1, allow_nan=False))
    unfinished.replace(workdir / FILE)
