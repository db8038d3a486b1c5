"""Where a trial is in its phases: a pure value that goes through the checkpoint, with the engine's state all that later steps need.

A trial without `phases` is one phase on all rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from trainables.phases.results import PhaseResult, picked
from trainables.phases.spec import Phase
from trainables.progress import Progress
from trainables.timm_cnn.spec import TimmCnnSpec


@dataclass(frozen=True)
class Course:
    """`done`: phases that are over. `within`: epochs of the phase after them, which have taken `seconds` so far."""

    done: tuple[PhaseResult, ...] = ()
    within: Progress = field(default_factory=Progress)
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        return {"done": [asdict(result) for result in self.done], "within": self.within.to_json(), "seconds": self.seconds}

    @staticmethod
    def from_json(record: Mapping[str, Any]) -> Course:
        done = tuple(PhaseResult.from_json(result) for result in record["done"])
        return Course(done, Progress.from_json(record["within"]), record["seconds"])

    def is_over(self, spec: TimmCnnSpec) -> bool:
        return len(self.done) == spec.n_phases

    def phase(self, spec: TimmCnnSpec) -> Phase:
        """The phase that is next or under way."""
        return spec.phase_list[len(self.done)]

    def ended(self, result: PhaseResult) -> Course:
        """The course once the phase under way has given `result`."""
        return replace(self, done=(*self.done, result), within=Progress(), seconds=0.0)

    def needed_weights(self, spec: TimmCnnSpec) -> set[int]:
        """Global epochs whose kept weights something may still ask for."""
        epochs = {self.phase(spec).first_epoch + self.within.best_epoch} if self.within.best_epoch is not None else set()
        if self.done:
            epochs |= {result.kept_epoch for result in (self.done[-1], picked(self.done, _pick(spec))) if result.kept_epoch is not None}
        return epochs


def picked_phase(course: Course, spec: TimmCnnSpec) -> PhaseResult:
    """The phase whose model is the trial's."""
    return picked(course.done, _pick(spec))


def phase_spec(spec: TimmCnnSpec, phase: Phase) -> TimmCnnSpec:
    """The spec of one phase as if it were a trial of its own."""
    return spec.model_copy(update={"epochs": phase.epochs, "image_size": phase.resolution_px, "phases": None})


def _pick(spec: TimmCnnSpec) -> Any:
    return "last" if spec.phases is None else spec.phases.pick
