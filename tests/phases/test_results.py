"""Names and table of what came of each phase."""

from __future__ import annotations

import json
from pathlib import Path

from trainables.phases.results import FILE, PhaseResult, phase_metrics, picked, write_table
from tune.core.metrics import Metric, MetricSet


def result(phase: int, f1: float) -> PhaseResult:
    return PhaseResult(phase, 200, 210, "previous", 3, 5, {"val/f1_weighted": f1, "test/accuracy": 0.8}, 12.5)


def test_what_a_report_at_a_phases_end_carries_is_promised() -> None:
    names = MetricSet(phase_metrics([Metric("val/f1_weighted", "share", "max"), Metric("test/accuracy", "share", "max")]))
    values = {"phase": 2.0, "resolution": 200.0, **result(2, 0.7).end_metrics()}
    assert names.validated(values, "test") == values
    assert values["phase_end/test/accuracy"] == 0.8 and values["phase_end/rows"] == 210 and values["phase_end/seconds"] == 12.5


def test_nothing_of_a_phases_end_can_be_an_objective() -> None:
    assert not any(metric.step_wise for metric in phase_metrics([Metric("test/accuracy", "share", "max")]))


def test_the_picked_phase_is_the_last_or_the_earlier_of_the_best() -> None:
    results = [result(1, 0.5), result(2, 0.9), result(3, 0.9), result(4, 0.8)]
    assert picked(results, "last").phase == 4
    assert picked(results, "best").phase == 2


def test_the_table_is_read_back_as_it_was(tmp_path: Path) -> None:
    results = [result(1, 0.5), result(2, 0.6)]
    write_table(results, tmp_path)
    rows = json.loads((tmp_path / FILE).read_text())
    assert [PhaseResult.from_json(row) for row in rows] == results
    assert set(rows[0]) == {"phase", "resolution", "rows", "start", "epochs", "kept_epoch", "metrics", "seconds"}
    assert [path.name for path in tmp_path.iterdir()] == [FILE]
