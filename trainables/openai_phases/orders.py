"""The order of a phase's job: its files, built and held against every published limit before anything is sent."""

from __future__ import annotations

from pathlib import Path

from trainables.data.sources import ImageTable
from trainables.openai_phases.jsonl import write_examples
from trainables.openai_phases.protocol import JobOrder
from trainables.openai_phases.purse import key_of
from trainables.openai_phases.spec import OpenaiPhasesSpec, job_suffix
from trainables.openai_phases.tokens import ImageRates, TextCounter
from trainables.openai_phases.validate import Use, check_file
from trainables.phases.blocks import Rows, draw_blocks, rows_of
from trainables.phases.spec import Phase
from tune.core.ports import Reporter


class Orders:
    """Of one trial."""

    def __init__(self, spec: OpenaiPhasesSpec, table: ImageTable, rates: ImageRates, counter: TextCounter, reporter: Reporter):
        self._spec, self._table, self._rates, self._counter, self._reporter = spec, table, rates, counter, reporter

    def rows(self, phase: Phase) -> Rows:
        """The training rows of a phase."""
        spec, table = self._spec, self._table
        train = table.split["train"]
        blocks = [] if spec.phases is None else draw_blocks(spec.phases, train, table.labels_N, table.ids, table.classes)
        return rows_of(phase, blocks, train)

    def job(self, phase: Phase, parent: str) -> JobOrder:
        """Of a job that starts from the model `parent`. Raises UserError or StopStudy for files that the service would refuse."""
        spec, folder, px = self._spec, self._reporter.workdir / "files", phase.resolution_px
        hyper = spec.hyperparameters.model_dump() | ({"n_epochs": phase.epochs} if spec.hyperparameters.n_epochs != "auto" else {})
        training = write_examples(spec, self._table, self.rows(phase), px, folder, key_of(phase)).path
        self._check(training, "training")
        validation = None
        if spec.validation_file:
            validation = write_examples(spec, self._table, self._table.split["val"], px, folder, f"validation-{px}").path
            self._check(validation, "validation")
        metadata = {"phasetune_trial": self._reporter.trial, "phasetune_phase": str(phase.number)}
        return JobOrder(parent, training, hyper, job_suffix(spec.profile.dialect, phase), self._reporter.seed, validation, metadata)

    def _check(self, path: Path, use: Use) -> None:
        profile = self._spec.profile
        check_file(path, use, profile.dialect, profile.limits_in_force, self._rates, self._counter)
