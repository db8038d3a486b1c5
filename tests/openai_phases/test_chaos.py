"""The real program on a study of hosted phases, killed a few times under faults. For more: `python -m tests.openai_phases.chaos`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.openai_phases.chaos import KEY, chaos

pytestmark = pytest.mark.slow


def test_a_study_whose_driver_dies_pays_each_phase_once_and_its_books_are_the_bill(tmp_path: Path) -> None:
    """It also stops for want of credit, says what to do, and goes on when that is done. The key is nowhere in it."""
    (result,) = chaos(tmp_path, n_kills=2, seed=5, per_study=(2, 2))
    assert result.right, result
    assert (result.kills, result.jobs_paid, result.jobs_due) == (2, 4, 4)
    (said,) = result.stops
    assert "insufficient_quota" in said and "fix: add credit to the account of local or raise its limit, then resume" in said
    assert "go on with: " in said and KEY not in said
    study = tmp_path / "0" / "studies"
    assert [path for path in study.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()] == []
